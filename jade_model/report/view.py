"""The numbers of a comparison's report, as rows and phrases for its template: what is computed, not how it reads.

Legend: E epochs, R runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jade_model.report.actions import next_actions, run_folder
from jade_model.report.contract import Difference
from jade_model.report.facts import ArmFacts, Curves, Facts
from jade_model.report.findings import (
    CLEAR_SEPARATION,
    NO_SEPARATION,
    OVERFITTING_RISE,
    POOR_ECE,
    find_insights,
    marks_everything,
    marks_nothing,
    merged,
)
from jade_model.report.headline import badge, headline, title
from jade_model.report.inputs import GalleryWindow, Spans
from jade_model.report.markup import code, plain
from jade_model.report.naming import (
    BOUNDARIES,
    DECODER_NAMES,
    EXTENDING,
    INFERENCE,
    INFERENCE_RANK,
    contestant,
    decoder_name,
    metric_name,
    spelled_out,
    task_name,
)
from jade_model.report.numbers import (
    ABSENT,
    count,
    duration,
    interval,
    is_number,
    join,
    moment,
    number,
    p_value,
    percent,
    plural,
    signed,
    with_interval,
)

Rows = list[list[str]]
ArmCell = Callable[[ArmFacts], str]

TREND_LENGTH = 30
MANY_FILES = 25
PLATEAU = 0.95
QUICK_SHARE = 0.6
FORGIVING = 0.02
EXAMPLE_KINDS = ("best", "median", "worst")
CHECK_MARKS = {"passed": "passed", "warning": "**look at it**", "failed": "**failed**"}
UNITS = {
    "soft_span": "mean over bars, so small numbers",
    "crf": "negative log-likelihood of a whole window's tags: grows with the window's length",
    "single_span": "negative log-probability of one start and length out of all in the window",
}


def report_context(facts: Facts) -> dict[str, Any]:
    """Return everything that `report.md.j2` names."""
    settings = facts.numbers["settings"]
    return {
        "facts": facts,
        "numbers": facts.numbers,
        "settings": settings,
        "run": facts.report.run,
        "arms": facts.arms,
        "names": [arm.name for arm in facts.arms],
        "title": title(facts),
        "headline": headline(facts),
        "first_screen": first_screen(facts),
        "badge": badge(facts)[0],
        "actions": next_actions(facts),
        "findings": merged(find_insights(facts), facts),
        "folder": run_folder(facts),
        "reason": plain(spelled_out(facts.numbers["verdict"]["reason"], facts.styles)),
        "caveats": [plain(spelled_out(caveat, facts.styles)) for caveat in facts.numbers["verdict"]["caveats"]],
        "event_names": [f"{arm.name} (event)" for arm in facts.arms],
        "found_names": [f"{arm.name}: marked; F1; confidence" for arm in facts.arms],
        "contestant": lambda key: contestant(key, facts.styles),
        "view": _Namespace(facts),
        **PARTS,
    }


class _Namespace:
    """The functions of this module, for a template: `view.quick_rows()` instead of `quick_rows(facts)`."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments: globals()[name](self._facts, *arguments)


# The first screen


def first_screen(facts: Facts) -> list[tuple[str, str]]:
    """Return label and value of what is looked at first: what, since when, on what data, at what cost, where."""
    settings, run = facts.numbers["settings"], facts.report.run
    lines = [("Date", moment(facts.numbers["created_at"])), ("Dataset", _data_line(facts))]
    if since := since_last(facts):
        lines.append(("Since the last comparison", since))
    if data := _data_alarm(facts):
        lines.append(("Data checks", data))
    parameters = join([f"{count(arm.arm['num_parameters'])} ({arm.name})" for arm in facts.arms])
    lines.append(("Model", f"JadeCompact, {parameters} parameters"))
    epochs = sorted({trained["epochs"] for arm in facts.arms for trained in arm.arm["runs"]})
    recipes = join([code(name) for name in dict.fromkeys(arm.arm["recipe"] for arm in facts.arms)])
    repetition = f"{plural(len(settings['seeds']), 'seed')} x " + (
        "a single split" if settings["num_folds"] <= 1 else plural(settings["num_folds"], "fold")
    )
    shown = join([str(epoch) for epoch in epochs]) or "no"
    split = code(settings["split"])
    lines.append(("Training", f"{shown} epochs, recipes {recipes}, {repetition}, {split} split"))
    if cost := _cost_line(run):
        lines.append(("Cost", cost))
    lines.append(("Run", f"{code(run_folder(facts))}; what was said is in {code('log.jsonl')}"))
    return lines


def since_last(facts: Facts) -> str:
    """Say how each arm's F1 moved since the comparison before this one; empty if there was none."""
    points = [point for point in facts.report.trend or () if point.run_id != facts.numbers["run_id"]]
    if not points:
        return ""
    last = points[-1].run_id
    before = {point.arm: point for point in points if point.run_id == last}
    moved = [
        f"{arm.name} {number(before[arm.key].f1)} → {number(arm.decoder['f1'])} "
        f"({signed((arm.decoder['f1'] or 0.0) - before[arm.key].f1)})"
        for arm in facts.arms
        if arm.key in before
    ]
    return f"{join(moved) or 'other arms'}, against {code(last)}"


