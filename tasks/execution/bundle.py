"""What travels to a host, where it lies there, and whether the host can run it.

Below the host's folder (`~/.jade`):

    code/DIGEST/jade_model/       the sources, under the digest of their contents: sent once, shared by all runs
    runs/KEY/                     job.json, arrays/, splits/ and what the trainings leave, as in a run's folder here
    jobs/KEY/attempt-N/           the detached job; see tasks/hosts/job_scripts.py

Only `jade_model.core` travels, which imports nothing but torch and numpy; it is also what a training's run key digests.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jade_model
from jade_model.core.files import sha256_file, sha256_json
from jade_model.core.job import Job, Training, save_job
from jade_model.core.training_files import files_of
from tasks.core.errors import HostNotReady
from tasks.hosts.base import Host
from tasks.hosts.preflight import MIN_PYTHON, MIN_TORCH, Verdict, check_host

MIN_FREE_BYTES = 2**30
_CODE_CALL_S = 600.0
_INSTALL_S = 3600.0

_BOOTSTRAP = """
mkdir -p -- "$folder" && cd -- "$folder" || exit 1
"$python" -m venv --system-site-packages venv >&2 || exit 1
venv/bin/python -m pip install --quiet 'numpy>=1.26' 'torch>=2.4' >&2 || exit 1
echo "$PWD/venv/bin/python"
"""


@dataclass(frozen=True)
class RemotePlace:
    """How a host is used.

    Attributes:
        folder: Ours over there; relative paths start at the account's home.
        python: Program that trains.
        time_limit_s: The host ends a job after this long.
        provider: Whose machine it is, where it is rented; empty: a host of the settings.
    """

    folder: str
    python: str
    time_limit_s: int
    provider: str = ""

    @property
    def jobs(self) -> str:
        """Folder of the detached jobs."""
        return f"{self.folder}/jobs"

    def run(self, key: str) -> str:
        """Return the folder of what one job reads and writes."""
        return f"{self.folder}/runs/{key}"

    def code(self, digest: str) -> str:
        """Return the folder of one version of the sources."""
        return f"{self.folder}/code/{digest}"


@dataclass(frozen=True)
class CodeBundle:
    """The sources that a host runs.

    Attributes:
        files: Name over there -> file here.
        digest: Of names and contents.
    """

    files: Mapping[str, Path]
    digest: str


def code_bundle() -> CodeBundle:
    """Return the sources of this installation that a host runs: all of `jade_model.core`, and the door to it."""
    folder = Path(jade_model.__file__).parent
    found = [folder / "__init__.py", folder / "__main__.py", *sorted((folder / "core").rglob("*.py"))]
    files = {f"{folder.name}/{path.relative_to(folder).as_posix()}": path for path in found}
    return CodeBundle(files, sha256_json({name: sha256_file(path) for name, path in files.items()}))


def job_key(trainings: Sequence[Training]) -> str:
    """Return what a job is recognised by on a host: a digest of its trainings' run keys and folders."""
    return sha256_json(sorted([training.run_key, training.output_dir] for training in trainings))[:40]


def write_remote_job(job: Job, trainings: Sequence[Training], key: str, path: Path) -> None:
    """Write the part of a job that a host shall do; the same trainings give the same bytes, whoever asks."""
    datasets = {training.dataset for training in trainings}
    data = tuple(item for item in job.data if item.name in datasets)
    save_job(replace(job, run_id=key, data=data, trainings=tuple(trainings)), path)


def input_files(job: Job, trainings: Sequence[Training], root: Path) -> dict[str, Path]:
    """Return what trainings read, by name relative to the run's folder: arrays and rows."""
    datasets = {training.dataset for training in trainings}
    names = [item.arrays for item in job.data if item.name in datasets]
    names += [training.rows for training in trainings]
    return {name: root / name for name in dict.fromkeys(names)}


def checkpoint_files(trainings: Sequence[Training], root: Path) -> dict[str, Path]:
    """Return what unfinished trainings go on from, by name relative to the run's folder."""
    found: dict[str, Path] = {}
    for training in trainings:
        files = files_of(training, root)
        if files.resume.is_file():
            kept = [path for path in (files.resume, files.best) if path.is_file()]
            found |= {f"{training.output_dir}/{path.name}": path for path in kept}
    return found


def send_code(host: Host, place: RemotePlace, bundle: CodeBundle) -> None:
    """Bring the sources to a host; what is there already is not sent.

    Raises:
        HostError: As `Host.put` says.
    """
    host.put(bundle.files, place.code(bundle.digest), timeout_s=_CODE_CALL_S)


def check_ready(host: Host, place: RemotePlace, *, device: str, is_quick: bool = False) -> None:
    """Look over whether a host can train.

    Args:
        host: Which.
        place: How it is used.
        device: Where it is to train there.
        is_quick: Leave out what takes seconds: whether torch can be imported, and sees the GPU.

    Raises:
        HostError: It cannot be reached or used at all.
        HostNotReady: Something is missing there; the message names all of it and what to do.
    """
    report = check_host(host, folder=place.folder, python=place.python, is_quick=is_quick)
    if report.problem is not None:
        raise report.problem
    findings = report.findings(needs_gpu=device != "cpu", min_free_bytes=MIN_FREE_BYTES)
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
            f"`jade hosts check {host.name}` shows all that was found, `jade hosts check {host.name} --bootstrap` "
            "installs torch and numpy there."
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
