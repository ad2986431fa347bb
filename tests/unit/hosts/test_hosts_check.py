from __future__ import annotations

import importlib.metadata
import json
import re
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tasks.hosts.errors import HostError, HostUnreachable, HostUserError
from tasks.hosts.host import CommandResult, RemotePlace
from tasks.hosts.preflight import Finding, HostReport, Verdict, check_host
from tests.fakes.local_host import LocalHost, OnlyAsked

PROGRAMS: dict[str, object] = {
    "python_version": [3, 12, 1],
    "python": "/usr/bin/python3",
    "torch_version": "2.4.1+cu121",
    "numpy_version": "2.1.0",
    "torch_devices": ["NVIDIA L4"],
}
PLACE = RemotePlace(".", "the-python", 60)
ON_GPU = replace(PLACE, device="cuda")
NO_TORCH = {"torch_version": None, "torch_devices": None}


@dataclass
class AnsweringHost(OnlyAsked):
    """A host that has everything, but for what a test changes."""

    programs: dict[str, object] = field(default_factory=dict)
    gpus: str = "NVIDIA L4, 550.54, 23034, 22000"
    lacks: str = ""
    free_kib: int = 50 * 2**20
    offset_s: float = 0.0
    problem: HostError | None = None
    name: str = "gpu"

    def run(self, command: str, *, timeout_s: float, stdin: bytes = b"", check: bool = True) -> CommandResult:
        if self.problem is not None:
            raise self.problem
        if not command.startswith("# jade: check host:"):
            clock = int(time.time() + self.offset_s)
            looked = f"{self.lacks}\nfree {self.free_kib} /home/ci\nclock {clock}\n"
            return CommandResult(command, 0, looked.encode(), "")
        if "nvidia-smi" in command:
            return CommandResult(command, 0, self.gpus.encode(), "")
        return CommandResult(command, 0, json.dumps(PROGRAMS | self.programs).encode(), "")


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


def subjects(report: HostReport, verdict: Verdict) -> list[str]:
    return [row.subject for row in report.findings if row.verdict is verdict]


def row_of(report: HostReport, subject: str) -> Finding:
    (row,) = [row for row in report.findings if row.subject == subject]
    return row


def test_a_host_with_everything_is_ready() -> None:
    report = check_host(AnsweringHost(), ON_GPU)
    assert report.problems == []
    assert subjects(report, Verdict.WARNING) == []


@pytest.mark.parametrize(
    ("change", "subject"),
    [
        ({"programs": {"python_version": [3, 10, 14]}}, "Python"),
        ({"programs": {"python_version": None}}, "Python"),
        ({"programs": {"torch_version": "2.3.1"}}, "torch"),
        ({"programs": NO_TORCH | {"torch_problem": "ModuleNotFoundError: no torch"}}, "torch"),
        ({"programs": {"numpy_version": None}}, "numpy"),
        ({"programs": {"torch_devices": []}}, "torch sees"),
        ({"programs": NO_TORCH | {"torch_problem": "OSError: libcudnn.so.9: cannot open"}}, "torch"),
        ({"free_kib": 2**20}, "disk"),
        ({"lacks": "readonly /"}, "disk"),
        ({"lacks": "lacks setsid"}, "tools"),
    ],
)
def test_what_is_missing_is_a_problem_with_advice(change: dict[str, Any], subject: str) -> None:
    report = check_host(AnsweringHost(**change), ON_GPU)
    assert [row.subject for row in report.problems] == [subject]
    assert all(row.advice for row in report.problems)


def test_a_host_without_gpu_will_do_where_none_is_needed() -> None:
    report = check_host(AnsweringHost({"torch_devices": []}, gpus=""), PLACE)
    assert report.problems == []
    assert subjects(report, Verdict.WARNING) == ["GPU"]


def test_a_clock_that_is_an_hour_off_is_a_warning_only() -> None:
    report = check_host(AnsweringHost(offset_s=-3600.0), ON_GPU)
    assert report.problems == []
    assert subjects(report, Verdict.WARNING) == ["clock"]
    assert re.match(r"-3(599|60\d) s from ours", row_of(report, "clock").found)


@pytest.mark.parametrize("error", [HostUnreachable("h", 30.0, 4, "refused"), HostUserError("its key is unknown")])
def test_a_host_that_cannot_be_asked_says_why(error: HostError) -> None:
    report = check_host(AnsweringHost(problem=error), PLACE)
    (row,) = report.findings
    assert report.problem is error
    assert row.verdict is Verdict.PROBLEM
    assert row.advice == str(error)


