from __future__ import annotations

import importlib.metadata
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.hosts.errors import HostUnreachable, HostUserError
from tasks.hosts.preflight import Gpu, HostReport, Verdict, check_host
from tests.fakes.local_host import LocalHost

READY = HostReport(
    "gpu",
    host_key="SHA256:x",
    gpus=(Gpu("NVIDIA L4", "550.54", 23034, 22000),),
    python_version=(3, 12, 1),
    python="/usr/bin/python3",
    torch_version="2.4.1+cu121",
    numpy_version="2.1.0",
    torch_devices=("NVIDIA L4",),
    free_bytes=50 * 2**30,
    clock_offset_s=0.4,
)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


def write_program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def subjects(report: HostReport, verdict: Verdict, *, needs_gpu: bool = True) -> list[str]:
    return [row.subject for row in report.findings(needs_gpu=needs_gpu) if row.verdict is verdict]


def test_a_host_with_everything_is_ready() -> None:
    assert READY.is_ready(needs_gpu=True)
    assert subjects(READY, Verdict.WARNING) == []


@pytest.mark.parametrize(
    ("change", "subject"),
    [
        ({"gpus": ()}, "GPU"),
        ({"python_version": (3, 10, 14)}, "Python"),
        ({"python_version": None}, "Python"),
        ({"torch_version": "2.3.1"}, "torch"),
        ({"torch_version": None, "torch_problem": "ModuleNotFoundError: no torch"}, "torch"),
        ({"numpy_version": None}, "numpy"),
        ({"torch_devices": ()}, "torch sees"),
        ({"free_bytes": 2**30}, "disk"),
        ({"is_writable": False}, "disk"),
        ({"missing_tools": ("setsid",)}, "tools"),
    ],
)
def test_what_is_missing_is_a_problem_with_advice(change: dict[str, object], subject: str) -> None:
    report = replace(READY, **change)  # type: ignore[arg-type]
    assert subjects(report, Verdict.PROBLEM) == [subject]
    assert not report.is_ready(needs_gpu=True)
    assert all(row.advice for row in report.findings(needs_gpu=True) if row.verdict is Verdict.PROBLEM)


def test_a_host_without_gpu_will_do_where_none_is_needed() -> None:
    report = replace(READY, gpus=(), torch_devices=())
    assert report.is_ready(needs_gpu=False)
    assert subjects(report, Verdict.WARNING, needs_gpu=False) == ["GPU"]


def test_a_clock_that_is_an_hour_off_is_a_warning_only() -> None:
    report = replace(READY, clock_offset_s=-3600.0)
    assert report.is_ready(needs_gpu=True)
    assert subjects(report, Verdict.WARNING) == ["clock"]


@pytest.mark.parametrize("error", [HostUnreachable("h", 30.0, 4, "refused"), HostUserError("its key is unknown")])
def test_a_host_that_cannot_be_asked_says_why(error: HostUnreachable | HostUserError) -> None:
    (row,) = HostReport("h", problem=error).findings(needs_gpu=False)
    assert row.verdict is Verdict.PROBLEM
    assert row.advice == str(error)


def test_what_the_host_says_is_read(tmp_path: Path, programs: Path) -> None:
    write_program(programs, "nvidia-smi", "echo 'NVIDIA A100, 80GB, 1, 2, 3'; echo 'NVIDIA L4, 550.54, 23034, 22000'")
    answer = (
        '{"version": [3, 11, 9], "executable": "/opt/python", "numpy": "2.1.0", '
        '"torch": "2.5.0", "cuda": true, "devices": ["NVIDIA L4"]}'
    )
    write_program(programs, "the-python", f"echo 'a library greets'; echo '{answer}'")
    write_program(programs, "date", "echo 1000000")
    report = check_host(
        LocalHost(tmp_path / "host"), folder="not/there", python="the-python", clock=lambda: 1_000_100.5
    )
    assert report.gpus == (Gpu("NVIDIA L4", "550.54", 23034, 22000),)
    assert (report.python_version, report.python) == ((3, 11, 9), "/opt/python")
    assert (report.torch_version, report.torch_devices) == ("2.5.0", ("NVIDIA L4",))
    assert report.clock_offset_s == -100.0
    assert report.free_bytes is not None
    assert report.is_writable
    assert not (tmp_path / "host" / "not").exists(), "a check changes nothing"


def test_a_quick_look_imports_nothing_and_leaves_open_what_torch_sees(tmp_path: Path, programs: Path) -> None:
    write_program(programs, "the-python", f'exec {sys.executable} -X importtime "$@" 2> {tmp_path}/imported')
    report = check_host(LocalHost(tmp_path), python="the-python", is_quick=True)
    assert report.torch_version == importlib.metadata.version("torch")
    assert report.numpy_version == importlib.metadata.version("numpy")
    assert report.torch_devices is None
    assert "json" in (tmp_path / "imported").read_text()
    assert "numpy" not in (tmp_path / "imported").read_text()
    assert replace(report, gpus=READY.gpus).is_ready(needs_gpu=True, min_free_bytes=0)


def test_a_host_without_python_is_told(tmp_path: Path) -> None:
    report = check_host(LocalHost(tmp_path), python="no-such-python")
    assert report.problem is None
    assert "Python" in subjects(report, Verdict.PROBLEM)
