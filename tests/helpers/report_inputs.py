"""Made-up but coherent inputs for reports: scores belong to probabilities, probabilities to windows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from helpers.report_windows import (
    Made,
    T,
    bar_scores,
    flat_probabilities,
    make_gallery,
    make_probabilities,
    make_windows,
    sweep,
)
from jade_model.report import Curve, ReportInput, TrendPoint

TASKS = ("pointer", "type", "span", "countdown")
DECODERS = {
    "soft_span": ("threshold", "one_span"),
    "crf": ("viterbi", "marginal", "score_margin", "one_span"),
    "single_span": ("threshold", "marginal", "one_span"),
}
SKILL = {"soft_span": 2.6, "crf": 3.0, "single_span": 4.6}
SHARPNESS = {"soft_span": 0.30, "crf": 0.42, "single_span": 0.60}
FINAL_SIGMA = {
    "soft_span": {"pointer": 0.5492, "type": 0.8474, "span": 0.7536, "countdown": 1.2642},
    "crf": {"pointer": 0.5491, "type": 0.8377, "span": 1.2437, "countdown": 1.2996},
    "single_span": {"pointer": 0.71, "type": 0.80, "span": 0.66, "countdown": 0.98},
}
LOSS_SCALE = {"soft_span": (17.7, 0.23), "crf": (66.9, 0.42), "single_span": (9.4, 0.55)}


class RunHistory(NamedTuple):
    """One training, epoch by epoch."""

    dataset: str
    seed: int
    fold: int
    epochs: list[dict[str, Any]]


def history(
    rng: np.random.Generator, arm: str, epochs: int, *, validation: bool, overfit: float
) -> list[dict[str, Any]]:
    top, fall = LOSS_SCALE[arm]
    records = []
    progress = np.linspace(0, 1, epochs)
    validation_E = (
        top * (1 - fall * (1 - np.exp(-4 * progress)) / (1 - np.exp(-4))) * (1 + rng.normal(0, 0.008, epochs))
    )
    validation_E *= 1 + overfit * np.maximum(progress - 0.7, 0) / 0.3
    train_E = (
        0.6
        * top
        * (1 - 1.5 * fall * (1 - np.exp(-3 * progress)) / (1 - np.exp(-3)))
        * (1 + rng.normal(0, 0.012, epochs))
    )
    for index in range(epochs):
        sigma = {task: 1 + (value - 1) * float(progress[index]) ** 0.7 for task, value in FINAL_SIGMA[arm].items()}
        inverse = {task: value**-2 for task, value in sigma.items()}
        records.append(
            {
                "epoch": index + 1,
                "train_loss": float(train_E[index]),
                "validation_loss": float(validation_E[index]) if validation else None,
                "losses": {task: float(train_E[index]) / 4 for task in TASKS},
                "validation_losses": {task: float(validation_E[index]) / 4 for task in TASKS} if validation else None,
                "sigma": sigma,
                "task_weight": {task: value / sum(inverse.values()) for task, value in inverse.items()},
                "learning_rate": 1e-3,
                "gradient_norm": 1.0,
                "seconds": 0.08,
            }
        )
    return records


def make_report_input(
    arms: Sequence[str] = ("soft_span", "crf"),
    *,
    seeds: Sequence[int] = (0,),
    num_folds: int = 5,
    datasets: Sequence[str] = ("expansions_btcusd_m30",),
    num_windows: int = 120,
    epochs: int = 50,
    learned: bool = True,
    validation: bool = True,
    gallery: bool = True,
    split: str = "grouped",
    overfit: float = 0.0,
    trend: bool = False,
    rng_seed: int = 7,
) -> ReportInput:
    """Make a report's input.

    Args:
        arms: Names out of soft_span, crf, single_span.
        learned: Whether the arms found anything, or show the original's pathology (separation about 0).
        overfit: Fraction by which the validation loss rises over the last 30 % of the epochs.
    """
    rng = np.random.default_rng(rng_seed)
    made = {name: make_windows(rng, num_windows) for name in datasets}
    truth_NT = np.concatenate([windows.truth_NT for windows in made.values()])
    rate = float(truth_NT.mean())
    parts = list(itertools.product(datasets, seeds, range(num_folds)))
    probabilities, arm_numbers, curves = {}, {}, {}
    for arm in arms:
        per_set = [
            make_probabilities(rng, windows, SKILL[arm], SHARPNESS[arm])
            if learned
            else flat_probabilities(rng, windows, 0.044 if arm == "soft_span" else 0.052)
            for windows in made.values()
        ]
        p_NT = probabilities[arm] = np.concatenate(per_set)
        curve = sweep(p_NT, truth_NT)
        curves[arm] = {decoder: curve for decoder in DECODERS[arm] if decoder in {"threshold", "marginal"}}
        if arm == "crf":
            scaled = np.linspace(-2, 9, 194)
            curves[arm]["score_margin"] = Curve(
                scaled, curve.precision, curve.recall, curve.f1, 1.4, "validation windows"
            )
        histories = [
            RunHistory(dataset, seed, fold, history(rng, arm, epochs, validation=validation, overfit=overfit))
            for dataset, seed, fold in parts
        ]
        arm_numbers[arm] = _arm(rng, arm, p_NT, truth_NT, curve, parts, datasets, histories, learned=learned)
    comparison = _comparison(arms, arm_numbers, made, seeds, num_folds, split, rate)
    windows = (
        make_gallery(arms, made[datasets[0]], {arm: probabilities[arm][:num_windows] for arm in arms})
        if gallery
        else []
    )
    return ReportInput(
        comparison=comparison,
        run=_run(comparison),
        curves=curves,
        gallery=windows,
        files=[
            *[(f"{arm}/checkpoint_{arm}_{epochs}.pt", 402_133, f"{arm}: weights, settings, split") for arm in arms],
            *[(f"{arm}/training_{arm}_{epochs}.log", 3_120, f"{arm}: training log") for arm in arms],
            ("comparison.json", 48_211, "every number of this report"),
            ("report/SOFT_SPAN_VS_CRF_COMPARISON.md", 30_500, "this report"),
        ],
        trend=_trend(arms) if trend else None,
    )


def _arm(
    rng: np.random.Generator,
    arm: str,
    p_NT: NDArray[np.float64],
    truth_NT: NDArray[np.bool_],
    curve: Curve,
    parts: Sequence[tuple[str, int, int]],
    datasets: Sequence[str],
    runs: Sequence[RunHistory],
    *,
    learned: bool,
) -> dict[str, Any]:
    inside, outside = p_NT[truth_NT], p_NT[~truth_NT]
    edges = np.linspace(0, 1, 51)
    decoders = {}
    for rank, name in enumerate(DECODERS[arm]):
        cutoff = curve.chosen if name in {"threshold", "marginal"} else None
        scores = bar_scores(p_NT >= (curve.chosen or 0.5) * (1 + 0.02 * rank), truth_NT)
        event = min(scores["f1"] * 1.02, 1.0)
        decoders[name] = {
            "threshold": 1.4 if name == "score_margin" else cutoff,
            **scores,
            "macro_f1": scores["f1"] * 0.98,
            "span_f1_iou50": event,
            "span_f1_iou50_95": event * 0.7,
            "confidence_interval": [max(scores["f1"] - 0.041, 0.0), min(scores["f1"] + 0.038, 1.0)],
            "span_confidence_interval": [max(event - 0.05, 0.0), min(event + 0.047, 1.0)],
            "per_fold": [
                {
                    "dataset": dataset,
                    "seed": seed,
                    "fold": fold,
                    "threshold": cutoff,
                    "f1": float(np.clip(scores["f1"] + 0.03 * np.sin(3 * fold + seed) + rng.normal(0, 0.012), 0, 1)),
                    "span_f1_iou50": float(
                        np.clip(event + 0.04 * np.sin(3 * fold + seed) + rng.normal(0, 0.015), 0, 1)
                    ),
                }
                for dataset, seed, fold in parts
            ],
            "per_dataset": {
                dataset: {
                    "f1": scores["f1"] + 0.01 * index,
                    "confidence_interval": [max(scores["f1"] - 0.06 + 0.01 * index, 0), min(scores["f1"] + 0.055, 1)],
                    "span_f1_iou50": event - 0.01 * index,
                }
                for index, dataset in enumerate(datasets)
            },
        }
    bins = np.linspace(0, 1, 11)
    reliability = []
    for lower, upper in itertools.pairwise(bins):
        chosen = (p_NT >= lower) & (p_NT < upper)
        reliability.append(
            {
                "lower": float(lower),
                "upper": float(upper),
                "mean_probability": float(p_NT[chosen].mean()) if chosen.any() else None,
                "observed_rate": float(truth_NT[chosen].mean()) if chosen.any() else None,
                "num_bars": int(chosen.sum()),
            }
        )
    return {
        "loss": arm,
        "recipe": f"{'jade' if learned else 'seed'}_{arm}",
        "feature_set": "displacement-17" if learned else "relativity-12",
        "num_parameters": {"soft_span": 97547, "crf": 97748, "single_span": 98013}[arm],
        "ensemble_size": 1,
        "runs": [_training(arm, run) for run in runs],
        "summary": {
            "separation": {
                "in_span_mean": float(inside.mean()),
                "out_of_span_mean": float(outside.mean()),
                "separation": float(inside.mean() - outside.mean()),
            },
            "calibration": {
                "brier": 0.031,
                "ece": 0.008 if learned else 0.012,
                "temperature": 1.12,
                "reliability": reliability,
            },
            "untrained": {"f1": 0.0981, "span_f1_iou50": 0.004},
            "histogram": {
                "edges": edges.tolist(),
                "in_span": np.histogram(inside, edges)[0].tolist(),
                "out_of_span": np.histogram(outside, edges)[0].tolist(),
            },
            "pointer_error_bars": {
                "trained_head": {"center": 12.4, "length": 2.9},
                "posterior": {"center": 5.6 if learned else 26.0, "length": 2.1},
            },
            "countdown_error_bars": {"trained_head": 5.1, "posterior": 2.2 if learned else 9.0},
            "type": {"accuracy": 0.81 if learned else 0.674, "majority_accuracy": 0.674},
            "best_decoder": DECODERS[arm][-1] if learned else DECODERS[arm][0],
            "decoders": decoders,
        },
    }


def _training(arm: str, run: RunHistory) -> dict[str, Any]:
    validation = [record["validation_loss"] for record in run.epochs]
    has_validation = validation[0] is not None
    best = int(np.argmin(validation)) if has_validation else None
    last = run.epochs[-1]
    return {
        "dataset": run.dataset,
        "seed": run.seed,
        "fold": run.fold,
        "epochs": len(run.epochs),
        "train_loss": [record["train_loss"] for record in run.epochs],
        "validation_loss": validation if has_validation else [],
        "best_epoch": best + 1 if best is not None else None,
        "validation_loss_reduction": 1 - validation[-1] / validation[0] if has_validation else None,
        "validation_loss_rise_since_best": validation[-1] / validation[best] - 1 if best is not None else None,
        "sigma": last["sigma"],
        "task_weight": last["task_weight"],
        "seconds": {"train": 4.2, "evaluate": 0.6},
        "checkpoint": f"{arm}/seed{run.seed}-fold{run.fold}/checkpoint_{arm}_{len(run.epochs)}.pt",
        "run_key": "ab" * 32,
        "temperature": 1.12,
    }


def _comparison(
    arms: Sequence[str],
    arm_numbers: dict[str, Any],
    made: dict[str, Made],
    seeds: Sequence[int],
    num_folds: int,
    split: str,
    rate: float,
) -> dict[str, Any]:
    def f1(arm: str, metric: str) -> float:
        summary = arm_numbers[arm]["summary"]
        return float(summary["decoders"][summary["best_decoder"]][metric])

    rule = {"f1": 0.6213, "span_f1_iou50": 0.667}
    differences = []
    views = [None, *(made if len(made) > 1 else ())]
    pairs = [*itertools.combinations(arms, 2), *((arm, "largest_move") for arm in arms)]
    for dataset, metric, (first, second) in itertools.product(views, ("f1", "span_f1_iou50"), pairs):
        gap = f1(first, metric) - (rule[metric] if second == "largest_move" else f1(second, metric))
        low, high = gap - 0.045, gap + 0.044
        outcome = "winner" if low > 0 or high < 0 else "equivalent" if low > -0.03 and high < 0.03 else "undecided"
        differences.append(
            {
                "first": first,
                "second": second,
                "metric": metric,
                "dataset": dataset,
                "difference": gap,
                "confidence_interval": [low, high],
                "p_value": 0.0004 if outcome == "winner" else 0.21,
                "adjusted_p_value": 0.0011 if outcome == "winner" else 0.39,
                "outcome": outcome,
            }
        )
    return {
        "schema_version": 1,
        "run_id": "20261122T175000Z-compare-0a1b2c",
        "created_at": "2026-11-22T17:53:12+00:00",
        "settings": {
            "seeds": list(seeds),
            "num_folds": num_folds,
            "split": split,
            "margin": 0.03,
            "confidence": 0.95,
            "min_span_length": 1,
            "merge_gap": 0,
            "checkpoint": "last",
            "ensemble": 1,
            "decoder": "auto",
        },
        "data": [
            {
                "name": name,
                "path": f"data/{name}.parquet",
                "sha256": "8589a402dc5d3d0952cc3a350eb5d57333b2dd1ba327e2d87bb154bfe1e16058",
                "num_windows": len(windows.spans),
                "num_groups": len(windows.spans) // 2,
                "num_shared_bar_joins": 9,
                "num_train": int(len(windows.spans) * 0.6),
                "num_validation": int(len(windows.spans) * 0.2),
                "num_test": int(len(windows.spans) * 0.2),
                "window_length": T,
                "feature_set": arm_numbers[arms[0]]["feature_set"],
                "num_straddling_groups": 17 if split == "seed" else 0,
                "in_span_rate": rate,
                "label_counts": {"consolidation": 80, "retracement": 40},
            }
            for name, windows in made.items()
        ],
        "arms": arm_numbers,
        "baselines": {
            "all_positive": {"f1": 2 * rate / (1 + rate), "span_f1_iou50": 0.0},
            "largest_move": {**rule, "confidence_interval": [0.58, 0.66], "bars": 5},
        },
        "differences": differences,
        "verdict": _verdict(arms, differences, f1, rule["f1"]),
    }


def _verdict(arms: Sequence[str], differences: list[dict[str, Any]], f1: Any, rule: float) -> dict[str, Any]:
    beats = {
        item["first"]: item["confidence_interval"][0] > 0
        for item in differences
        if item["second"] == "largest_move" and item["metric"] == "f1" and item["dataset"] is None
    }
    base = {"metric": "f1", "margin": 0.03, "beats_baseline": beats, "decoder": "one_span"}
    caveats = [f"{arm} is not shown to beat the untrained rule." for arm, beat in beats.items() if not beat]
    best, second = sorted(arms, key=lambda arm: -f1(arm, "f1"))[:2]
    top = next(
        item
        for item in differences
        if {item["first"], item["second"]} == {best, second} and item["metric"] == "f1" and item["dataset"] is None
    )
    is_won = top["outcome"] == "winner"
    return {
        **base,
        "outcome": top["outcome"],
        "winner": best if is_won else None,
        "difference": top["difference"],
        "confidence_interval": top["confidence_interval"],
        "reason": f"On the same windows {best} scores {abs(top['difference']):.3f} more than {second}"
        + (", more than chance explains." if is_won else ", which chance alone could explain."),
        "first": top["first"],
        "second": top["second"],
        "detectable_difference": 0.0651,
        "groups_needed": None if is_won else 143,
        "caveats": caveats,
    }


def _run(comparison: dict[str, Any]) -> dict[str, Any]:
    family = next(iter(comparison["arms"].values()))["recipe"].partition("_")[0]
    return {
        "run_id": comparison["run_id"],
        "started_at": "2026-11-22T17:50:00+00:00",
        "finished_at": "2026-11-22T17:53:20+00:00",
        "parameters": {"data": [data["path"] for data in comparison["data"]], "recipe": family},
        "code_version": "3f2a91c",
        "versions": {"python": "3.11.2", "torch": "2.13.0", "numpy": "2.4.6"},
        "host": {"machine": "x86_64", "cores": 2},
        "seconds": {"prepare": 1.31, "train": 92.4, "evaluate": 7.7, "report": 5.2},
        "overhead": 6.4,
    }


def _trend(arms: Sequence[str]) -> list[TrendPoint]:
    return [
        TrendPoint(
            f"run-{day:02d}",
            f"2026-11-{day:02d}T02:00:00+00:00",
            arm,
            0.7 + 0.01 * np.sin(day) + 0.04 * index,
            (0.66 + 0.01 * np.sin(day) + 0.04 * index, 0.74 + 0.01 * np.sin(day) + 0.04 * index),
            0.5,
            90.0,
        )
        for day in range(1, 13)
        for index, arm in enumerate(arms)
    ]
