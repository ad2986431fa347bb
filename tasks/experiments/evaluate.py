"""Score what was trained, and compose the comparison."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jade_model.comparison.document import EvaluatedArm, compose_comparison
from jade_model.comparison.files import write_comparison
from jade_model.comparison.summary import ArmTraining
from jade_model.core.checkpoint import load_checkpoint, model_of
from jade_model.core.config import Recipe
from jade_model.core.files import atomic_path, write_atomically
from jade_model.core.job import Job, Training, load_job
from jade_model.core.training_files import files_of
from jade_model.core.windows import Windows, load_arrays
from jade_model.data.splits import Split, group_windows
from jade_model.scoring.decoding import Cleanup, DecoderName, decoders_of
from jade_model.scoring.evaluate import DataEvaluation, FoldEvaluation, evaluate_fold, evaluate_rule
from jade_model.scoring.gallery import compose_gallery
from jade_model.scoring.metrics import truth_of
from jade_model.scoring.predict import Predictor, predict, predictor_of, untrained_predictor
from jade_model.scoring.predictions import Predictions
from jade_model.scoring.span_score import evaluate_span_score
from jade_model.scoring.trained import Decoding, save_decoding
from jade_model.statistics.pool import DataSet, verdict_decoder
from tasks.core.layout import RunLayout
from tasks.execution.base import checkpoint_of
from tasks.experiments.plan import members_of, splits_of
from tasks.settings.environment import available_cores

CURVE_COLUMNS = ("decoder", "dataset", "seed", "fold", "threshold", "precision", "recall", "f1", "chosen")
CURVE_POINTS = 200


@dataclass(frozen=True)
class EvaluationSettings:
    """How trained models are scored.

    Attributes:
        checkpoint: `last` or `best`.
        margin: F1 differences up to this are equivalent.
        confidence: Of every interval.
        min_span_length: Shorter predicted spans are dropped, in bars.
        merge_gap: Gaps up to this many bars are closed.
        split: `grouped` or `seed`.
        num_folds: Of the cross-validation.
        ensemble: Members a model.
        decoder: `auto`, or the one that arms are judged by.
    """

    checkpoint: str
    margin: float
    confidence: float
    min_span_length: int
    merge_gap: int
    split: str
    num_folds: int
    ensemble: int
    decoder: str = "auto"


def evaluate_run(layout: RunLayout, settings: EvaluationSettings, *, created_at: str) -> None:
    """Score every arm of a trained run; write `comparison.json`, threshold curves, predictions and the gallery."""
    job = load_job(layout.job_json)
    windows = {item.name: load_arrays(layout.root / item.arrays) for item in job.data}
    splits = {name: splits_of(layout, job, name) for name in windows}
    data = []
    for name, item in windows.items():
        rule, rule_bars = evaluate_rule(item, splits[name])
        data.append(DataSet(item, group_windows(item), splits[name], rule, rule_bars))
    data = [_with_span_score(item, data, settings) for item in data]
    arms = evaluate_arms(layout, job, windows, splits, settings)
    comparison = compose_comparison(
        {"run_id": layout.run_id, "created_at": created_at},
        {
            "seeds": sorted({split.seed for found in splits.values() for split in found}),
            **vars(settings),
        },
        data,
        arms,
    )
    judged = {name: arm.summary.best_decoder for name, arm in comparison.arms.items()}
    for arm in arms:
        write_curves(layout, arm)
        write_decodings(layout, job, arm, judged[arm.name], settings.checkpoint)
        write_predictions(layout, arm, judged[arm.name])
    gallery = compose_gallery({arm.name: arm.evaluations for arm in arms}, judged)
    write_atomically(layout.gallery_json, json.dumps(gallery) + "\n")
    write_comparison(layout.comparison_json, comparison.to_json())


def _with_span_score(item: DataSet, data: Sequence[DataSet], settings: EvaluationSettings) -> DataSet:
    """Train the baseline that scores whole spans on the same splits, decoded as the single-span arm is."""
    decoder = verdict_decoder(decoders_of("single_span"), data)
    cleanup = Cleanup(settings.min_span_length, settings.merge_gap)
    scored, num_parameters = evaluate_span_score(item.windows, item.splits, decoder, cleanup=cleanup)
    return replace(item, span_score=scored, span_score_parameters=num_parameters)


@dataclass(frozen=True)
class _BegunArm:
    """An arm whose trainings are being scored; fields as EvaluatedArm's."""

    name: str
    runs: list[ArmTraining]
    scored: dict[str, list[Future[FoldEvaluation]]]
    num_parameters: int


