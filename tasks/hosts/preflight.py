"""What a host has, and whether that is enough to train on it."""

from __future__ import annotations

import enum
import json
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass

from tasks.hosts.errors import HostError
from tasks.hosts.host import Host

MIN_PYTHON = (3, 11)
MIN_TORCH = (2, 4)
MIN_FREE_BYTES = 5 * 2**30
MAX_CLOCK_OFFSET_S = 60.0
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
    found["cuda"] = torch.cuda.is_available()
    found["devices"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps(found))
"""

_SCRIPT = """
echo "clock $(date +%s)"
for tool in {tools}; do command -v "$tool" >/dev/null 2>&1 || echo "lacks $tool"; done
place={folder}
while [ ! -d "$place" ]; do
  case $place in */*) place=${{place%/*}}; place=${{place:-/}} ;; *) place=. ;; esac
done
df -Pk -- "$place" | {{ read -r header; read -r device total used free rest; echo "free $free"; }}
[ -w "$place" ] || echo "readonly $place"
if command -v nvidia-smi >/dev/null 2>&1; then
  nvidia-smi --query-gpu=name,driver_version,memory.total,memory.free --format=csv,noheader,nounits |
    while IFS= read -r line; do echo "gpu $line"; done
fi
if command -v {python} >/dev/null 2>&1; then
  echo "python $({python} -c {program} {how} 2>/dev/null | tail -n 1)"
fi
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
class Gpu:
    """A GPU as its driver sees it; memory in MiB."""

    name: str
    driver: str
    total_mib: int
    free_mib: int


@dataclass(frozen=True)
class HostReport:
    """What was found on a host; None where it could not be found out.

    Attributes:
        host: Its name.
        problem: Why nothing else is known: the error that came instead of an answer.
        host_key: Fingerprint of the key that it proved; None for this machine.
        gpus: What nvidia-smi lists.
        python_version: Of the program asked for.
        python: Where that is.
        torch_version: As torch says.
        torch_problem: Why it could not be imported.
        numpy_version: As numpy says.
        torch_devices: The GPUs that torch sees; None if it was not asked.
        free_bytes: On the disk of the folder asked for.
        is_writable: Whether the account may write there.
        clock_offset_s: The host's clock less ours, to a second.
        missing_tools: Programs that the protocol needs and that are not there.
    """

    host: str
    problem: HostError | None = None
    host_key: str | None = None
    gpus: tuple[Gpu, ...] = ()
    python_version: tuple[int, ...] | None = None
    python: str | None = None
    torch_version: str | None = None
    torch_problem: str | None = None
    numpy_version: str | None = None
    torch_devices: tuple[str, ...] | None = None
    free_bytes: int | None = None
    is_writable: bool = True
    clock_offset_s: float | None = None
    missing_tools: tuple[str, ...] = ()

    def findings(self, *, needs_gpu: bool, min_free_bytes: int = MIN_FREE_BYTES) -> tuple[Finding, ...]:
        """The table, in the order in which things go wrong."""
        if self.problem is not None:
            return (Finding("reachable", "no", Verdict.PROBLEM, str(self.problem)),)
        rows = [Finding("reachable", "yes")]
        if self.host_key is not None:
            rows.append(Finding("host key", self.host_key))
        rows += [
            self._tools(),
            self._gpu(needs_gpu=needs_gpu),
            self._python(),
            *self._packages(needs_gpu=needs_gpu),
            self._disk(min_free_bytes),
            self._clock(),
        ]
        return tuple(rows)

    def is_ready(self, *, needs_gpu: bool, min_free_bytes: int = MIN_FREE_BYTES) -> bool:
        """Whether nothing that was found hinders training."""
        found = self.findings(needs_gpu=needs_gpu, min_free_bytes=min_free_bytes)
        return all(finding.verdict is not Verdict.PROBLEM for finding in found)

    def _tools(self) -> Finding:
        if not self.missing_tools:
            return Finding("tools", "all there")
        advice = "Install them: Debian has them in coreutils, util-linux, grep, sed, findutils and tar."
        return Finding("tools", f"no {', '.join(self.missing_tools)}", Verdict.PROBLEM, advice)

    def _gpu(self, *, needs_gpu: bool) -> Finding:
        if self.gpus:
            shown = "; ".join(
                f"{gpu.name}, {gpu.free_mib} of {gpu.total_mib} MiB free, driver {gpu.driver}" for gpu in self.gpus
            )
            return Finding("GPU", shown)
        if not needs_gpu:
            return Finding("GPU", "none: training runs on the CPU", Verdict.WARNING)
        return Finding("GPU", "none", Verdict.PROBLEM, "nvidia-smi is missing or lists nothing: another host")

    def _python(self) -> Finding:
        wanted = ".".join(map(str, MIN_PYTHON))
        if self.python_version is None:
            return Finding("Python", "none", Verdict.PROBLEM, f"Install Python {wanted} or newer there.")
        shown = f"{'.'.join(map(str, self.python_version))} ({self.python})"
        if self.python_version[:2] < MIN_PYTHON:
            return Finding("Python", shown, Verdict.PROBLEM, f"Too old: {wanted} or newer is needed.")
        return Finding("Python", shown)

    def _packages(self, *, needs_gpu: bool) -> list[Finding]:
        bootstrap = "Run with --bootstrap, which installs torch and numpy there."
        rows = []
        if self.numpy_version is None:
            rows.append(Finding("numpy", "none", Verdict.PROBLEM, bootstrap))
        else:
            rows.append(Finding("numpy", self.numpy_version))
        if self.torch_version is None:
            rows.append(Finding("torch", self.torch_problem or "none", Verdict.PROBLEM, bootstrap))
        elif _leading_numbers(self.torch_version) < MIN_TORCH:
            rows.append(Finding("torch", self.torch_version, Verdict.PROBLEM, f"Too old. {bootstrap}"))
        else:
            rows.append(Finding("torch", self.torch_version))
            if self.torch_devices:
                rows.append(Finding("torch sees", ", ".join(self.torch_devices)))
            elif self.torch_devices is not None and (needs_gpu or self.gpus):
                verdict = Verdict.PROBLEM if needs_gpu else Verdict.WARNING
                advice = "This torch has no CUDA, or the driver is older than it wants."
                rows.append(Finding("torch sees", "no GPU", verdict, advice))
        return rows

    def _disk(self, min_free_bytes: int) -> Finding:
        if not self.is_writable:
            return Finding("disk", "not writable", Verdict.PROBLEM, "Choose another folder or account.")
        if self.free_bytes is None:
            return Finding("disk", "unknown", Verdict.WARNING, "df gave no answer.")
        shown = f"{self.free_bytes / 2**30:.1f} GiB free"
        if self.free_bytes < min_free_bytes:
            wanted = f"At least {min_free_bytes / 2**30:.1f} GiB are needed."
            return Finding("disk", shown, Verdict.PROBLEM, wanted)
        return Finding("disk", shown)

    def _clock(self) -> Finding:
        if self.clock_offset_s is None:
            return Finding("clock", "unknown", Verdict.WARNING)
        shown = f"{self.clock_offset_s:+.0f} s from ours"
        if abs(self.clock_offset_s) > MAX_CLOCK_OFFSET_S:
            return Finding("clock", shown, Verdict.WARNING, "Harmless to jobs; file times will look odd.")
        return Finding("clock", shown)


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
        is_quick: Ask for the versions of torch and numpy without importing them, which takes seconds, and once.
        clock: Ours, seconds since 1970.
    """
    script = _SCRIPT.format(
        tools=" ".join(_TOOLS),
        folder=shlex.quote(folder),
        python=shlex.quote(python),
        program=shlex.quote(_PYTHON),
        how="quick" if is_quick else "",
    )
    try:
        if not is_quick:
            host.run("exit 0", timeout_s=timeout_s)  # connects, so that the clocks below are read close together
        asked_at = clock()
        text = host.run(f"# jade: check host\nexport LC_ALL=C\n{script}", timeout_s=timeout_s).text
    except HostError as problem:
        return HostReport(host.name, problem=problem)
    answers: dict[str, list[str]] = {}
    for line in text.splitlines():
        subject, _, value = line.partition(" ")
        answers.setdefault(subject, []).append(value)
    programs = _json_object(answers.get("python", [""])[0])
    version = programs.get("version")
    return HostReport(
        host.name,
        host_key=getattr(host, "host_key_fingerprint", None),
        gpus=tuple(gpu for gpu in map(_gpu, answers.get("gpu", [])) if gpu is not None),
        python_version=tuple(map(int, version)) if isinstance(version, list) else None,
        python=_text(programs.get("executable")),
        torch_version=_text(programs.get("torch")),
        torch_problem=_text(programs.get("torch_problem")),
        numpy_version=_text(programs.get("numpy")),
        torch_devices=_texts(programs["devices"]) if "devices" in programs else None,
        free_bytes=int(answers["free"][0]) * 1024 if answers.get("free", [""])[0].isdigit() else None,
        is_writable="readonly" not in answers,
        clock_offset_s=int(answers["clock"][0]) + 0.5 - asked_at if "clock" in answers else None,
        missing_tools=tuple(answers.get("lacks", [])),
    )


def _gpu(line: str) -> Gpu | None:
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != 4 or not fields[2].isdigit() or not fields[3].isdigit():
        return None
    return Gpu(fields[0], fields[1], int(fields[2]), int(fields[3]))


def _json_object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def _leading_numbers(version: str) -> tuple[int, ...]:
    """(2, 4) of `2.4.1+cu121`."""
    numbers = []
    for part in version.partition("+")[0].split(".")[:2]:
        digits = "".join(character for character in part if character.isdigit())
        numbers.append(int(digits or 0))
    return tuple(numbers)