def _data_line(facts: Facts) -> str:
    data = facts.numbers["data"]
    sets = [
        f"{plain(item['name'])} ({count(item['num_windows'])} windows in {count(item['num_groups'])} "
        f"groups, {item['num_train']} train / {item['num_validation']} validation / {item['num_test']} test)"
        for item in data[:4]
    ]
    return "; ".join([*sets, *([f"{plural(len(data) - 4, 'further data set')}"] if len(data) > 4 else [])])


def _data_alarm(facts: Facts) -> str:
    checks = [check for report in facts.report.data_checks for check in report["checks"]]
    odd = [plain(check["name"]) for check in checks if check["status"] != "passed"]
    return f"look at {join(odd)}" if odd else f"all {count(len(checks))} passed" if checks else ""


def _cost_line(run: Mapping[str, Any]) -> str:
    rental = run.get("rental")
    if not isinstance(rental, Mapping):
        return ""
    replaced = sum(1 for machine in rental["machines"] if machine["problem"])
    lost = f", {plural(replaced, 'machine')} lost or replaced" if replaced else ""
    return f"{rental['cost_usd']:.2f} USD for {plural(len(rental['machines']), 'machine')}{lost}"


# Summary and verdict


def quick_rows(facts: Facts) -> Rows:
    """Return the quick comparison, a line a measure."""
    several = ", all runs" if facts.num_runs > len(facts.arms) else ""
    lines: list[tuple[str, ArmCell]] = [
        ("**F1 (bars)**", lambda a: f"**{with_interval(a.decoder['f1'], a.decoder['confidence_interval'])}**"),
        ("Event F1 (IoU 0.5)", _event_f1),
        ("Read out by", lambda a: decoder_name(a.best_decoder)),
        ("Precision / recall", lambda a: f"{number(a.decoder['precision'])} / {number(a.decoder['recall'])}"),
        ("Same network, untrained (F1)", lambda a: number(a.arm["summary"]["untrained"]["f1"])),
        (f"Untrained rule (F1 {number(facts.rule)})", lambda a: _beaten(facts.beats_rule(a.key))),
        (f"Marking every bar (F1 {number(facts.all_positive)})", lambda a: _beaten(facts.beats_all_positive(a))),
        ("Probability separation", lambda a: number(a.separation)),
        ("ECE / Brier", lambda a: " / ".join(number(a.arm["summary"]["calibration"][x]) for x in ("ece", "brier"))),
        (
            "Validation loss reduction (own units)",
            lambda a: percent(a.reduction) if a.has_validation else "no validation loss",
        ),
        ("Parameters", lambda a: count(a.arm["num_parameters"])),
        (f"Training time{several}", lambda a: duration(a.seconds_train)),
    ]
    return [[label, *[cell(arm) for arm in facts.arms]] for label, cell in lines]


def _event_f1(arm: ArmFacts) -> str:
    return with_interval(arm.decoder["span_f1_iou50"], arm.decoder.get("span_confidence_interval"))


def _beaten(beats: bool | None) -> str:  # noqa: FBT001 - a table cell
    return ABSENT if beats is None else "beaten ✓" if beats else "not beaten ✗"


def verdict_line(facts: Facts) -> str:
    """Return the verdict's difference with its interval, in words."""
    verdict = facts.numbers["verdict"]
    first, second = contestant(verdict["first"], facts.styles), contestant(verdict["second"], facts.styles)
    outcome = {"winner": "One arm is better", "equivalent": "Equivalent", "undecided": "Undecided"}[verdict["outcome"]]
    return (
        f"**{outcome}.** {first} minus {second}: {signed(verdict['difference'])} "
        f"{interval(verdict['confidence_interval'], with_sign=True)} in {metric_name(verdict['metric'])}, "
        f"read out by {_decoders(facts, verdict['decoder'])}."
    )


def what_would_decide(facts: Facts) -> str:
    """Say what it would take to decide what is undecided, as the end of a sentence."""
    verdict = facts.numbers["verdict"]
    if verdict["outcome"] != "undecided":
        return "the question above is decided, so no more data are needed for it."
    if verdict.get("lack") is not None:
        return "this design gives no verdict, whatever the scores: see the sentence at the top."
    more, seeds = verdict["groups_needed"], verdict.get("seeds_needed")
    ways = [
        *([] if more is None else [f"about {count(more)} more base windows at the same seeds and folds"]),
        *([] if seeds is None else [f"{plural(int(seeds), 'more seed')} on the same windows"]),
    ]
    if not ways:
        return "neither more base windows nor more seeds alone would decide, it takes both."
    return f"{' or '.join(ways)} would decide, if the difference stays what it is."


