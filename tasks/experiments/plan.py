"""Before anything is trained: load and check the data, split it, and write the job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, assert_never

from jade_model.core.config import Recipe
from jade_model.core.files import sha256_file, write_atomically
from jade_model.core.job import ARM_MODULE, Job, JobData, Training, run_key, save_job
from jade_model.core.recipes import recipe
from jade_model.core.targets import fitted_recipe
from jade_model.core.windows import Windows, save_arrays
from jade_model.data.sample import NAME as SAMPLE
from jade_model.data.schema import load_windows
from jade_model.data.splits import (
    Grouping,
    Split,
    group_windows,
    grouped_folds,
    holdout_split,
    load_split,
    save_split,
    seed_split,
)
from tasks.core.errors import BadRequest
from tasks.core.layout import MEMBER_SEED_STEP, RunLayout, training_folder

FOLD_VALIDATION_FRACTION = 0.1
"""Share of a fold's training windows whose loss is watched but not fitted."""


@dataclass(frozen=True)
class Plan:
    """What a comparison or a sweep trains.

    Attributes:
        arms: Arm -> its recipe, or the recipe's name, in the order of the comparison.
        epochs: Instead of the recipes', or None.
        seeds: Number of repetitions.
        folds: Number of folds; 1 is a single hold-out split.
        split: How windows are divided.
        ensemble: Members a model.
        arm_module: Module of the user's own arms among them, loaded; None: all are Jade's.
    """

    arms: Mapping[str, str | Recipe]
    epochs: int | None
    seeds: int
    folds: int
    split: Literal["grouped", "seed"]
    ensemble: int
    arm_module: Path | None = None

    def recipe_of(self, arm: str) -> Recipe:
        """Return the recipe that an arm is trained by."""
        named = self.arms[arm]
        chosen = recipe(named) if isinstance(named, str) else named
        if self.epochs is None:
            return chosen
        return replace(chosen, training=replace(chosen.training, epochs=self.epochs))


def load_data(sources: list[str]) -> list[Windows]:
    """Load every data set, `sample` being the built-in one.

    A data set is called what its file is; those of one name are told apart by their folders' names.

    Raises:
        DataError: A file breaks the contract.
        BadRequest: A data set is named twice, or has no span at all.
    """
    check_each_once(sources)
    data = [load_windows(source) for source in sources]
    for windows in data:
        _check_spans(windows)
    names = _names_apart(sources, [windows.name for windows in data])
    return [replace(windows, name=name) for windows, name in zip(data, names, strict=True)]


def load_joined(sources: list[str]) -> Windows:
    """Load all sources as one data set, `sample` being the built-in one.

    Raises:
        DataError: A file breaks the contract, or their windows differ in length.
        BadRequest: No window has a span.
    """
    if SAMPLE in sources and len(sources) > 1:
        raise BadRequest(f"`{SAMPLE}` is the built-in sample; it is not pooled with files")
    windows = load_windows(sources[0] if len(sources) == 1 else sources)
    _check_spans(windows)
    return windows


def check_each_once(sources: Sequence[str]) -> None:
    """Refuse data that are named twice.

    Raises:
        BadRequest: They are.
    """
    paths = [source if source == SAMPLE else str(Path(source).expanduser().resolve()) for source in sources]
    again = sorted(source for source, path in zip(sources, paths, strict=True) if paths.count(path) > 1)
    if again:
        raise BadRequest(f"{', '.join(dict.fromkeys(again))}: the same data are named twice; name each data set once")


def _check_spans(windows: Windows) -> None:
    if len(windows.spans_S2) == 0:
        raise BadRequest(f"no window of {windows.name} has a span: there is nothing to learn or to score")


def _names_apart(sources: Sequence[str], names: list[str]) -> list[str]:
    """Put as many of their folders' names before equal names as it takes to tell them apart."""
    folders = [Path(source).expanduser().resolve().parent for source in sources]
    while max(Counter(names).values(), default=0) > 1 and any(folder.name for folder in folders):
        again = [names.count(name) > 1 for name in names]
        names = [
            f"{folder.name}-{name}" if is_again and folder.name else name
            for name, folder, is_again in zip(names, folders, again, strict=True)
        ]
        folders = [folder.parent if is_again else folder for folder, is_again in zip(folders, again, strict=True)]
    return names


