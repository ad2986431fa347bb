"""What a host has, and whether that is enough to train on it."""

from __future__ import annotations

import enum
import json
import re
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tasks.core.errors import HostNotReady
from tasks.hosts.errors import CommandTimedOut, HostError
from tasks.hosts.host import Host, RemotePlace
from tasks.hosts.shell import assigned

MIN_PYTHON = (3, 11)
MIN_TORCH = (2, 4)
MIN_FREE_BYTES = 5 * 2**30
"""That a person is told to have; a run begins with `_LEAST_FREE_BYTES`."""
_LEAST_FREE_BYTES = 2**30
_INSTALL_S = 3600.0
MAX_CLOCK_OFFSET_S = 60.0
GPU_CALL_S = 30.0
_TOOLS = ("tar", "tail", "head", "grep", "sed", "find", "cut", "setsid", "sha256sum")

_PYTHON = """
import importlib, importlib.metadata, json, sys
is_quick = sys.argv[1:] == ["quick"]
found = {"version": list(sys.version_info[:3]), "executable": sys.executable}
for name in ("numpy", "torch"):
    try:
        if is_quick:
            found[name] = importlib.metadata.version(name)
            continue
    except importlib.metadata.PackageNotFoundError:
        pass
    try:
        found[name] = importlib.import_module(name).__version__
    except Exception as error:
        found[name + "_problem"] = f"{type(error).__name__}: {error}"
if "torch" in found and not is_quick:
    import torch
    try:
        devices = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
        found["devices"] = [torch.cuda.get_device_name(i) for i in devices]
    except Exception as error:
        found["devices"] = []
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
print("\\n" + json.dumps(found), flush=True)
"""

# The clock comes last: what an account's start-up files take is over by then.
_LOOK = """
for tool in $tools; do command -v "$tool" >/dev/null 2>&1 || echo "lacks $tool"; done
while [ ! -d "$folder" ]; do
  case $folder in */*) folder=${folder%/*}; folder=${folder:-/} ;; *) folder=. ;; esac
done
df -Pk -- "$folder" | { read -r header; read -r device total used free rest; echo "free $free"; }
[ -w "$folder" ] || echo "readonly $folder"
echo "clock $(date +%s)"
"""

_GPUS = """
command -v nvidia-smi >/dev/null 2>&1 || { echo 'nvidia-smi is not there'; exit 3; }
exec nvidia-smi --query-gpu=name,driver_version,memory.total,memory.free --format=csv,noheader,nounits
"""

_BOOTSTRAP = """
mkdir -p -- "$folder" && cd -- "$folder" || exit 1
"$python" -m venv --system-site-packages venv >&2 || exit 1
venv/bin/python -m pip install --quiet 'numpy>=1.26' 'torch>=2.4' >&2 || exit 1
echo "$PWD/venv/bin/python"
"""


class Verdict(enum.Enum):
    """What a finding means for training."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One row of the table that `jade hosts check` shows.

    Attributes:
        subject: What was looked at.
        found: What was found.
        verdict: Whether that will do.
        advice: What to do about it; empty if nothing.
    """

    subject: str
    found: str
    verdict: Verdict = Verdict.OK
    advice: str = ""