def test_what_the_host_says_is_read(tmp_path: Path, programs: Path) -> None:
    write_program(programs, "nvidia-smi", "echo 'NVIDIA A100, 80GB, 1, 2, 3'; echo 'NVIDIA L4, 550.54, 23034, 22000'")
    answer = json.dumps(PROGRAMS | {"cuda": True})
    greeting = "echo 'a library greets'"
    write_program(programs, "the-python", f"{greeting}; echo '{answer}'; echo 'and says goodbye'; exit 1")
    report = check_host(LocalHost(tmp_path / "host"), replace(ON_GPU, folder="not/there"))
    assert row_of(report, "GPU").found == "NVIDIA L4, 22000 of 23034 MiB free, driver 550.54"
    assert row_of(report, "Python").found == "3.12.1 (/usr/bin/python3)"
    assert row_of(report, "torch").found == "2.4.1+cu121"
    assert row_of(report, "torch sees").found == "NVIDIA L4"
    assert row_of(report, "clock").verdict is Verdict.OK
    assert re.fullmatch(r"\d+\.\d GiB free", row_of(report, "disk").found)
    assert not (tmp_path / "host" / "not").exists(), "a check changes nothing"


def test_a_folder_that_cannot_be_made_is_a_problem_that_names_what_is_in_its_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    report = check_host(LocalHost(tmp_path), replace(PLACE, folder=f"{tmp_path}/file/jade"))
    assert row_of(report, "disk").found == "not writable"
    assert f"make files in {tmp_path}/file:" in row_of(report, "disk").advice


def test_a_quick_look_imports_nothing_and_leaves_open_what_torch_sees(tmp_path: Path, programs: Path) -> None:
    write_program(programs, "the-python", f'exec {sys.executable} -X importtime "$@" 2> {tmp_path}/imported')
    write_program(programs, "nvidia-smi", "echo 'NVIDIA L4, 550.54, 23034, 22000'")
    report = check_host(LocalHost(tmp_path), ON_GPU, is_quick=True, min_free_bytes=0)
    assert row_of(report, "torch").found == importlib.metadata.version("torch")
    assert row_of(report, "numpy").found == importlib.metadata.version("numpy")
    assert report.problems == []
    assert "torch sees" not in [row.subject for row in report.findings]
    assert "json" in (tmp_path / "imported").read_text()
    assert "numpy" not in (tmp_path / "imported").read_text()


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
    report = check_host(LocalHost(tmp_path), PLACE, min_free_bytes=0)
    assert report.problem is None
    (row,) = report.problems
    assert row.subject == "Python"
    assert re.search(said, row.found)
    assert not report.can_bootstrap


def test_a_python_that_may_not_be_executed_is_told(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("")
    report = check_host(LocalHost(tmp_path), replace(PLACE, python=str(tmp_path / "python")))
    assert f"{tmp_path}/python: " in row_of(report, "Python").found
    assert "Permission denied" in row_of(report, "Python").found


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
    devices: list[str] | None
    for devices, verdict in ((["AMD MI300X"], Verdict.OK), (None, Verdict.WARNING), ([], Verdict.PROBLEM)):
        write_program(programs, "the-python", f"echo '{json.dumps(PROGRAMS | {'torch_devices': devices})}'")
        row = row_of(check_host(LocalHost(tmp_path), ON_GPU), "GPU")
        assert shown in row.found
        assert row.verdict is (Verdict.OK if program and "GB10" in program else verdict)


@pytest.mark.parametrize(
    ("change", "can"),
    [
        ({"programs": NO_TORCH | {"torch_problem": "ModuleNotFoundError: No module named 'torch'"}}, True),
        ({"programs": {"torch_version": "2.3.1"}}, True),
        ({"programs": {"numpy_version": None}}, True),
        ({"programs": NO_TORCH | {"torch_problem": "OSError: libcudnn.so.9: cannot open"}}, False),
        ({"programs": NO_TORCH | {"python_version": [3, 9, 2]}}, False),
        ({"programs": NO_TORCH | {"python_version": None}}, False),
        ({"programs": {"torch_devices": []}}, False),
        ({"free_kib": 0}, False),
    ],
)
def test_a_bootstrap_is_offered_for_what_it_can_mend_only(change: dict[str, Any], can: bool) -> None:
    report = check_host(AnsweringHost(**change), ON_GPU)
    assert report.can_bootstrap is can
    assert any("--bootstrap" in row.advice for row in report.findings) is can