def evaluate_arms(
    layout: RunLayout,
    job: Job,
    windows: Mapping[str, Windows],
    splits: Mapping[str, Sequence[Split]],
    settings: EvaluationSettings,
) -> list[EvaluatedArm]:
    """Score all trainings of a job, each on what its split holds out.

    Args:
        layout: Of the run.
        job: What was trained.
        windows: Data sets by name.
        splits: Likewise.
        settings: How models are scored.

    Returns:
        Arms in the order of the job.
    """
    names = dict.fromkeys(training.arm for training in job.trainings)
    # numpy and torch let go of the interpreter for most of it. All is begun before any of it is waited for, the
    # untrained models first: others wait for them.
    with ThreadPoolExecutor(available_cores()) as pool:
        untrained = {
            (arm, data, seed): pool.submit(_before_training, training.recipe, seed, windows[data])
            for (arm, data, seed), training in _first_trainings(job, splits).items()
        }
        begun = [_begin_arm(pool, layout, job, name, windows, splits, settings, untrained) for name in names]
        return [
            EvaluatedArm(
                arm.name,
                arm.runs,
                [
                    DataEvaluation(item, truth_of(item), [unit.result() for unit in arm.scored[name]])
                    for name, item in windows.items()
                ],
                settings.ensemble,
                arm.num_parameters,
            )
            for arm in begun
        ]


def _begin_arm(
    pool: ThreadPoolExecutor,
    layout: RunLayout,
    job: Job,
    arm: str,
    windows: Mapping[str, Windows],
    splits: Mapping[str, Sequence[Split]],
    settings: EvaluationSettings,
    untrained: Mapping[tuple[str, str, int], Future[Predictions]],
) -> _BegunArm:
    cleanup = Cleanup(settings.min_span_length, settings.merge_gap)
    runs: list[ArmTraining] = []
    scored: dict[str, list[Future[FoldEvaluation]]] = {name: [] for name in windows}
    num_parameters = 0
    for name, item in windows.items():
        for split in splits[name]:
            members = members_of(job, arm, name, split.seed, split.fold)
            before = untrained[arm, name, members[0].seed]
            predictor, run = _load_members(layout, members, split, settings.checkpoint)
            num_parameters = predictor.models[0].num_parameters()
            runs.append(run)
            scored[name].append(pool.submit(_score_unit, item, cleanup, predictor, before, split))
    return _BegunArm(arm, runs, scored, num_parameters)


def _first_trainings(job: Job, splits: Mapping[str, Sequence[Split]]) -> dict[tuple[str, str, int], Training]:
    """Return one training of each arm, data set and seed: before its first step a model is the same in every fold."""
    found: dict[tuple[str, str, int], Training] = {}
    for arm in dict.fromkeys(training.arm for training in job.trainings):
        for name, of_data in splits.items():
            for split in of_data:
                first = members_of(job, arm, name, split.seed, split.fold)[0]
                found.setdefault((arm, name, first.seed), first)
    return found


def _before_training(recipe: Recipe, seed: int, windows: Windows) -> Predictions:
    return predict(untrained_predictor(recipe, seed=seed), windows)


def _score_unit(
    windows: Windows, cleanup: Cleanup, trained: Predictor, untrained: Future[Predictions], split: Split
) -> FoldEvaluation:
    # Nothing can lock up: the pool was handed the untrained model before whoever waits for it.
    return evaluate_fold(trained, untrained.result(), windows, split, cleanup=cleanup)


