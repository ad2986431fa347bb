"""What `python -m jade_model train job.json` reads: data, trainings, where results go. No host, no secret."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from jade_model.core.config import SPAN_HEADS, Recipe, SpanHeadEntry, recipe_from_json, require, to_json
from jade_model.core.errors import ConfigError
from jade_model.core.files import atomic_path, sha256_file, sha256_json, write_atomically

SCHEMA_VERSION = 1
ARM_MODULE = "arm_module.py"
"""Module of a user's own arms, beside the job file: whoever trains names it (`--arm-module`), the job its digest."""


@dataclass(frozen=True)
class Execution:
    """How trainings run on a machine; nothing here belongs to a recipe.

    Attributes:
        device: "cpu", "cuda" or "cuda:N".
        resume: Whether intermediate checkpoints of the same run key are gone on from.
        capture: Whether a GPU replays each step as one CUDA graph.
        deterministic: Whether a GPU only uses algorithms that give the same bits every time; a CPU always does.
    """

    device: str = "cpu"
    resume: bool = False
    capture: bool = True
    deterministic: bool = False

    @property
    def on_cpu(self) -> bool:
        """Whether trainings run on the CPU."""
        return self.device == "cpu"


@dataclass(frozen=True)
class JobData:
    """One data set, as prepared arrays.

    Attributes:
        name: Short name; unique within the job.
        arrays: `.npz` of schema.save_arrays, relative to the job file.
        sha256: Digest of the files that the windows were read from (Windows.sha256).
        arrays_sha256: Digest of the `.npz` itself.
    """

    name: str
    arrays: str
    sha256: str
    arrays_sha256: str

    def __post_init__(self) -> None:
        check_relative(self.arrays, f"data {self.name!r}: arrays")


@dataclass(frozen=True)
class Training:
    """One model to train.

    Attributes:
        arm: Name of the recipe's side in the comparison.
        dataset: Name of one of the job's data sets.
        seed: Of weights, order and dropout.
        fold: 0-based.
        recipe: What to train and how.
        rows: `.npz` of save_rows, relative to the job file.
        output_dir: Where its files go, relative to the job file; one training each.
        run_key: From run_key(); what a finished training is recognised by.
    """

    arm: str
    dataset: str
    seed: int
    fold: int
    recipe: Recipe
    rows: str
    output_dir: str
    run_key: str

    def __post_init__(self) -> None:
        check_relative(self.rows, f"{self.title}: rows")
        check_relative(self.output_dir, f"{self.title}: output_dir")
        require(0 <= self.seed < 2**63, f"{self.title}: the seed must lie in [0, 2^63)")
        require(self.fold >= 0, f"{self.title}: the fold must not be negative")

    @property
    def title(self) -> str:
        """What a person recognises it by."""
        return f"{self.arm} {self.dataset} seed {self.seed} fold {self.fold}"


@dataclass(frozen=True)
class Job:
    """Trainings that run together on one machine.

    Attributes:
        run_id: Of the run that asked for them.
        data: The data sets.
        trainings: What to train.
        arm_module_sha256: Digest of ARM_MODULE; empty: all arms are Jade's.
    """

    run_id: str
    data: tuple[JobData, ...]
    trainings: tuple[Training, ...]
    arm_module_sha256: str = ""

    def __post_init__(self) -> None:
        names = [item.name for item in self.data]
        require(len(set(names)) == len(names), f"job: data sets share a name: {names}")
        folders = [item.output_dir for item in self.trainings]
        require(len(set(folders)) == len(folders), "job: two trainings share an output_dir")
        for training in self.trainings:
            require(
                training.dataset in names,
                f"{training.title}: no data set {training.dataset!r}; the job has {names}",
            )

    def dataset(self, name: str) -> JobData:
        """Return the data set of that name."""
        return next(item for item in self.data if item.name == name)


