"""What travels to a host: only `jade_model.core`, which imports nothing but torch and numpy, and a job with its inputs.

`tasks/hosts/host.py` says where it lies there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jade_model
from jade_model.core.files import sha256_file, sha256_json
from jade_model.core.job import ARM_MODULE, Job, Training, save_job
from jade_model.core.training_files import files_of
from tasks.hosts.host import Host, RemotePlace

_CODE_CALL_S = 600.0


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
    """Return what trainings read, by name relative to the run's folder: arrays, rows, a module of the user's arms."""
    datasets = {training.dataset for training in trainings}
    names = [item.arrays for item in job.data if item.name in datasets]
    names += [training.rows for training in trainings]
    names += [ARM_MODULE] if job.arm_module_sha256 else []
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