@dataclass(frozen=True)
class HostReport:
    """What was found on a host; None where it could not be found out.

    Attributes:
        host: Its name.
        problem: Why nothing else is known: the error that came instead of an answer.
        host_key: Fingerprint of the key that it proved; None for this machine.
        gpus: What nvidia-smi lists, a line each.
        gpu_problem: What nvidia-smi, or the lack of it, says instead.
        python_version: Of the program asked for.
        python: Where that is.
        python_problem: What came instead of an answer of its.
        torch_version: As torch says.
        torch_problem: Why it could not be imported.
        numpy_version: As numpy says.
        torch_devices: The GPUs that torch sees; None if it was not asked.
        torch_said: What torch wrote while it was asked.
        free_bytes: On the disk of the folder asked for.
        is_writable: Whether the account may write there.
        clock_offset_s: The host's clock less ours, to a second.
        missing_tools: Programs that the protocol needs and that are not there.
    """

    host: str
    problem: HostError | None = None
    host_key: str | None = None
    gpus: tuple[str, ...] = ()
    gpu_problem: str = ""
    python_version: tuple[int, ...] | None = None
    python: str | None = None
    python_problem: str = ""
    torch_version: str | None = None
    torch_problem: str | None = None
    numpy_version: str | None = None
    torch_devices: tuple[str, ...] | None = None
    torch_said: str = ""
    free_bytes: int | None = None
    is_writable: bool = True
    clock_offset_s: float | None = None
    missing_tools: tuple[str, ...] = ()

    @property
    def can_bootstrap(self) -> bool:
        """Whether installing torch and numpy with pip would mend something: they are missing or too old, not broken."""
        if self.python_version is None or self.python_version[:2] < MIN_PYTHON:
            return False
        if self.torch_version is None:
            return self.torch_problem is None or "No module named 'torch'" in self.torch_problem
        return _leading_numbers(self.torch_version) < MIN_TORCH or self.numpy_version is None

    def findings(self, *, needs_gpu: bool, min_free_bytes: int = MIN_FREE_BYTES) -> tuple[Finding, ...]:
        """The table, in the order in which things go wrong."""
        if self.problem is not None:
            return (Finding("reachable", "no", Verdict.PROBLEM, str(self.problem)),)
        install = "Install them: Debian has them in coreutils, util-linux, grep, sed, findutils and tar."
        tools = f"no {', '.join(self.missing_tools)}" if self.missing_tools else "all there"
        return (
            Finding("reachable", "yes"),
            *([Finding("host key", self.host_key)] if self.host_key is not None else []),
            _judged("tools", tools, install if self.missing_tools else ""),
            self._gpu(needs_gpu=needs_gpu),
            *self._python(),
            *self._devices(needs_gpu=needs_gpu),
            self._disk(min_free_bytes),
            self._clock(),
        )

    def is_ready(self, *, needs_gpu: bool, min_free_bytes: int = MIN_FREE_BYTES) -> bool:
        """Whether nothing that was found hinders training."""
        found = self.findings(needs_gpu=needs_gpu, min_free_bytes=min_free_bytes)
        return all(finding.verdict is not Verdict.PROBLEM for finding in found)

    def _gpu(self, *, needs_gpu: bool) -> Finding:
        """What nvidia-smi says; whether there is a GPU to train on is for torch to say."""
        found = "; ".join(self.gpus) or self.gpu_problem or "nvidia-smi lists none"
        if self.gpus or self.torch_devices:
            return Finding("GPU", found)
        if not needs_gpu:
            return Finding("GPU", f"none ({found}): training runs on the CPU", Verdict.WARNING)
        if self.torch_devices is None:
            return Finding("GPU", f"unknown ({found})", Verdict.WARNING, "torch decides once it is asked.")
        return Finding("GPU", f"none ({found})", Verdict.PROBLEM, "Mend its driver, or train on another host.")

    def _python(self) -> list[Finding]:
        wanted = ".".join(map(str, MIN_PYTHON))
        if self.python_version is None:
            advice = f"Name a Python {wanted} or newer that runs there: `jade hosts add ... --python FILE --replace`."
            return [Finding("Python", self.python_problem or "no answer", Verdict.PROBLEM, advice)]
        shown = f"{'.'.join(map(str, self.python_version))} ({self.python})"
        if self.python_version[:2] < MIN_PYTHON:
            return [Finding("Python", shown, Verdict.PROBLEM, f"Too old: {wanted} or newer is needed.")]
        advice = "Run `jade hosts check --bootstrap`, which installs torch and numpy there."
        if not self.can_bootstrap:
            advice = "It is there, but broken: install it anew for this Python."
        is_old = self.torch_version is not None and _leading_numbers(self.torch_version) < MIN_TORCH
        torch = self.torch_version or self.torch_problem or "none"
        return [
            Finding("Python", shown),
            _judged("numpy", self.numpy_version or "none", "" if self.numpy_version else advice),
            _judged("torch", torch, f"Too old. {advice}" if is_old else "" if self.torch_version else advice),
        ]

    def _devices(self, *, needs_gpu: bool) -> list[Finding]:
        if self.torch_devices:
            return [Finding("torch sees", ", ".join(self.torch_devices))]
        if self.torch_devices is None or not (needs_gpu or self.gpus):
            return []
        verdict = Verdict.PROBLEM if needs_gpu else Verdict.WARNING
        advice = self.torch_said or "This torch has no CUDA, or the driver is older than it wants."
        return [Finding("torch sees", "no GPU", verdict, advice)]

    def _disk(self, min_free_bytes: int) -> Finding:
        if not self.is_writable:
            return Finding("disk", "not writable", Verdict.PROBLEM, "Choose another folder or account.")
        if self.free_bytes is None:
            return Finding("disk", "unknown", Verdict.WARNING, "df gave no answer.")
        wanted = f"At least {min_free_bytes / 2**30:.1f} GiB are needed."
        shown = f"{self.free_bytes / 2**30:.1f} GiB free"
        return _judged("disk", shown, wanted if self.free_bytes < min_free_bytes else "")

    def _clock(self) -> Finding:
        if self.clock_offset_s is None:
            return Finding("clock", "unknown", Verdict.WARNING)
        shown = f"{self.clock_offset_s:+.0f} s from ours"
        if abs(self.clock_offset_s) <= MAX_CLOCK_OFFSET_S:
            return Finding("clock", shown)
        return Finding("clock", shown, Verdict.WARNING, "Harmless to jobs; file times will look odd.")