def check_relative(path: str, what: str) -> None:
    """Refuse a path that could lead out of the job's folder.

    Raises:
        ConfigError: It is empty, absolute, has a drive, or climbs with `..`.
    """
    pure = PurePosixPath(path)
    inside = bool(pure.parts) and not pure.is_absolute() and ".." not in pure.parts
    require(
        inside and "\\" not in path and ":" not in path,
        f"{what} is {path!r}; it must be a relative path inside the job's folder",
    )


def save_job(job: Job, path: Path) -> None:
    """Write the job as JSON, in one step."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "run_id": job.run_id,
        "data": [dataclasses.asdict(item) for item in job.data],
        "trainings": [
            {**{item.name: getattr(training, item.name) for item in dataclasses.fields(training)}}
            | {"recipe": to_json(training.recipe)}
            for training in job.trainings
        ],
    }
    if job.arm_module_sha256:
        content["arm_module_sha256"] = job.arm_module_sha256
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def load_job(path: Path) -> Job:
    """Read a job; runs none of its code, so that arms of somebody's own are known by name alone unless they are loaded.

    Raises:
        ConfigError: The file is missing, no JSON, of another version, or a field is missing, unknown or out
            of range.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no job file {path}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a readable JSON file: {error}") from error
    require(isinstance(content, dict), f"{path} holds a {type(content).__name__}; a job is an object")
    version = content.pop("schema_version", None)
    require(version == SCHEMA_VERSION, f"{path} has schema_version {version}; this version reads {SCHEMA_VERSION}")
    try:
        for item in content["trainings"] if content.get("arm_module_sha256") else []:
            SPAN_HEADS.setdefault(item["recipe"]["loss"], SpanHeadEntry("", sha256=content["arm_module_sha256"]))
        data = tuple(_built(JobData, item) for item in content.pop("data"))
        trainings = tuple(
            _built(Training, {**item, "recipe": recipe_from_json(item["recipe"])}) for item in content.pop("trainings")
        )
        return _built(Job, {**content, "data": data, "trainings": trainings})
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path}: missing or malformed field: {error}") from error


def save_rows(path: Path, *, train_rows: NDArray[np.intp], validation_rows: NDArray[np.intp]) -> None:
    """Write which windows a training fits and which it validates on."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            train_rows=np.asarray(train_rows, np.int64),
            validation_rows=np.asarray(validation_rows, np.int64),
        )


def load_rows(path: Path) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Read what save_rows wrote: rows to fit, rows to validate on.

    Raises:
        ConfigError: The file is missing or is something else.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["train_rows"].astype(np.intp), arrays["validation_rows"].astype(np.intp)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ConfigError(f"{path} is not a readable file of rows: {error}") from error


def run_key(
    *,
    data_sha256: str,
    recipe: Recipe,
    seed: int,
    fold: int,
    train_rows: Sequence[int] | NDArray[np.intp],
    validation_rows: Sequence[int] | NDArray[np.intp],
) -> str:
    """Return the digest of all that decides a result: code, data, recipe and its loss, seed, fold, rows.

    The code of an arm of one's own is its module, too.
    """
    own = SPAN_HEADS[recipe.loss].sha256
    return sha256_json(
        {
            "code": sha256_json([code_digest(), own]) if own else code_digest(),
            "data": data_sha256,
            "recipe": to_json(recipe),
            "seed": seed,
            "fold": fold,
            "train_rows": [int(row) for row in train_rows],
            "validation_rows": [int(row) for row in validation_rows],
        }
    )


@cache
def code_digest() -> str:
    """Return the digest of the sources that a training runs: all of this package."""
    folder = Path(__file__).parent
    sources = sorted(folder.rglob("*.py"))
    return sha256_json({path.relative_to(folder).as_posix(): sha256_file(path) for path in sources})


_T = TypeVar("_T", JobData, Training, Job)


def _built(kind: type[_T], fields: Any) -> _T:
    known = {item.name for item in dataclasses.fields(kind)}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise ConfigError(f"unknown field {', '.join(unknown)} of a {kind.__name__}; known: {', '.join(sorted(known))}")
    return kind(**fields)