def write_job(
    layout: RunLayout,
    data: list[Windows],
    plan: Plan,
    *,
    below: str = "",
    splits: Mapping[str, Sequence[Split]] | None = None,
) -> Job:
    """Write the windows as arrays, the splits, and `job.json`.

    Args:
        layout: Where to.
        data: The data sets.
        plan: What is trained on them.
        below: What the arms' folders start with, such as `arms/`; empty: they lie in the run's own folder.
        splits: Data set -> its splits, instead of those that the plan would make.

    Raises:
        DataError: A data set has too few groups for the folds.
    """
    datasets, trainings = [], []
    for windows in data:
        arrays = layout.arrays(windows.name)
        arrays.parent.mkdir(parents=True, exist_ok=True)
        save_arrays(windows, arrays)
        datasets.append(JobData(windows.name, _relative(layout, arrays), windows.sha256, sha256_file(arrays)))
        shown = windows.name if len(data) > 1 else None
        made = splits[windows.name] if splits else make_splits(windows, group_windows(windows), plan)
        for split in made:
            path = layout.split(windows.name, split.seed, split.fold)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_split(split, path)
            trainings += [
                _training(layout, windows, split, path, plan, arm, member, shown, below)
                for arm in plan.arms
                for member in range(plan.ensemble)
            ]
    # Seeds first: when a run is cut short, whole seeds are there rather than one fold of each.
    trainings.sort(key=lambda training: (training.seed % MEMBER_SEED_STEP, training.fold))
    digest = ""
    if plan.arm_module is not None:
        # A copy: what is trained, here or elsewhere, is what was loaded, whatever becomes of the user's file.
        write_atomically(layout.root / ARM_MODULE, plan.arm_module.expanduser().read_bytes())
        digest = sha256_file(layout.root / ARM_MODULE)
    job = Job(layout.run_id, tuple(datasets), tuple(trainings), digest)
    save_job(job, layout.job_json)
    return job


def make_splits(windows: Windows, grouping: Grouping, plan: Plan) -> list[Split]:
    """Return the splits of every seed, in the order of seeds and folds."""
    match plan.split:
        case "seed":
            return [replace(seed_split(windows.num_windows), seed=seed) for seed in range(plan.seeds)]
        case "grouped":
            splits: list[Split] = []
            for seed in range(plan.seeds):
                if plan.folds == 1:
                    splits.append(holdout_split(windows, grouping, seed=seed))
                else:
                    splits += grouped_folds(
                        windows,
                        grouping,
                        num_folds=plan.folds,
                        seed=seed,
                        validation_fraction=FOLD_VALIDATION_FRACTION,
                    )
            return splits
        case _:
            assert_never(plan.split)


def _training(
    layout: RunLayout,
    windows: Windows,
    split: Split,
    rows: Path,
    plan: Plan,
    arm: str,
    member: int,
    shown_dataset: str | None,
    below: str,
) -> Training:
    # Both arms and folds see all of a data set's spans here: only the head's size depends on it.
    chosen = fitted_recipe(plan.recipe_of(arm), windows)
    seed = split.seed + member * MEMBER_SEED_STEP
    return Training(
        arm=arm,
        dataset=windows.name,
        seed=seed,
        fold=split.fold,
        recipe=chosen,
        rows=_relative(layout, rows),
        output_dir=below + training_folder(arm, shown_dataset, split.seed, split.fold, member),
        run_key=run_key(
            data_sha256=windows.sha256,
            recipe=chosen,
            seed=seed,
            fold=split.fold,
            train_rows=split.train_rows,
            validation_rows=split.validation_rows,
        ),
    )


def _relative(layout: RunLayout, path: Path) -> str:
    return path.relative_to(layout.root).as_posix()


def splits_of(layout: RunLayout, job: Job, dataset: str) -> list[Split]:
    """Return the splits of a data set that the job's trainings were made on, by seed and fold."""
    paths = dict.fromkeys(training.rows for training in job.trainings if training.dataset == dataset)
    found = [load_split(layout.root / path) for path in paths]
    return sorted(found, key=lambda split: (split.seed, split.fold))


def members_of(job: Job, arm: str, dataset: str, seed: int, fold: int) -> list[Training]:
    """Return the trainings that make up one model of the comparison: one, or an ensemble's members."""
    return [
        training
        for training in job.trainings
        if (training.arm, training.dataset, training.seed % MEMBER_SEED_STEP, training.fold)
        == (arm, dataset, seed, fold)
    ]