def _judged(subject: str, found: str, advice: str) -> Finding:
    """A finding that is a problem where there is advice."""
    return Finding(subject, found, Verdict.PROBLEM if advice else Verdict.OK, advice)


def check_host(
    host: Host,
    *,
    folder: str = ".",
    python: str = "python3",
    timeout_s: float = 120.0,
    is_quick: bool = False,
    clock: Callable[[], float] = time.time,
) -> HostReport:
    """Look a host over, changing nothing there. Errors become part of the report.

    Args:
        host: Which.
        folder: Where jobs and data will go; need not be there yet.
        python: The program to train with.
        timeout_s: Importing torch from a cold disk takes its time.
        is_quick: Ask for the versions of torch and numpy without importing them, which takes seconds.
        clock: Ours, seconds since 1970.
    """
    try:
        values = assigned(tools=" ".join(_TOOLS), folder=folder)
        text = host.run(f"# jade: check host\nexport LC_ALL=C\n{values}{_LOOK}", timeout_s=timeout_s).text
        now = clock()
        gpus, gpu_problem, _ = _ask(host, f"nvidia-smi{_GPUS}", min(timeout_s, GPU_CALL_S))
        command = shlex.join([python, "-c", _PYTHON, "quick" if is_quick else ""])
        told, python_problem, said = _ask(host, f"{python}\nexec {command}", timeout_s)
    except HostError as problem:
        return HostReport(host.name, problem=problem)
    answers: dict[str, list[str]] = {}
    for line in text.splitlines():
        subject, _, value = line.partition(" ")
        answers.setdefault(subject, []).append(value)
    programs = next((found for line in told.splitlines() if (found := _programs(line))), {})
    version = programs.get("version")
    return HostReport(
        host.name,
        host_key=getattr(host, "host_key_fingerprint", None),
        gpus=tuple(_shown_gpu(line) for line in gpus.splitlines() if line.count(",") == 3),
        gpu_problem=gpu_problem,
        python_version=tuple(map(int, version)) if isinstance(version, list) else None,
        python=programs.get("executable"),
        python_problem=f"{python}: {python_problem or said or 'it ended without an answer'}",
        torch_version=programs.get("torch"),
        torch_problem=programs.get("torch_problem"),
        numpy_version=programs.get("numpy"),
        torch_devices=tuple(map(str, programs["devices"])) if "devices" in programs else None,
        torch_said=said,
        free_bytes=int(answers["free"][0]) * 1024 if answers.get("free", [""])[0].isdigit() else None,
        is_writable="readonly" not in answers,
        clock_offset_s=int(answers["clock"][0]) + 0.5 - now if "clock" in answers else None,
        missing_tools=tuple(answers.get("lacks", [])),
    )


