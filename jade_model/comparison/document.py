"""Evaluated arms -> `comparison.json`: summaries, baselines, differences and the verdict, as the contract has them.

Legend: N windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jade_model.comparison.summary import run_entry, summarise_probabilities
from jade_model.core.checkpoint import Checkpoint
from jade_model.core.windows import TYPE_NAMES
from jade_model.data.splits import straddling_groups
from jade_model.scoring.baselines import all_positive_scores
from jade_model.scoring.decoding import DecoderName
from jade_model.scoring.evaluate import DataEvaluation, FoldEvaluation
from jade_model.scoring.metrics import Counts, Scores, truth_of
from jade_model.statistics.compare import Comparison, compare_arms
from jade_model.statistics.pool import RULE, SPAN_SCORE, DataSet, Pool, ScoredPart, verdict_decoder
from jade_model.statistics.scored_windows import ArmCounts

SCHEMA_VERSION = 1


@dataclass(frozen=True, eq=False)
class EvaluatedArm:
    """An arm with all its trainings.

    Attributes:
        name: Of the arm.
        trainings: Every training: data set, first member's checkpoint, its path, seconds that it took.
        evaluations: One a data set, in their order.
        ensemble: Members a model.
        num_parameters: Of one member.
    """

    name: str
    trainings: Sequence[ArmTraining]
    evaluations: Sequence[DataEvaluation]
    ensemble: int
    num_parameters: int


@dataclass(frozen=True, eq=False)
class ArmTraining:
    """One training of an arm.

    Attributes:
        dataset: Name of the data set.
        seed: Of the comparison.
        fold: 0-based.
        checkpoint: What was scored.
        path: Of the checkpoint, relative to the run's folder.
    """

    dataset: str
    seed: int
    fold: int
    checkpoint: Checkpoint
    path: str


def compose_comparison(
    run: Mapping[str, Any], settings: Mapping[str, Any], data: Sequence[DataSet], arms: Sequence[EvaluatedArm]
) -> dict[str, Any]:
    """Return `comparison.json`.

    Args:
        run: run_id and created_at.
        settings: The contract's `settings`; decoder is `auto` or a name, margin and confidence decide the verdict.
        data: In the order of the arms' evaluations.
        arms: Two or more, on the same splits.
    """
    judged = {arm.name: _judged_decoder(arm, data, settings["decoder"]) for arm in arms}
    pool = Pool(data, seeds=settings["seeds"])
    counts = {arm.name: pool.counts(arm.name, _parts(arm.evaluations, judged[arm.name])) for arm in arms}
    compared = compare_arms(
        list(counts.values()),
        pool.windows,
        baseline=pool.rule_counts(),
        margin=settings["margin"],
        confidence=settings["confidence"],
        caveats=_caveats(data, settings),
    )
    decoders = set(judged.values())
    decoder = decoders.pop() if len(decoders) == 1 else ", ".join(f"{arm}: {name}" for arm, name in judged.items())
    span_score = _against_span_score(pool, list(counts.values()), settings)
    verdict = {**compared.verdict.to_json(), "decoder": decoder}
    if span_score is not None:
        beats = {
            name: item["outcome"] == "winner" and item["difference"] > 0 for name, item in span_score["arms"].items()
        }
        verdict |= {"beats_span_score": beats, "caveats": [*verdict["caveats"], *_unbeaten(span_score, beats)]}
    return {
        "schema_version": SCHEMA_VERSION,
        **run,
        "settings": dict(settings),
        "data": [_data_entry(item, arms) for item in data],
        "arms": {arm.name: _arm_entry(arm, pool, judged[arm.name], settings["confidence"]) for arm in arms},
        "baselines": _baselines(data, compared) | ({} if span_score is None else {SPAN_SCORE: span_score}),
        "differences": [difference.to_json() for difference in compared.differences],
        "verdict": verdict,
    }


def _parts(evaluations: Sequence[DataEvaluation], decoder: DecoderName) -> Iterator[ScoredPart]:
    for d, evaluation in enumerate(evaluations):
        for fold in evaluation.folds:
            yield ScoredPart(d, fold.seed, fold.rows_M, fold.counts[decoder])


def _judged_decoder(arm: EvaluatedArm, data: Sequence[DataSet], wanted: str) -> DecoderName:
    available = list(arm.evaluations[0].folds[0].choices)
    if wanted == "auto":
        return verdict_decoder(available, data)
    # `threshold` and `marginal` are one decoder under the names that suit a soft head and a posterior.
    match wanted:
        case "threshold" | "marginal":
            return "threshold" if "threshold" in available else "marginal"
        case _:
            return next(name for name in available if name == wanted)


def _data_entry(item: DataSet, arms: Sequence[EvaluatedArm]) -> dict[str, Any]:
    windows, split = item.windows, item.splits[0]
    feature_sets = dict.fromkeys(arm.trainings[0].checkpoint.recipe.feature_set for arm in arms)
    labels = {name: int((windows.type_N == index).sum()) for index, name in enumerate(TYPE_NAMES)}
    return {
        "name": windows.name,
        "path": windows.path,
        "sha256": windows.sha256,
        "num_windows": windows.num_windows,
        "num_groups": item.grouping.num_groups,
        "num_shared_bar_joins": item.grouping.num_shared_bar_joins,
        "num_train": len(split.train_rows),
        "num_validation": len(split.validation_rows),
        "num_test": len(split.test_rows),
        "window_length": windows.window_length,
        "feature_set": ", ".join(feature_sets),
        "num_straddling_groups": max(straddling_groups(split, item.grouping) for split in item.splits),
        "in_span_rate": float(windows.in_span_NT().mean()),
        "label_counts": {name: number for name, number in labels.items() if number},
    }


def _arm_entry(arm: EvaluatedArm, pool: Pool, judged: DecoderName, confidence: float) -> dict[str, Any]:
    recipe = arm.trainings[0].checkpoint.recipe
    folds = {
        (evaluation.windows.name, fold.seed, fold.fold): fold
        for evaluation in arm.evaluations
        for fold in evaluation.folds
    }
    untrained = _mean_scores(_by_seed(arm.evaluations, judged, untrained=True))
    return {
        "loss": recipe.loss,
        "recipe": recipe.name,
        "feature_set": recipe.feature_set,
        "num_parameters": arm.num_parameters,
        "ensemble_size": arm.ensemble,
        "runs": [
            run_entry(
                item.dataset,
                item.seed,
                item.fold,
                item.checkpoint,
                item.path,
                folds[item.dataset, item.seed, item.fold],
            )
            for item in arm.trainings
        ],
        "summary": {
            **summarise_probabilities(arm.evaluations),
            "untrained": {"f1": untrained.f1, "span_f1_iou50": untrained.span_f1_iou50},
            "best_decoder": judged,
            "decoders": _decoder_entries(arm, pool, confidence),
        },
    }


def _decoder_entries(arm: EvaluatedArm, pool: Pool, confidence: float) -> dict[str, Any]:
    names = list(arm.evaluations[0].folds[0].choices)
    scored = pool.windows.scores(
        [pool.counts(name, _parts(arm.evaluations, name)) for name in names], confidence=confidence
    )
    found = {(score.arm, score.metric, score.dataset): score for score in scored}
    entries: dict[str, Any] = {}
    for name in names:
        every = [(evaluation, fold) for evaluation in arm.evaluations for fold in evaluation.folds]
        thresholds = [threshold for _, fold in every if (threshold := fold.choices[name].threshold) is not None]
        entries[name] = {
            "threshold": float(np.mean(thresholds)) if thresholds else None,
            **asdict(_mean_scores(_by_seed(arm.evaluations, name))),
            "confidence_interval": list(found[name, "f1", None].confidence_interval),
            "span_confidence_interval": list(found[name, "span_f1_iou50", None].confidence_interval),
            "per_fold": [_fold_entry(evaluation.windows.name, fold, name) for evaluation, fold in every],
            "per_dataset": {
                evaluation.windows.name: _dataset_entry(evaluation, name, found, len(arm.evaluations))
                for evaluation in arm.evaluations
            },
        }
    return entries


def _fold_entry(dataset: str, fold: FoldEvaluation, decoder: DecoderName) -> dict[str, Any]:
    scores = fold.counts[decoder].scores()
    return {
        "dataset": dataset,
        "seed": fold.seed,
        "fold": fold.fold,
        "threshold": fold.choices[decoder].threshold,
        "f1": scores.f1,
        "span_f1_iou50": scores.span_f1_iou50,
    }


def _dataset_entry(
    evaluation: DataEvaluation, decoder: DecoderName, found: Mapping[Any, Any], num_datasets: int
) -> dict[str, Any]:
    dataset = evaluation.windows.name if num_datasets > 1 else None
    scores = _mean_scores(_by_seed([evaluation], decoder))
    return {
        "f1": scores.f1,
        "confidence_interval": list(found[decoder, "f1", dataset].confidence_interval),
        "span_f1_iou50": scores.span_f1_iou50,
    }


def _by_seed(evaluations: Sequence[DataEvaluation], decoder: DecoderName, *, untrained: bool = False) -> list[Scores]:
    """Return the scores of each seed over all its scored windows."""
    seeds = dict.fromkeys(fold.seed for evaluation in evaluations for fold in evaluation.folds)
    scores = []
    for seed in seeds:
        counts = [
            (fold.untrained if untrained else fold.counts)[decoder]
            for evaluation in evaluations
            for fold in evaluation.folds
            if fold.seed == seed
        ]
        bars_N3 = np.concatenate([item.bars_N3 for item in counts])
        scores.append(Counts(bars_N3, np.concatenate([item.events_NJ3 for item in counts])).scores())
    return scores


def _mean_scores(scores: Sequence[Scores]) -> Scores:
    columns = [asdict(item) for item in scores]
    return Scores(**{name: float(np.mean([column[name] for column in columns])) for name in columns[0]})


def _baselines(data: Sequence[DataSet], compared: Comparison) -> dict[str, Any]:
    rule, spans = compared.score(RULE), compared.score(RULE, "span_f1_iou50")
    everything = all_positive_scores([truth_of(item.windows) for item in data])
    return {
        "all_positive": {"f1": everything.f1, "span_f1_iou50": everything.span_f1_iou50},
        RULE: {
            "f1": rule.value,
            "span_f1_iou50": spans.value,
            "confidence_interval": list(rule.confidence_interval),
            "bars": round(float(np.mean([item.rule_bars for item in data])), 1),
        },
    }


def _against_span_score(pool: Pool, arms: Sequence[ArmCounts], settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the trained baseline's entry: its scores, and every arm minus it; None if it was left out."""
    baseline = pool.span_score_counts()
    if baseline is None:
        return None
    bars, spans = pool.windows.scores([baseline], confidence=settings["confidence"])[:2]
    found = pool.windows.differences(
        [*arms, baseline],
        [(row, len(arms)) for row in range(len(arms))],
        margin=settings["margin"],
        confidence=settings["confidence"],
        metrics=("f1",),
        views=False,
    )
    return {
        "f1": bars.value,
        "span_f1_iou50": spans.value,
        "confidence_interval": list(bars.confidence_interval),
        "num_parameters": max(item.span_score_parameters for item in pool.data),
        "arms": {
            item.first: {
                "difference": item.difference,
                "confidence_interval": list(item.confidence_interval),
                "outcome": item.outcome,
            }
            for item in found
        },
    }


def _unbeaten(span_score: Mapping[str, Any], beats: Mapping[str, bool]) -> list[str]:
    """Say which arms are not shown to be worth their network."""
    alone = f"the score of whole spans alone ({span_score['num_parameters']} parameters, F1 {span_score['f1']:.3f})"
    told = []
    for name, item in span_score["arms"].items():
        low, high = item["confidence_interval"]
        if not beats[name]:
            shown = f"the difference is {item['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
            told.append(f"{name} is not shown to beat {alone}: {shown}.")
    return told


def _caveats(data: Sequence[DataSet], settings: Mapping[str, Any]) -> list[str]:
    caveats = []
    if settings["split"] == "seed":
        straddling = max(straddling_groups(split, item.grouping) for item in data for split in item.splits)
        caveats.append(
            f"The split leaks: {straddling} groups of windows that share bars stand on both sides, and thresholds were "
            "chosen on the windows that they are scored on."
        )
    return caveats
