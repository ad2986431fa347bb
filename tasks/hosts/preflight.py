"""What a host has, and whether that is enough to train on it."""

from __future__ import annotations

import contextlib
import enum
import re
import shlex
import time
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import BaseModel, ValidationError

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
_INSTALL = "Install them: Debian has them in coreutils, util-linux, grep, sed, findutils and tar."

_PYTHON = """
import importlib, importlib.metadata, json, sys
is_quick = sys.argv[1:] == ["quick"]
found = {"python_version": sys.version_info[:3], "python": sys.executable}
for name in ("numpy", "torch"):
    try:
        if is_quick:
            found[name + "_version"] = importlib.metadata.version(name)
            continue
    except importlib.metadata.PackageNotFoundError:
        pass
    try:
        found[name + "_version"] = importlib.import_module(name).__version__
    except Exception as error:
        found[name + "_problem"] = f"{type(error).__name__}: {error}"
if "torch_version" in found and not is_quick:
    import torch
    try:
        devices = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
        found["torch_devices"] = [torch.cuda.get_device_name(i) for i in devices]
    except Exception as error:
        found["torch_devices"] = []
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
print("\\n" + json.dumps(found), flush=True)
"""

# The clock comes last: what an account's start-up files take is over by then.
_LOOK = """
for tool in $tools; do command -v "$tool" >/dev/null 2>&1 || echo "lacks $tool"; done
while [ ! -d "$folder" ]; do
  [ ! -e "$folder" ] || echo "readonly $folder"
  case $folder in */*) folder=${folder%/*}; folder=${folder:-/} ;; *) folder=. ;; esac
done
df -Pk -- "$folder" | { read -r header; read -r device total used free rest; echo "free $free $folder"; }
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
    """One row of the table that `jade hosts check` shows: what was looked at, what was found, what to do about it."""

    subject: str
    found: str
    verdict: Verdict = Verdict.OK
    advice: str = ""


@dataclass(frozen=True)
class HostReport:
    """What was found on a host.

    Attributes:
        findings: The table, in the order in which things go wrong.
        can_bootstrap: Whether installing torch and numpy with pip would mend something: they are missing or too old,
            not broken.
        problem: The error that came instead of an answer, if one did.
    """

    findings: tuple[Finding, ...]
    can_bootstrap: bool = False
    problem: HostError | None = None

    @property
    def problems(self) -> list[Finding]:
        """What hinders training."""
        return [finding for finding in self.findings if finding.verdict is Verdict.PROBLEM]


class _Programs(BaseModel):
    """What the host's Python says; None where it could not be found out. No devices: torch was not asked for them."""

    python_version: tuple[int, ...] | None = None
    python: str | None = None
    torch_version: str | None = None
    torch_problem: str | None = None
    numpy_version: str | None = None
    torch_devices: tuple[str, ...] | None = None

    @property
    def can_bootstrap(self) -> bool:
        if self.python_version is None or self.python_version[:2] < MIN_PYTHON:
            return False
        if self.torch_version is None:
            return self.torch_problem is None or "No module named 'torch'" in self.torch_problem
        return self.is_torch_old or self.numpy_version is None

    @property
    def is_torch_old(self) -> bool:
        numbers = re.findall(r"\d+", (self.torch_version or "999.0").partition("+")[0])
        return tuple(map(int, numbers[:2])) < MIN_TORCH


class _Answer(NamedTuple):
    """What a program printed, how it failed, if it did, and the end of its standard error."""

    text: str
    fault: str
    said: str