def _decoders(facts: Facts, text: str | None) -> str:
    if text is None:
        return "each arm's best decoder"
    names = {
        **{key: style.name for key, style in facts.styles.items()},
        **{key: name.lower() for key, name in DECODER_NAMES.items()},
    }
    keys = sorted(names, key=len, reverse=True)
    return plain(re.sub(rf"\b(?:{'|'.join(map(re.escape, keys))})\b", lambda found: names[found.group()], text))


def difference_rows(facts: Facts, is_pooled: bool) -> Rows:  # noqa: FBT001 - from a template
    """Return differences with intervals and p-values: pooled, or by data set."""
    return [
        [
            _pair(facts, item) + ("" if is_pooled else f" ({plain(item['dataset'])})"),
            metric_name(item["metric"]),
            signed(item["difference"]),
            interval(item["confidence_interval"], with_sign=True),
            p_value(item["p_value"]),
            p_value(item["adjusted_p_value"]),
            _outcome(facts, item),
        ]
        for item in facts.numbers["differences"]
        if (item["dataset"] is None) == is_pooled
    ]


def _pair(facts: Facts, item: Difference) -> str:
    return f"{contestant(item['first'], facts.styles)} − {contestant(item['second'], facts.styles)}"


def _outcome(facts: Facts, item: Difference) -> str:
    if item["outcome"] != "winner":
        return item["outcome"]
    better = item["first"] if (item["difference"] or 0.0) > 0 else item["second"]
    return f"**{contestant(better, facts.styles)}** better"


def baseline_rows(facts: Facts) -> Rows:
    """Return the arms beside what costs no training."""
    baselines = facts.numbers["baselines"]
    rule, every = baselines["largest_move"], baselines["all_positive"]
    untrained = [(arm.name, arm.arm["summary"]["untrained"]) for arm in facts.arms]
    return [
        ["Marking every bar", number(every["f1"]), number(every["span_f1_iou50"])],
        *[[f"{name}, untrained", number(of["f1"]), number(of["span_f1_iou50"])] for name, of in untrained],
        [
            f"Untrained rule: largest {facts.rule_move}",
            with_interval(rule["f1"], rule.get("confidence_interval")),
            number(rule["span_f1_iou50"]),
        ],
        *[
            [
                f"**{arm.name}**",
                f"**{with_interval(arm.decoder['f1'], arm.decoder['confidence_interval'])}**",
                f"**{_event_f1(arm)}**",
            ]
            for arm in facts.arms
        ],
    ]


def fold_rows(facts: Facts) -> Rows:
    """Return F1 and event F1 of every scored part."""
    by_arm = [
        {(item["dataset"], item["seed"], item["fold"]): item for item in arm.decoder["per_fold"]} for arm in facts.arms
    ]
    keys = sorted({key for scores in by_arm for key in scores})
    return [
        [plain(key[0]), str(key[1]), str(key[2])]
        + [number(scores[key]["f1"]) if key in scores else ABSENT for scores in by_arm]
        + [number(scores[key]["span_f1_iou50"]) if key in scores else ABSENT for scores in by_arm]
        for key in keys
    ]


def data_set_rows(facts: Facts) -> Rows:
    """Return each arm's F1 by data set, then pooled."""
    rows = []
    for data in facts.numbers["data"]:
        cells = [arm.decoder["per_dataset"].get(data["name"]) for arm in facts.arms]
        shown = [ABSENT if cell is None else with_interval(cell["f1"], cell["confidence_interval"]) for cell in cells]
        rows.append([plain(data["name"]), *shown])
    pooled = [f"**{with_interval(a.decoder['f1'], a.decoder['confidence_interval'])}**" for a in facts.arms]
    return [*rows, ["**All, pooled**", *pooled]]


# Training


def loss_scale_rows(facts: Facts) -> Rows:
    """Return first and last loss of each arm, and the unit of its span loss."""
    rows = []
    for arm in facts.arms:
        curve_E = mean_curve(arm.validation_RE if arm.has_validation else arm.train_RE)
        moved = f"{number(curve_E[0], 2)} → {number(curve_E[-1], 2)}" if curve_E.size else ABSENT
        rows.append([arm.name, moved, UNITS.get(arm.arm["loss"], "its own")])
    return rows