def _ask(host: Host, script: str, timeout_s: float) -> tuple[str, str, str]:
    """What a program of the host answers, how it failed, if it did, and the end of its standard error."""
    program = script.partition("\n")[0]
    try:
        result = host.run(f"# jade: check host: {script}", timeout_s=timeout_s, check=False)
    except CommandTimedOut:
        return "", f"{program} did not answer within {timeout_s:g} s", ""
    said = "; ".join(line.strip() for line in result.stderr.splitlines()[-2:])
    if result.exit_status == 0:
        return result.text, "", said
    return result.text, said or "; ".join(result.text.splitlines()[:2]) or f"ended with {result.exit_status}", said


def _shown_gpu(line: str) -> str:
    """A line of nvidia-smi's for people; drivers give `[N/A]` for what they do not know, such as shared memory."""
    name, driver, total, free = (field.strip() for field in line.split(","))
    memory = f"{free} of {total} MiB free" if total.isdigit() and free.isdigit() else "memory unknown"
    return f"{name}, {memory}, driver {driver}"


def _programs(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line.removeprefix("python "))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _leading_numbers(version: str) -> tuple[int, ...]:
    """(2, 4) of `2.4.1+cu121`."""
    return tuple(int("".join(re.findall(r"\d", part)) or 0) for part in version.partition("+")[0].split(".")[:2])


def check_ready(host: Host, place: RemotePlace, *, device: str, is_quick: bool = False) -> None:
    """Look over whether a host can train.

    Args:
        host: Which.
        place: How it is used.
        device: Where it is to train there.
        is_quick: As in `check_host`.

    Raises:
        HostError: It cannot be reached or used at all.
        HostNotReady: Something is missing there; the message names all of it and what to do.
    """
    report = check_host(host, folder=place.folder, python=place.python, is_quick=is_quick)
    if report.problem is not None:
        raise report.problem
    findings = report.findings(needs_gpu=device != "cpu", min_free_bytes=_LEAST_FREE_BYTES)
    problems = [finding for finding in findings if finding.verdict is Verdict.PROBLEM]
    if not problems:
        return
    if place.provider:
        # Nobody repairs a machine that goes back in a minute: what it is made of can be changed.
        listed = "; ".join(f"{item.subject}: {item.found}" for item in problems)
        advice = (
            f"What its machines are made of stands in [{place.provider}] of jade.toml: `image` with Python "
            f"{'.'.join(map(str, MIN_PYTHON))}+, torch {'.'.join(map(str, MIN_TORCH))}+ and numpy, the `python` that "
            "has them, `disk_gb`; or name another --gpu."
        )
    else:
        listed = "; ".join(f"{item.subject}: {item.found} ({item.advice})" for item in problems)
        advice = (
            f"`jade hosts check {host.name} --bootstrap` installs torch and numpy there."
            if report.can_bootstrap
            else f"`jade hosts check {host.name}` shows all that was found."
        )
    raise HostNotReady(f"{host.name} cannot train: {listed}. {advice}")


def bootstrap(host: Host, place: RemotePlace) -> str:
    """Install torch and numpy into a virtual environment of ours on a host; return its python's absolute path.

    What the host's own python has, such as the torch of a GPU image, stays visible and is kept if it is new enough.

    Raises:
        CommandFailed: With the end of what pip or venv said.
    """
    values = f"folder={shlex.quote(place.folder)}\npython={shlex.quote(place.python)}\n"
    return host.run(f"# jade: install torch and numpy\n{values}{_BOOTSTRAP}", timeout_s=_INSTALL_S).text.strip()