def check_host(
    host: Host,
    place: RemotePlace,
    *,
    min_free_bytes: int = MIN_FREE_BYTES,
    timeout_s: float = 120.0,
    is_quick: bool = False,
) -> HostReport:
    """Look over whether a host can train on its place's device, changing nothing. Errors become part of the report.

    The folder of its place need not be there yet; `min_free_bytes` are wanted on that disk. Importing torch from a cold
    disk takes its time, within `timeout_s`; a quick look asks for the versions of torch and numpy without importing
    them.
    """
    try:
        values = assigned(tools=" ".join(_TOOLS), folder=place.folder)
        looked = host.run(f"# jade: check host\nexport LC_ALL=C\n{values}{_LOOK}", timeout_s=timeout_s).text
        now = time.time()
        listed = _ask(host, f"nvidia-smi{_GPUS}", min(timeout_s, GPU_CALL_S))
        command = shlex.join([place.python, "-c", _PYTHON, "quick" if is_quick else ""])
        told = _ask(host, f"{place.python}\nexec {command}", timeout_s)
    except HostError as problem:
        return HostReport((_judged("reachable", "no", str(problem)),), problem=problem)
    needs_gpu = place.device != "cpu"
    programs = next((found for line in told.text.splitlines() if (found := _programs(line))), _Programs())
    gpus = "; ".join(_shown_gpu(line) for line in listed.text.splitlines() if line.count(",") == 3)
    missing = ", ".join(re.findall(r"(?m)^lacks (.*)$", looked))
    host_key = getattr(host, "host_key_fingerprint", None)
    findings = (
        Finding("reachable", "yes"),
        *([Finding("host key", host_key)] if host_key is not None else []),
        _judged("tools", f"no {missing}" if missing else "all there", _INSTALL if missing else ""),
        _gpu(gpus, listed.fault, programs.torch_devices, needs_gpu=needs_gpu),
        *_python(programs, f"{place.python}: {told.fault or told.said or 'it ended without an answer'}"),
        *_devices(programs.torch_devices, told.said, needs_gpu=needs_gpu, has_gpus=bool(gpus)),
        _disk(looked, min_free_bytes),
        _clock(looked, now),
    )
    return HostReport(findings, programs.can_bootstrap)


def _ask(host: Host, script: str, timeout_s: float) -> _Answer:
    program = script.partition("\n")[0]
    try:
        result = host.run(f"# jade: check host: {script}", timeout_s=timeout_s, check=False)
    except CommandTimedOut:
        return _Answer("", f"{program} did not answer within {timeout_s:g} s", "")
    said = "; ".join(line.strip() for line in result.stderr.splitlines()[-2:])
    fault = said or "; ".join(result.text.splitlines()[:2]) or f"ended with {result.exit_status}"
    return _Answer(result.text, fault if result.exit_status != 0 else "", said)


def _programs(line: str) -> _Programs | None:
    # Libraries greet and say goodbye, one or the other in JSON.
    with contextlib.suppress(ValidationError):
        found = _Programs.model_validate_json(line)
        return found if found.python_version else None
    return None


def _shown_gpu(line: str) -> str:
    """A line of nvidia-smi's for people; drivers give `[N/A]` for what they do not know, such as shared memory."""
    name, driver, total, free = (field.strip() for field in line.split(","))
    memory = f"{free} of {total} MiB free" if total.isdigit() and free.isdigit() else "memory unknown"
    return f"{name}, {memory}, driver {driver}"