def _load_members(
    layout: RunLayout, members: Sequence[Training], split: Split, which: str
) -> tuple[Predictor, ArmTraining]:
    paths = [checkpoint_of(files_of(training, layout.root), which) for training in members]
    checkpoints = [load_checkpoint(path, feature_set_name=members[0].recipe.feature_set) for path in paths]
    predictor = predictor_of([model_of(item) for item in checkpoints], members[0].recipe)
    first = members[0]
    return predictor, ArmTraining(
        first.dataset, split.seed, split.fold, checkpoints[0], paths[0].relative_to(layout.root).as_posix()
    )


def write_curves(layout: RunLayout, arm: EvaluatedArm) -> None:
    """Write the selection windows' threshold curves, thinned for figures; `chosen` marks the threshold in use."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CURVE_COLUMNS)
    for evaluation in arm.evaluations:
        for fold in evaluation.folds:
            for name, curve in fold.curves.items():
                writer.writerows(_curve_rows(evaluation, fold, name, curve.thinned(CURVE_POINTS)))
    layout.thresholds(arm.name).parent.mkdir(exist_ok=True)
    write_atomically(layout.thresholds(arm.name), text.getvalue())


def _curve_rows(evaluation: DataEvaluation, fold: FoldEvaluation, name: Any, curve: Any) -> list[tuple[Any, ...]]:
    key = (name, evaluation.windows.name, fold.seed, fold.fold)
    chosen = fold.choices[name].threshold
    columns = (curve.threshold_D, curve.precision_D, curve.recall_D, curve.f1_D)
    return [(*key, *(f"{value:.6g}" for value in row), chosen) for row in zip(*columns, strict=True)][::-1]


def write_decodings(layout: RunLayout, job: Job, arm: EvaluatedArm, decoder: DecoderName, which: str) -> None:
    """Leave beside each model how its output is decoded, for `jade predict`."""
    folds = {(item.windows.name, fold.seed, fold.fold): fold for item in arm.evaluations for fold in item.folds}
    for run in arm.trainings:
        members = members_of(job, arm.name, run.dataset, run.seed, run.fold)
        folder = layout.root / members[0].output_dir
        fold = folds[run.dataset, run.seed, run.fold]
        paths = [checkpoint_of(files_of(training, layout.root), which) for training in members]
        relative = tuple(path.relative_to(folder).as_posix() for path in paths)
        save_decoding(Decoding(fold.choices[decoder], fold.temperature, relative), folder)


def write_predictions(layout: RunLayout, arm: EvaluatedArm, decoder: Any) -> None:
    """Write what the arm said of every scored window: one row a window and seed."""
    columns: dict[str, list[Any]] = {name: [] for name in ("window_id", "dataset", "seed", "fold", "temperature")}
    probability, predicted = [], []
    for evaluation in arm.evaluations:
        for fold in evaluation.folds:
            number = len(fold.rows_M)
            columns["window_id"] += evaluation.windows.window_id_N[fold.rows_M].tolist()
            columns["dataset"] += [evaluation.windows.name] * number
            columns["seed"] += [fold.seed] * number
            columns["fold"] += [fold.fold] * number
            columns["temperature"] += [fold.temperature] * number
            probability.append(fold.predictions.probability_NT.astype(np.float32))
            predicted.append(fold.predicted[decoder])
    longest = max(item.shape[1] for item in probability)
    padded = [np.pad(item, ((0, 0), (0, longest - item.shape[1])), constant_values=np.nan) for item in probability]
    marked = [np.pad(item, ((0, 0), (0, longest - item.shape[1]))) for item in predicted]
    arrays: dict[str, Any] = {name: np.array(values) for name, values in columns.items()}
    layout.predictions(arm.name).parent.mkdir(exist_ok=True)
    with atomic_path(layout.predictions(arm.name)) as temporary, Path(temporary).open("wb") as file:
        np.savez_compressed(
            file,
            **arrays,
            probability=np.concatenate(padded),
            predicted=np.concatenate(marked),
            decoder=np.array(decoder),
        )
