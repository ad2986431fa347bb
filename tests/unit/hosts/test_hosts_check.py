from __future__ import annotations

import importlib.metadata
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.hosts.errors import HostUnreachable, HostUserError
from tasks.hosts.preflight import HostReport, Verdict, check_host
from tests.fakes.local_host import LocalHost

READY = HostReport(
    "gpu",
    host_key="SHA256:x",
    gpus=("NVIDIA L4, 22000 of 23034 MiB free, driver 550.54",),
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
        ({"python_version": (3, 10, 14)}, "Python"),
        ({"python_version": None}, "Python"),
        ({"torch_version": "2.3.1"}, "torch"),
        ({"torch_version": None, "torch_problem": "ModuleNotFoundError: no torch"}, "torch"),
        ({"numpy_version": None}, "numpy"),
        ({"torch_devices": ()}, "torch sees"),
        ({"torch_version": None, "torch_problem": "OSError: libcudnn.so.9: cannot open"}, "torch"),
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
    greeting = "echo 'a library greets'"
    write_program(programs, "the-python", f"{greeting}; echo '{answer}'; echo 'and says goodbye'; exit 1")
    write_program(programs, "date", "echo 1000000")
    report = check_host(
        LocalHost(tmp_path / "host"), folder="not/there", python="the-python", clock=lambda: 1_000_100.5
    )
    assert report.gpus == READY.gpus
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


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (None, "the-python: .*not found"),
        ("echo 'Fatal Python error: no module named encodings' >&2; exit 1", "the-python: Fatal Python error"),
        ("exit 3", "the-python: ended with 3"),
        ("echo hello", "the-python: it ended without an answer"),
    ],
)
def test_a_python_that_does_not_run_is_told_with_its_path_and_its_words(
    tmp_path: Path, programs: Path, program: str | None, said: str
) -> None:
    if program is not None:
        write_program(programs, "the-python", program)
    report = check_host(LocalHost(tmp_path), python="the-python")
    assert report.problem is None
    (row,) = [row for row in report.findings(needs_gpu=False) if row.verdict is Verdict.PROBLEM]
    assert row.subject == "Python"
    assert re.search(said, row.found)
    assert not report.can_bootstrap


def test_a_python_that_may_not_be_executed_is_told(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("")
    report = check_host(LocalHost(tmp_path), python=str(tmp_path / "python"))
    assert f"{tmp_path}/python: " in report.python_problem
    assert "Permission denied" in report.python_problem


@pytest.mark.parametrize(
    ("program", "shown"),
    [
        ("echo 'NVIDIA GB10, 580.82, [N/A], [N/A]'", "NVIDIA GB10, memory unknown, driver 580.82"),
        ("echo 'NVIDIA-SMI has failed: no driver'; exit 9", "NVIDIA-SMI has failed: no driver"),
        ("echo 'Failed to initialize NVML: Driver/library version mismatch' >&2; exit 18", "version mismatch"),
        ("echo 'No devices were found'", "nvidia-smi lists none"),
        (None, "nvidia-smi is not there"),
        ("exec sleep 60", "nvidia-smi did not answer within 1 s"),
    ],
)
def test_torch_decides_whether_there_is_a_gpu_and_nvidia_smi_is_quoted(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch, program: str | None, shown: str
) -> None:
    if program == "exec sleep 60":
        monkeypatch.setattr("tasks.hosts.preflight.GPU_CALL_S", 1)
    if program is not None:
        write_program(programs, "nvidia-smi", program)
    found = check_host(LocalHost(tmp_path), python="none")
    for devices, verdict in ((("AMD MI300X",), Verdict.OK), (None, Verdict.WARNING), ((), Verdict.PROBLEM)):
        report = replace(READY, gpus=found.gpus, gpu_problem=found.gpu_problem, torch_devices=devices)
        (row,) = [row for row in report.findings(needs_gpu=True) if row.subject == "GPU"]
        assert shown in row.found
        assert row.verdict is (Verdict.OK if found.gpus else verdict)


@pytest.mark.parametrize(
    ("change", "can"),
    [
        ({"torch_version": None, "torch_problem": "ModuleNotFoundError: No module named 'torch'"}, True),
        ({"torch_version": "2.3.1"}, True),
        ({"numpy_version": None}, True),
        ({"torch_version": None, "torch_problem": "OSError: libcudnn.so.9: cannot open"}, False),
        ({"torch_version": None, "python_version": (3, 9, 2)}, False),
        ({"torch_version": None, "python_version": None}, False),
        ({"torch_devices": ()}, False),
        ({"free_bytes": 0}, False),
    ],
)
def test_a_bootstrap_is_offered_for_what_it_can_mend_only(change: dict[str, object], can: bool) -> None:
    report = replace(READY, **change)  # type: ignore[arg-type]
    assert report.can_bootstrap is can
    assert any("--bootstrap" in row.advice for row in report.findings(needs_gpu=True)) is can
