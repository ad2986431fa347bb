"""Evaluated arms -> `comparison.json`: summaries, baselines, differences and the verdict.

Legend: N windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jade_model.comparison import model
from jade_model.comparison.summary import ArmTraining, run_of, summarise_probabilities
from jade_model.core.windows import TYPE_NAMES
from jade_model.data.splits import straddling_groups
from jade_model.scoring.baselines import all_positive_scores
from jade_model.scoring.decoding import DecoderName
from jade_model.scoring.evaluate import DataEvaluation
from jade_model.scoring.metrics import ScoredRows, pooled, truth_of
from jade_model.scoring.parts import Score, Scores
from jade_model.statistics.compare import ComparedArms, compare_arms
from jade_model.statistics.pool import RULE, SPAN_SCORE, DataSet, Pool, verdict_decoder
from jade_model.statistics.scored_windows import ArmCounts
from jade_model.statistics.verdict import LEAKS, WHOLE_SPANS_ALONE, Question


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


def compose_comparison(
    run: Mapping[str, Any], settings: Mapping[str, Any], data: Sequence[DataSet], arms: Sequence[EvaluatedArm]
) -> model.Comparison:
    """Return what `comparison.json` says.

    Args:
        run: run_id and created_at.
        settings: Those of the file; decoder is `auto` or a name, margin and confidence decide the verdict.
        data: In the order of the arms' evaluations.
        arms: Two or more, on the same splits.
    """
    asked = model.Settings(**settings)
    judged = {arm.name: _judged_decoder(arm, data, asked.decoder) for arm in arms}
    pool = Pool(data, seeds=asked.seeds)
    counts = [pool.counts(arm.name, _scored(arm.evaluations, judged[arm.name])) for arm in arms]
    compared = compare_arms(
        counts,
        pool.windows,
        Question(margin=asked.margin, confidence=asked.confidence),
        baseline=pool.rule_counts(),
        caveats=_caveats(data, asked),
    )
    decoders = set(judged.values())
    decoder = decoders.pop() if len(decoders) == 1 else ", ".join(f"{arm}: {name}" for arm, name in judged.items())
    verdict = {**dict(compared.verdict), "decoder": decoder}
    baselines = _baselines(data, compared)
    span_score = _against_span_score(pool, counts, asked)
    if span_score is not None:
        baselines |= {SPAN_SCORE: span_score}
        beats = {name: item.outcome == "winner" and item.difference > 0 for name, item in span_score.arms.items()}
        verdict |= {"beats_span_score": beats, "caveats": [*verdict["caveats"], *_unbeaten(span_score, beats)]}
    return model.Comparison(
        schema_version=model.SCHEMA_VERSION,
        **run,
        settings=asked,
        data=[_data_entry(item, arms) for item in data],
        arms={arm.name: _arm(arm, pool, judged[arm.name], asked.confidence) for arm in arms},
        baselines=model.Baselines(**baselines),
        differences=list(compared.differences),
        verdict=model.FullVerdict(**verdict),
    )


def _scored(evaluations: Sequence[DataEvaluation], decoder: DecoderName) -> list[list[ScoredRows]]:
    return [
        [ScoredRows(fold.seed, fold.rows_M, fold.counts[decoder]) for fold in evaluation.folds]
        for evaluation in evaluations
    ]


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


def _data_entry(item: DataSet, arms: Sequence[EvaluatedArm]) -> model.DataEntry:
    windows, split = item.windows, item.splits[0]
    feature_sets = dict.fromkeys(arm.trainings[0].checkpoint.recipe.feature_set for arm in arms)
    labels = {name: int((windows.type_N == index).sum()) for index, name in enumerate(TYPE_NAMES)}
    return model.DataEntry(
        name=windows.name,
        path=windows.path,
        sha256=windows.sha256,
        num_windows=windows.num_windows,
        num_groups=item.grouping.num_groups,
        num_shared_bar_joins=item.grouping.num_shared_bar_joins,
        num_train=len(split.train_rows),
        num_validation=len(split.validation_rows),
        num_test=len(split.test_rows),
        window_length=windows.window_length,
        feature_set=", ".join(feature_sets),
        num_straddling_groups=max(straddling_groups(split, item.grouping) for split in item.splits),
        in_span_rate=float(windows.in_span_NT().mean()),
        label_counts={name: number for name, number in labels.items() if number},
    )


def _arm(arm: EvaluatedArm, pool: Pool, judged: DecoderName, confidence: float) -> model.Arm:
    recipe = arm.trainings[0].checkpoint.recipe
    folds = {
        (evaluation.windows.name, fold.seed, fold.fold): fold
        for evaluation in arm.evaluations
        for fold in evaluation.folds
    }
    untrained = _mean_scores(arm.evaluations, judged, which="untrained")
    return model.Arm(
        loss=recipe.loss,
        recipe=recipe.name,
        feature_set=recipe.feature_set,
        num_parameters=arm.num_parameters,
        ensemble_size=arm.ensemble,
        runs=[run_of(item, folds[item.dataset, item.seed, item.fold]) for item in arm.trainings],
        summary=model.Summary(
            **summarise_probabilities(arm.evaluations),
            untrained=Score(f1=untrained.f1, span_f1_iou50=untrained.span_f1_iou50),
            best_decoder=judged,
            decoders=_decoders(arm, pool, confidence),
        ),
    )


def _decoders(arm: EvaluatedArm, pool: Pool, confidence: float) -> dict[DecoderName, model.Decoder]:
    names = list(arm.evaluations[0].folds[0].choices)
    scored = pool.windows.scores(
        [pool.counts(name, _scored(arm.evaluations, name)) for name in names], confidence=confidence
    )
    found = {(score.arm, score.metric, score.dataset): score.confidence_interval for score in scored}
    folds = [(evaluation.windows.name, fold) for evaluation in arm.evaluations for fold in evaluation.folds]
    several = len(arm.evaluations) > 1
    decoders: dict[DecoderName, model.Decoder] = {}
    for name in names:
        thresholds = [threshold for _, fold in folds if (threshold := fold.choices[name].threshold) is not None]
        per_dataset = {}
        for evaluation in arm.evaluations:
            dataset, scores = evaluation.windows.name, _mean_scores([evaluation], name)
            per_dataset[dataset] = model.DataSetScore(
                f1=scores.f1,
                confidence_interval=found[name, "f1", dataset if several else None],
                span_f1_iou50=scores.span_f1_iou50,
            )
        per_fold = []
        for dataset, fold in folds:
            scores = fold.counts[name].scores()
            per_fold.append(
                model.FoldScore(
                    dataset=dataset,
                    seed=fold.seed,
                    fold=fold.fold,
                    threshold=fold.choices[name].threshold,
                    f1=scores.f1,
                    span_f1_iou50=scores.span_f1_iou50,
                )
            )
        decoders[name] = model.Decoder(
            threshold=float(np.mean(thresholds)) if thresholds else None,
            **dict(_mean_scores(arm.evaluations, name)),
            confidence_interval=found[name, "f1", None],
            span_confidence_interval=found[name, "span_f1_iou50", None],
            per_fold=per_fold,
            per_dataset=per_dataset,
        )
    return decoders


def _mean_scores(
    evaluations: Sequence[DataEvaluation], decoder: DecoderName, which: Literal["counts", "untrained"] = "counts"
) -> Scores:
    """Return the scores of each seed over all its scored windows, averaged over seeds."""
    folds = [fold for evaluation in evaluations for fold in evaluation.folds]
    of_seeds = [
        pooled(getattr(fold, which)[decoder] for fold in folds if fold.seed == seed).scores()
        for seed in dict.fromkeys(fold.seed for fold in folds)
    ]
    return Scores(**{name: float(np.mean([getattr(item, name) for item in of_seeds])) for name in Scores.model_fields})


def _baselines(data: Sequence[DataSet], compared: ComparedArms) -> dict[str, Any]:
    rule, spans = compared.score(RULE), compared.score(RULE, "span_f1_iou50")
    # On the same windows as all else: of a single split those that it scores, of folds all.
    seeds = dict.fromkeys(split.seed for item in data for split in item.splits)
    truths = [
        [truth_of(item.windows).take(split.test_rows) for item in data for split in item.splits if split.seed == seed]
        for seed in seeds
    ]
    everything = [all_positive_scores(of_seed) for of_seed in truths]
    return {
        "all_positive": Score(
            f1=float(np.mean([scores.f1 for scores in everything])),
            span_f1_iou50=float(np.mean([scores.span_f1_iou50 for scores in everything])),
        ),
        RULE: model.RuleScore(
            f1=rule.value,
            span_f1_iou50=spans.value,
            confidence_interval=rule.confidence_interval,
            bars=round(float(np.mean([item.rule_bars for item in data])), 1),
        ),
    }


def _against_span_score(pool: Pool, arms: Sequence[ArmCounts], asked: model.Settings) -> model.SpanScore | None:
    """Return the trained baseline's entry: its scores, and every arm minus it; None if it was left out."""
    baseline = pool.span_score_counts()
    if baseline is None:
        return None
    bars, spans = pool.windows.scores([baseline], confidence=asked.confidence)[:2]
    found = pool.windows.differences(
        [*arms, baseline],
        [(row, len(arms)) for row in range(len(arms))],
        Question(margin=asked.margin, confidence=asked.confidence),
        metrics=("f1",),
        views=False,
    )
    return model.SpanScore(
        f1=bars.value,
        span_f1_iou50=spans.value,
        confidence_interval=bars.confidence_interval,
        num_parameters=max(item.span_score_parameters for item in pool.data),
        arms={
            item.first: model.AgainstSpanScore(
                difference=item.difference, confidence_interval=item.confidence_interval, outcome=item.outcome
            )
            for item in found
        },
    )


def _unbeaten(span_score: model.SpanScore, beats: Mapping[str, bool]) -> list[str]:
    """Say which arms are not shown to be worth their network."""
    alone = f"{WHOLE_SPANS_ALONE} ({span_score.num_parameters} parameters, F1 {span_score.f1:.3f})"
    told = []
    for name, item in span_score.arms.items():
        low, high = item.confidence_interval
        if not beats[name]:
            known = "its interval is unknown" if high - low >= 2 else f"{low:+.3f} to {high:+.3f}"
            verb = "falls short of" if high < 0 else "is not shown to beat"
            told.append(f"{name} {verb} {alone}: the difference is {item.difference:+.3f} ({known}).")
    return told


def _caveats(data: Sequence[DataSet], asked: model.Settings) -> list[str]:
    if asked.split != "seed":
        return []
    straddling = max(straddling_groups(split, item.grouping) for item in data for split in item.splits)
    leaks = f"{LEAKS}: {straddling} groups of windows that share bars stand on both sides"
    return [f"{leaks}, and thresholds were chosen on the windows that they are scored on."]