def _shown(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _judged(subject: str, found: str, advice: str) -> Finding:
    """A finding that is a problem where there is advice."""
    return Finding(subject, found, Verdict.PROBLEM if advice else Verdict.OK, advice)


def _gpu(gpus: str, fault: str, devices: tuple[str, ...] | None, *, needs_gpu: bool) -> Finding:
    """What nvidia-smi says; whether there is a GPU to train on is for torch to say."""
    found = gpus or fault or "nvidia-smi lists none"
    if gpus or devices:
        return Finding("GPU", found)
    if not needs_gpu:
        return Finding("GPU", f"none ({found}): training runs on the CPU", Verdict.WARNING)
    if devices is None:
        return Finding("GPU", f"unknown ({found})", Verdict.WARNING, "torch decides once it is asked.")
    return _judged("GPU", f"none ({found})", "Mend its driver, or train on another host.")


def _python(told: _Programs, problem: str) -> list[Finding]:
    wanted = _shown(MIN_PYTHON)
    if told.python_version is None:
        advice = f"Name a Python {wanted} or newer that runs there: `jade hosts add ... --python FILE --replace`."
        return [_judged("Python", problem, advice)]
    shown = f"{_shown(told.python_version)} ({told.python})"
    if told.python_version[:2] < MIN_PYTHON:
        return [_judged("Python", shown, f"Too old: {wanted} or newer is needed.")]
    advice = "It is there, but broken: install it anew for this Python."
    if told.can_bootstrap:
        advice = "Run `jade hosts check --bootstrap`, which installs torch and numpy there."
    torch_advice = f"Too old. {advice}" if told.is_torch_old else "" if told.torch_version else advice
    return [
        Finding("Python", shown),
        _judged("numpy", told.numpy_version or "none", "" if told.numpy_version else advice),
        _judged("torch", told.torch_version or told.torch_problem or "none", torch_advice),
    ]


def _devices(devices: tuple[str, ...] | None, said: str, *, needs_gpu: bool, has_gpus: bool) -> list[Finding]:
    if devices:
        return [Finding("torch sees", ", ".join(devices))]
    if devices is None or not (needs_gpu or has_gpus):
        return []
    verdict = Verdict.PROBLEM if needs_gpu else Verdict.WARNING
    advice = said or "This torch has no CUDA, or the driver is older than it wants."
    return [Finding("torch sees", "no GPU", verdict, advice)]


def _disk(looked: str, min_free_bytes: int) -> Finding:
    if blocked := re.search(r"(?m)^readonly (.*)$", looked):
        advice = f"This account cannot make files in {blocked[1]}: choose another `folder` or account."
        return _judged("disk", "not writable", advice)
    if not (free := re.search(r"(?m)^free (\d+) (.*)$", looked)):
        return Finding("disk", "unknown", Verdict.WARNING, "df gave no answer.")
    free_gib, wanted_gib = int(free[1]) / 2**20, min_free_bytes / 2**30
    advice = f"At least {wanted_gib:.1f} GiB are needed where {free[2]} is: free some, or choose another `folder`."
    return _judged("disk", f"{free_gib:.1f} GiB free", advice if free_gib < wanted_gib else "")


def _clock(looked: str, now: float) -> Finding:
    if not (told := re.search(r"(?m)^clock (\d+)$", looked)):
        return Finding("clock", "unknown", Verdict.WARNING)
    offset_s = int(told[1]) + 0.5 - now
    shown = f"{offset_s:+.0f} s from ours"
    if abs(offset_s) <= MAX_CLOCK_OFFSET_S:
        return Finding("clock", shown)
    return Finding("clock", shown, Verdict.WARNING, "Harmless to jobs; file times will look odd.")


def check_ready(host: Host, place: RemotePlace, *, is_quick: bool = False) -> None:
    """Return if a host can train, as `check_host` finds.

    Raises:
        HostError: It cannot be reached or used at all.
        HostNotReady: Something is missing there; the message names all of it and what to do.
    """
    report = check_host(host, place, min_free_bytes=_LEAST_FREE_BYTES, is_quick=is_quick)
    if report.problem is not None:
        raise report.problem
    if not report.problems:
        return
    listed = [f"{item.subject}: {item.found}" for item in report.problems]
    if place.provider:
        # Nobody repairs a machine that goes back in a minute: what it is made of can be changed.
        advice = (
            f"What its machines are made of stands in [{place.provider}] of jade.toml: `image` with Python "
            f"{_shown(MIN_PYTHON)}+, torch {_shown(MIN_TORCH)}+ and numpy, the `python` that has them, `disk_gb`; or "
            "name another --gpu."
        )
    else:
        listed = [f"{item.subject}: {item.found} ({item.advice})" for item in report.problems]
        advice = f"`jade hosts check {host.name}` shows all that was found."
        if report.can_bootstrap:
            advice = f"`jade hosts check {host.name} --bootstrap` installs torch and numpy there."
    raise HostNotReady(f"{host.name} cannot train: {'; '.join(listed)}. {advice}")


def bootstrap(host: Host, place: RemotePlace) -> str:
    """Install torch and numpy into a virtual environment of ours on a host; return its python's absolute path.

    What the host's own python has, such as the torch of a GPU image, stays visible and is kept if it is new enough.

    Raises:
        CommandFailed: With the end of what pip or venv said.
    """
    values = assigned(folder=place.folder, python=place.python)
    return host.run(f"# jade: install torch and numpy\n{values}{_BOOTSTRAP}", timeout_s=_INSTALL_S).text.strip()