def convergence(_facts: Facts, arm: ArmFacts) -> str:
    """Say how an arm's validation loss fell."""
    if not arm.has_validation:
        return "cannot be told without validation losses"
    curve_E = mean_curve(arm.validation_RE)
    fall = curve_E[0] - curve_E.min()
    if not fall > 0:
        return "the validation loss never fell"
    early = max(1, curve_E.size // 10)
    share = float((curve_E[0] - curve_E[: early + 1].min()) / fall)
    shape = "aggressive at first, then a plateau" if share >= QUICK_SHARE else "gradual"
    rise = arm.rise_since_best or 0.0
    end = f"overfits at the end ({percent(rise)} above its best)" if rise > OVERFITTING_RISE else "steady to the end"
    return f"{shape} ({percent(share, 0)} of its fall in the first {early} epochs), {end}"


def mean_curve(table_RE: Curves) -> Curves:
    """Return the mean over runs of each epoch, NaN where no run has one, shape [E]."""
    there = np.isfinite(table_RE)
    total = np.where(there, table_RE, 0.0).sum(axis=0)
    num = there.sum(axis=0)
    return np.where(num > 0, total / np.maximum(num, 1), np.nan)


def trajectory(_facts: Facts, arm: ArmFacts) -> str:
    """Return the losses of some epochs, a line each."""
    train_E, validation_E = mean_curve(arm.train_RE), mean_curve(arm.validation_RE)
    if train_E.size == 0:
        return "no epochs were recorded"
    has_validation = np.isfinite(validation_E).any()
    best = int(np.nanargmin(validation_E)) + 1 if has_validation else 0
    digits = len(str(train_E.size))
    lines = []
    for epoch in shown_epochs(train_E.size, best):
        line = f"Epoch {str(epoch) + ':':<{digits + 1}} train_loss={train_E[epoch - 1]:.4f}"
        if has_validation:
            line += f", val_loss={validation_E[epoch - 1]:.4f}  ({_remark(validation_E, epoch, best)})"
        lines.append(line)
    return "\n".join(lines)


def _remark(validation_E: Curves, epoch: int, best: int) -> str:
    first, now = validation_E[0], validation_E[epoch - 1]
    if epoch == 1:
        return "baseline"
    if not (math.isfinite(now) and math.isfinite(first)) or first <= 0 or now <= 0:
        return "lowest" if epoch == best else "not comparable with epoch 1"
    change = f"↓ {first / now:.2f}x since epoch 1" if now <= first else f"↑ {now / first:.2f}x since epoch 1"
    if epoch == best:
        return f"{change}, lowest"
    since_best = now / validation_E[best - 1] - 1
    return f"{change}, {percent(since_best)} above the lowest" if epoch > best and since_best > 0.001 else change


def shown_epochs(num_epochs: int, best: int = 0) -> list[int]:
    """Return the epochs worth a line: the first, the fifth, round steps, the best and the last."""
    target = max(num_epochs / 5, 1)
    scale = 10 ** math.floor(math.log10(target))
    step = min((scale * factor for factor in (1, 2, 5, 10)), key=lambda s: abs(s - target))
    epochs = {1, num_epochs, *range(step, num_epochs + 1, step)}
    if num_epochs >= 20:
        epochs.add(5)
    if best:
        epochs.add(best)
    return sorted(epochs)


def characteristics(_facts: Facts, arm: ArmFacts) -> list[str]:
    """Say what is to be known of an arm's losses, a sentence each."""
    train_E, validation_E = mean_curve(arm.train_RE), mean_curve(arm.validation_RE)
    if train_E.size == 0:
        return ["No epochs were recorded."]
    if not arm.has_validation:
        return [
            "**No validation losses were recorded**, so neither overfitting nor the best epoch can be told",
            f"Training loss, first to last epoch: {_fall(train_E[0], train_E[-1], None)}",
        ]
    first, last, lowest = validation_E[0], validation_E[-1], float(np.nanmin(validation_E))
    items = [f"**Total reduction** of the validation loss, first to last epoch: {_fall(first, last, arm.reduction)}"]
    if first > lowest:
        reached = int(np.flatnonzero(validation_E <= first - PLATEAU * (first - lowest))[0]) + 1
        items.append(
            f"**Plateau**: {percent(PLATEAU, 0)} of the way to its lowest point ({number(lowest, 2)}) was done by "
            f"epoch {reached}"
        )
    else:
        items.append("**No descent**: the validation loss never fell below its first value")
    if arm.rise_since_best is not None and arm.best_epoch is not None:
        where = f"best at epoch {number(arm.best_epoch, 0)} of {arm.epochs}"
        where += " (median over runs)" if len(arm.arm["runs"]) > 1 else ""
        label = "Overfitting" if arm.rise_since_best > OVERFITTING_RISE else "No overfitting to speak of"
        items.append(f"**{label}**: {where}, {percent(arm.rise_since_best)} above it at the end")
    if arm.wobble is not None:
        items.append(
            f"**Stability**: the validation loss moves {percent(arm.wobble)} from epoch to epoch over the last half"
        )
    return items


def _fall(first: float, last: float, reduction: float | None) -> str:
    share = reduction if reduction is not None else (1 - last / first if first > 0 else None)
    return f"{number(first, 2)} → {number(last, 2)} = **{percent(share)}**"


def run_rows(_facts: Facts, arm: ArmFacts) -> Rows:
    """Return every training of an arm."""
    return [
        [
            plain(run["dataset"]),
            str(run["seed"]),
            str(run["fold"]),
            ABSENT if run.get("best_epoch") is None else str(run.get("best_epoch")),
            percent(run.get("validation_loss_reduction")),
            percent(run.get("validation_loss_rise_since_best")),
            number(run.get("temperature"), 2),
            duration(run["seconds"].get("train")),
            ABSENT if run["checkpoint"] is None else code(run["checkpoint"]),
        ]
        for run in arm.arm["runs"]
    ]


def weight_rows(facts: Facts) -> Rows:
    """Return each task's learned sigma and the share of the loss that follows from it."""
    tasks = list(dict.fromkeys(task for arm in facts.arms for task in arm.weights))
    return [
        [task_name(task), *[f"{number(a.sigmas.get(task), 3)} → {percent(a.weights.get(task))}" for a in facts.arms]]
        for task in tasks
    ]


def heaviest(_facts: Facts, arm: ArmFacts) -> str:
    """Name the task that an arm weighs most, with its share."""
    if not arm.weights:
        return ABSENT
    task = max(arm.weights, key=lambda name: arm.weights[name])
    return f"{task_name(task)} {percent(arm.weights[task])}"


# Probabilities


def separation_rows(facts: Facts) -> Rows:
    """Return mean probabilities in and out of spans, and what their distance means."""
    rows = []
    for arm in facts.arms:
        found = arm.arm["summary"]["separation"]
        means = [number(found[name]) for name in ("in_span_mean", "out_of_span_mean", "separation")]
        rows.append([arm.name, *means, _separation_meaning(arm)])
    return rows


def _separation_meaning(arm: ArmFacts) -> str:
    if arm.separation is None:
        return "no bar inside a span was scored"
    if arm.separation < NO_SEPARATION:
        return "✗ about 0: it has not learned to tell in-span from out-of-span"
    if arm.separation < CLEAR_SEPARATION:
        return "moderate: it ranks bars within a window more than it is sure of any"
    return "✓ clear: most of its probability is where the spans are"


def with_separation(facts: Facts, kind: str) -> list[str]:
    """Name the arms whose separation is `none` or `clear`."""
    known = [(arm.name, arm.separation) for arm in facts.arms if arm.separation is not None]
    if kind == "none":
        return [name for name, separation in known if separation < NO_SEPARATION]
    return [name for name, separation in known if separation >= CLEAR_SEPARATION]


def calibration_rows(facts: Facts) -> Rows:
    """Return Brier score, calibration error and temperature, with their reading."""
    rows = []
    for arm in facts.arms:
        found = arm.arm["summary"]["calibration"]
        shown = [number(found["brier"], 4), number(found["ece"], 4), number(found["temperature"], 2)]
        rows.append([arm.name, *shown, _calibration_reading(arm)])
    return rows


def _calibration_reading(arm: ArmFacts) -> str:
    ece = arm.arm["summary"]["calibration"]["ece"]
    if ece is None:
        return ABSENT
    if ece > POOR_ECE:
        return "poor: do not use the probabilities as such"
    if arm.separation is not None and arm.separation < NO_SEPARATION:
        return "right on average, and uninformative"
    return "good" if ece <= 0.02 else "fair"


def head_rows(facts: Facts) -> Rows:
    """Return the other heads' errors, trained and read off the span posterior."""
    rows = []
    for arm in facts.arms:
        pointers, countdown = arm.arm["summary"]["pointer_error_bars"], arm.arm["summary"]["countdown_error_bars"]
        head, posterior = pointers["trained_head"], pointers["posterior"]
        rows += [
            [f"{arm.name}: centre", *_better(head["center"], posterior["center"])],
            [f"{arm.name}: length", *_better(head["length"], posterior["length"])],
            [f"{arm.name}: countdown", *_better(countdown["trained_head"], countdown["posterior"])],
        ]
    return rows


def _better(head: float | None, posterior: float | None) -> list[str]:
    if head is None or posterior is None:
        return [number(head, 1), number(posterior, 1), ABSENT]
    better = "equal" if head == posterior else "span posterior" if posterior < head else "trained head"
    return [number(head, 1), number(posterior, 1), better]


def type_rows(facts: Facts) -> Rows:
    """Return the accuracy of types beside that of always naming the commonest."""
    found = [(arm.name, arm.arm["summary"]["type"]) for arm in facts.arms]
    return [[name, percent(of["accuracy"]), percent(of["majority_accuracy"])] for name, of in found]


# Thresholds


def decoder_rows(facts: Facts) -> Rows:
    """Return every decoder's threshold and scores."""
    rows: Rows = []
    for arm in facts.arms:
        for name, scores in arm.arm["summary"]["decoders"].items():
            is_best = name == arm.best_decoder
            f1 = with_interval(scores["f1"], scores["confidence_interval"])
            rows.append(
                [
                    arm.name,
                    f"**{decoder_name(name)}** (used)" if is_best else decoder_name(name),
                    "none" if scores["threshold"] is None else number(scores["threshold"]),
                    number(scores["precision"]),
                    number(scores["recall"]),
                    f"**{f1}**" if is_best else f1,
                    f"{number(scores['span_f1_iou50'])} / {number(scores['span_f1_iou50_95'])}",
                    number(arm.arm["summary"]["untrained"]["f1"]),
                    number(facts.all_positive),
                ]
            )
    return rows


def curves_of(facts: Facts) -> str:
    """Say which windows the curves are of; empty without curves."""
    curves = [curve for by_decoder in facts.report.curves.values() for curve in by_decoder.values()]
    return plain(join(sorted({curve.selected_on.removeprefix("the ") for curve in curves})))


def threshold_advice(facts: Facts, arm: ArmFacts) -> str:
    """Say by which decoder and threshold an arm is read out, and how far that may be moved."""
    text = f"**{arm.name}**: read out by {decoder_name(arm.best_decoder).lower()}"
    curve = facts.report.curves.get(arm.key, {}).get(arm.best_decoder)
    if arm.decoder["threshold"] is None and curve is None:
        return f"{text}, which needs no threshold"
    text += f" at {number(arm.decoder['threshold'])}"
    if curve is None or not np.isfinite(curve.f1).any():
        return text
    good = np.flatnonzero(curve.f1 >= np.nanmax(curve.f1) - FORGIVING)
    low, high = curve.threshold[good[0]], curve.threshold[good[-1]]
    return (
        f"{text}; on the {plain(curve.selected_on.removeprefix('the '))} thresholds from {number(low, 2)} to "
        f"{number(high, 2)} hold a place within {FORGIVING} F1 of the best"
    )


def training_gains(facts: Facts) -> list[str]:
    """Say what training brought each arm, and whether the CRF extracts spans."""
    items = []
    for arm in facts.arms:
        f1, before = arm.decoder["f1"], arm.arm["summary"]["untrained"]["f1"]
        items.append(f"**Does training {arm.name} beat the same network untrained?** {_gain(f1, before)}")
    return items + [
        f"**Does training enable the CRF to extract spans?** {_extracts(facts, arm)}: event F1 "
        f"{number(arm.decoder['span_f1_iou50'])}, recall of bars {number(arm.decoder['recall'])} at precision "
        f"{number(arm.decoder['precision'])}"
        for arm in facts.arms
        if arm.arm["loss"] == "crf"
    ]


def _gain(f1: float | None, before: float | None) -> str:
    if f1 is None or before is None:
        return "It was not measured"
    if f1 <= before:
        return f"No: {number(before)} → {number(f1)}"
    return f"Yes: {number(before)} → {number(f1)}" + (f", {f1 / before:.1f}x" if before > 0 else "")


def _extracts(facts: Facts, arm: ArmFacts) -> str:
    if marks_nothing(facts, arm) is not None:
        return "No, it marks next to nothing"
    if marks_everything(facts, arm) is not None:
        return "No, it marks bars blindly"
    return "Yes" if facts.beats_all_positive(arm) else "Not shown, its interval reaches down to marking every bar"


# Windows


def examples(facts: Facts) -> list[GalleryWindow]:
    """Return the best, median and worst windows, in that order."""
    order = {kind: rank for rank, kind in enumerate(EXAMPLE_KINDS)}
    return sorted((w for w in facts.report.gallery if w.kind in order), key=lambda window: order[window.kind])


def errors(facts: Facts) -> list[GalleryWindow]:
    """Return the mistakes, most confident first."""
    return sorted((w for w in facts.report.gallery if w.kind == "error"), key=lambda w: (-mistaken(w)[1], w.window_id))


def disagreements(facts: Facts) -> list[GalleryWindow]:
    """Return windows where the arms differ, most first."""
    return sorted((w for w in facts.report.gallery if w.kind == "disagreement"), key=lambda w: (-_gap(w), w.window_id))


def mistaken(window: GalleryWindow) -> tuple[str, float]:
    """Return the arm that was wrong with the highest confidence, and that confidence."""
    wrong = [arm for arm, f1 in window.f1.items() if f1 < 0.5] or [min(window.f1, key=lambda arm: window.f1[arm])]
    arm = max(wrong, key=lambda name: window.confidence.get(name, 0.0))
    return arm, window.confidence.get(arm, 0.0)


def _gap(window: GalleryWindow) -> float:
    return max(window.f1.values()) - min(window.f1.values()) if window.f1 else 0.0


def window_rows(facts: Facts, windows: Sequence[GalleryWindow]) -> Rows:
    """Return labelled and marked bars of windows, a line each."""

    def found(window: GalleryWindow, arm: str) -> str:
        marked = _bars(window.predicted[arm]) if arm in window.predicted else ABSENT
        return f"{marked}; **{number(window.f1.get(arm), 2)}**; {number(window.confidence.get(arm), 2)}"

    return [
        [code(w.window_id), w.kind, _bars(w.true_spans), *[found(w, arm.key) for arm in facts.arms]] for w in windows
    ]


def _bars(spans: Spans) -> str:
    """First and last bar, both inclusive, as the data files count."""
    shown = [f"{start}-{end - 1}" for start, end in spans][:4]
    return ", ".join(shown) + (" ..." if len(spans) > 4 else "") if shown else "none"


# Recommendation


def criteria_rows(facts: Facts) -> Rows:
    """Return the criterion table, with a mark at the best of a line where one stands out."""
    lines: list[tuple[str, ArmCell, Callable[[ArmFacts], float | None], bool, float]] = [
        ("Convergence speed", _speed, lambda a: a.settled_epoch, True, 1.0),
        ("Loss stability", _stability, lambda a: a.wobble, True, 0.002),
        (
            "Task balance",
            lambda a: heaviest(facts, a),
            lambda a: max(a.weights.values(), default=None),
            True,
            0.02,
        ),
        ("Probability separation", lambda a: number(a.separation), lambda a: a.separation, False, 0.02),
        (
            "Boundary detection (event F1, IoU 0.5:0.95)",
            _boundaries,
            lambda a: a.decoder["span_f1_iou50_95"],
            False,
            0.01,
        ),
        (
            "Calibration (ECE)",
            lambda a: number(a.arm["summary"]["calibration"]["ece"]),
            lambda a: a.arm["summary"]["calibration"]["ece"],
            True,
            0.002,
        ),
        ("Inference complexity", lambda a: INFERENCE.get(a.arm["loss"], ABSENT), _rank, True, 0.5),
        ("Scalability", lambda a: EXTENDING.get(a.arm["loss"], ABSENT), _rank, True, 0.5),
    ]
    winner = facts.numbers["verdict"]["winner"]
    tested = [
        with_interval(a.decoder["f1"], a.decoder["confidence_interval"]) + (" ✓" if a.key == winner else "")
        for a in facts.arms
    ]
    rows = [["**F1 on unseen windows** (tested)", *tested]]
    for label, cell, value, is_low_good, tolerance in lines:
        best = _stands_out([value(arm) for arm in facts.arms], tolerance, is_low_good=is_low_good)
        rows.append([label, *[cell(arm) + (" ✓" if index == best else "") for index, arm in enumerate(facts.arms)]])
    return rows


def _speed(arm: ArmFacts) -> str:
    return ABSENT if arm.settled_epoch is None else f"90 % done by epoch {number(arm.settled_epoch, 0)}"


def _stability(arm: ArmFacts) -> str:
    return ABSENT if arm.wobble is None else f"± {percent(arm.wobble)} an epoch"


def _boundaries(arm: ArmFacts) -> str:
    how = BOUNDARIES.get(arm.arm["loss"])
    return number(arm.decoder["span_f1_iou50_95"]) + (f", {how}" if how else "")


def _rank(arm: ArmFacts) -> float | None:
    return INFERENCE_RANK.get(arm.arm["loss"])


def _stands_out(values: Sequence[float | None], tolerance: float, *, is_low_good: bool) -> int | None:
    scored = [((-v if is_low_good else v), index) for index, v in enumerate(values) if v is not None and is_number(v)]
    if len(scored) < 2:
        return None
    scored.sort(reverse=True)
    return scored[0][1] if scored[0][0] - scored[1][0] >= tolerance else None


def useful(facts: Facts) -> list[ArmFacts]:
    """Return the arms that are shown to beat the untrained rule, highest F1 first."""
    return [arm for arm in facts.ranking() if facts.beats_rule(arm.key)]


def simplest(_facts: Facts, arms: Sequence[ArmFacts]) -> ArmFacts:
    """Return the arm that is cheapest to run."""
    return min(arms, key=lambda arm: INFERENCE_RANK.get(arm.arm["loss"], 9))


def arm_of(facts: Facts, key: str) -> ArmFacts:
    """Return an arm by its name in the comparison."""
    return next(arm for arm in facts.arms if arm.key == key)


# Trend, data, files, reproducibility


def trend_rows(facts: Facts) -> Rows:
    """Return the last comparisons, an arm a line."""
    points = list(facts.report.trend or ())
    runs = list(dict.fromkeys(point.run_id for point in points))[-TREND_LENGTH:]
    return [
        [
            code(point.run_id),
            moment(point.created_at),
            contestant(point.arm, facts.styles),
            with_interval(point.f1, point.confidence_interval),
            ABSENT if point.seeds is None else f"{point.seeds} x {point.folds}, {point.epochs}",
            number(point.separation),
            duration(point.seconds),
            ABSENT if point.cost_usd is None else f"${point.cost_usd:.2f}",
        ]
        for point in points
        if point.run_id in runs
    ]


def num_trend(facts: Facts) -> int:
    """Count the comparisons that the trend shows."""
    return min(TREND_LENGTH, len({point.run_id for point in facts.report.trend or ()}))


def fallen(facts: Facts) -> list[str]:
    """Say which arms fell out of the row of comparisons before."""
    names = {arm.key: arm.name for arm in facts.arms}
    scores = {arm.key: arm.decoder["f1"] for arm in facts.arms}
    told = []
    for band in facts.report.bands:
        f1 = scores[band["arm"]]
        scored = band.get("scored", f1)
        if scored is None or scored >= band["low"]:
            continue
        average = "" if scored == f1 else f", {number(scored)} in the weighted average of the last comparisons"
        told.append(
            f"{names[band['arm']]} scores {number(f1)}{average}; {band['num_earlier']} earlier comparisons make "
            f"{number(band['expected'])} expected, and nothing under {number(band['low'])}."
        )
    return told


def check_rows(reports: Sequence[Mapping[str, Any]]) -> Rows:
    """Return what was asked of the data, as `DataReport.to_json` has it; the data set first where there are several."""
    several = len(reports) > 1
    return [
        [
            *([plain(report["dataset"])] if several else []),
            plain(check["name"]),
            CHECK_MARKS[check["status"]],
            plain(check["found"]),
            plain(check["expected"]),
        ]
        for report in reports
        for check in report["checks"]
    ]


def drift_figure(dataset: str, *, several: bool) -> str:
    """Return the name of a data set's drift figure."""
    return f"drift-{''.join(char if char.isalnum() else '-' for char in dataset)}" if several else "drift"


def drift_rows(report: Mapping[str, Any]) -> Rows:
    """Return how far each feature has moved."""
    return [
        [plain(item["feature"]), number(item["psi"]), number(item["ks"]), p_value(item["p_value"])]
        for item in report["drift"]
    ]


def reproducibility_rows(facts: Facts) -> Rows:
    """Return settings, code, host and versions."""
    run, numbers, settings = facts.report.run, facts.numbers, facts.numbers["settings"]
    found = run.get("code_version") or run.get("code") or "not recorded"
    version = {k: v for k, v in found.items() if v is not None} if isinstance(found, Mapping) else str(found)
    return [
        ["Run", code(numbers["run_id"])],
        ["Compared", moment(numbers["created_at"])],
        *[[plain(name), code(value)] for name, value in _flat(version, "Code")],
        ["Seeds", ", ".join(map(str, settings["seeds"]))],
        ["Folds", "single split" if settings["num_folds"] <= 1 else str(settings["num_folds"])],
        ["Split", code(settings["split"])],
        ["Weights scored", f"{plain(settings['checkpoint'])} epoch, {plural(settings['ensemble'], 'member')}"],
        ["Decoder", code(settings["decoder"])],
        ["Minimum span length, merged gap", f"{settings['min_span_length']}, {settings['merge_gap']} bars"],
        ["Margin, confidence", f"{number(settings['margin'], 3)}, {percent(settings['confidence'], 0)}"],
        *[["Recipe of " + arm.name, code(arm.arm["recipe"])] for arm in facts.arms],
        *[[plain(name), plain(value)] for name, value in _flat(run.get("host"), "Host")],
        *[[plain(name), plain(value)] for name, value in _flat(run.get("versions"), "Version of")],
    ]


def _flat(value: Mapping[str, Any] | str | None, label: str) -> list[tuple[str, str]]:
    if not isinstance(value, Mapping):
        return [] if value is None else [(label, str(value))]
    return [
        pair
        for key, item in value.items()
        for pair in _flat(item if isinstance(item, Mapping) else str(item), f"{label} {key}")
    ]


def data_rows(facts: Facts) -> Rows:
    """Return sizes and features of the data sets."""
    return [
        [
            plain(item["name"]),
            count(item["num_windows"]),
            count(item["num_groups"]),
            count(item["num_shared_bar_joins"]),
            f"{item['num_train']} / {item['num_validation']} / {item['num_test']}",
            count(item["window_length"]),
            percent(item["in_span_rate"]),
            plain(item["feature_set"]),
        ]
        for item in facts.numbers["data"]
    ]


def time_rows(facts: Facts) -> Rows:
    """Return where the run's time went."""
    run = facts.report.run
    rows = [
        [plain(str(phase).replace("_", " ")).capitalize(), duration(spent)]
        for phase, spent in (run.get("seconds") or {}).items()
    ]
    rows += [
        [f"Training, {arm.name}, all runs", duration(arm.seconds_train)]
        for arm in facts.arms
        if arm.seconds_train is not None
    ]
    overhead = run.get("overhead")
    if isinstance(overhead, Mapping):
        parts = [(str(name).replace("_", " "), spent) for name, spent in overhead.items() if is_number(spent)]
        rows += [[f"Overhead, {plain(name)}", duration(spent)] for name, spent in parts]
    elif overhead is not None:
        rows.append(["Overhead (all that is not training)", duration(overhead)])
    return rows


def machine_rows(rental: Mapping[str, Any]) -> Rows:
    """Return what was rented, what it cost, and what was tried before."""
    rows = [
        [
            plain(machine["title"]) + (" (spot)" if machine["spot"] else ""),
            f"${machine['price_usd_per_hour']:.2f}",
            f"{machine['hours']:.2f}",
            f"${machine['cost_usd']:.2f}",
            plain(machine["problem"] or machine["state"]),
        ]
        for machine in rental["machines"]
    ]
    tried = [
        [plain(item["what"]), f"${item['price_usd_per_hour']:.2f}", ABSENT, ABSENT, plain(item["outcome"])]
        for item in rental["tried"]
    ]
    return rows + tried


PARTS = {
    "check_rows": check_rows,
    "drift_rows": drift_rows,
    "drift_figure": drift_figure,
    "machine_rows": machine_rows,
}
"""What `parts.md.j2` names."""
