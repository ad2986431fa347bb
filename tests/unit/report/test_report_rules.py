"""Each rule of a report fires on its pattern, and only then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.report_reading import changed, rendered

from jade_model.report import ReportInput
from jade_model.report.facts import gather
from jade_model.report.findings import find_insights, merged
from jade_model.report.findings.of_arms import ARM_RULES
from jade_model.report.findings.of_run import RUN_RULES

Change = Callable[[dict[str, Any]], object]
CRF = "arms.crf.summary"


def put(path: str, value: Any) -> Change:
    """Set one field; `*` goes through all of a list, `best` to the arm's decoder in use."""

    def change(comparison: dict[str, Any]) -> None:
        places: list[Any] = [comparison]
        *steps, last = path.split(".")
        for step in steps:
            if step == "*":
                places = [item for place in places for item in place]
            elif step == "best":
                places = [place["decoders"][place["best_decoder"]] for place in places]
            else:
                places = [place[step] for place in places]
        for place in places:
            place[last] = value

    return change


def both(*changes: Change) -> Change:
    return lambda comparison: [change(comparison) for change in changes]


def scores(**fields: Any) -> Change:
    return both(*[put(f"{CRF}.best.{name}", value) for name, value in fields.items()])


def crf_against_single_span(*items: dict[str, Any]) -> Change:
    """A verdict that CRF won, and the differences that it rests on."""
    common = {
        "first": "crf", "second": "single_span", "metric": "f1", "dataset": None, "difference": 0.1,
        "confidence_interval": [0.05, 0.15], "p_value": 0.01, "adjusted_p_value": 0.02, "outcome": "winner",
    }  # fmt: skip

    def change(comparison: dict[str, Any]) -> None:
        comparison["differences"] = [{**common, **item} for item in items]
        comparison["verdict"].update(
            outcome="winner", winner="crf", first="crf", second="single_span", metric="f1", difference=0.1
        )

    return change


def folds(*f1: float) -> Change:
    common = {"dataset": "d", "seed": 0, "threshold": None, "span_f1_iou50": 0.5}
    parts = [{**common, "fold": fold, "f1": value} for fold, value in enumerate(f1)]
    return both(*[put(f"arms.{arm}.summary.best.per_fold", parts) for arm in ("soft_span", "crf", "single_span")])


def validation(last: float, best_epoch: int) -> Change:
    losses = [*np.linspace(10, 5, 29).tolist(), last]
    return both(put("arms.crf.runs.*.validation_loss", losses), put("arms.crf.runs.*.best_epoch", best_epoch))


def weights(pointer: float, span: float) -> Change:
    rest = (1 - pointer - span) / 2
    return put("arms.crf.runs.*.task_weight", {"pointer": pointer, "span": span, "type": rest, "countdown": rest})


def decoders(viterbi: float, marginal: float) -> Change:
    return both(put(f"{CRF}.decoders.viterbi.f1", viterbi), put(f"{CRF}.decoders.marginal.f1", marginal))


def beats(*, crf: bool) -> Change:
    return put("verdict.beats_baseline", {"crf": crf})


EVENTS = "span_f1_iou50"
RULES: list[tuple[str, Change, Change]] = [
    ("leak", put("data.*.num_straddling_groups", 3), put("data.*.num_straddling_groups", 0)),
    ("leak", put("settings.split", "seed"), put("settings.split", "grouped")),
    ("one_seed", put("settings.seeds", [4]), put("settings.seeds", [4, 5])),
    ("shared_bars", put("data.*.num_shared_bar_joins", 2), put("data.*.num_shared_bar_joins", 0)),
    (
        "metrics_disagree",
        crf_against_single_span({}, {"metric": EVENTS, "difference": -0.1}),
        crf_against_single_span({}, {"metric": EVENTS}),
    ),
    (
        "data_sets_disagree",
        crf_against_single_span({}, {"dataset": "eth", "difference": -0.1}),
        crf_against_single_span({}, {"dataset": "eth"}),
    ),
    (
        "training_noise",
        crf_against_single_span({"training_share": 0.7}),
        crf_against_single_span({"training_share": 0.3}),
    ),
    (
        "training_set_luck",
        both(crf_against_single_span({}), put("data.*.num_groups", 10)),
        both(crf_against_single_span({}), put("data.*.num_groups", 100)),
    ),
    ("fold_spread", folds(0.5, 0.75), folds(0.5, 0.65)),
    ("no_separation", put(f"{CRF}.separation.separation", -0.002), put(f"{CRF}.separation.separation", 0.2)),
    ("clear_separation", put(f"{CRF}.separation.separation", 0.6), put(f"{CRF}.separation.separation", 0.39)),
    (
        "below_all_positive",
        scores(f1=0.13, confidence_interval=[0.1, 0.2]),
        scores(f1=0.2, confidence_interval=[0.15, 0.25]),
    ),
    ("below_untrained", scores(f1=0.09), scores(f1=0.2)),
    ("marks_everything", scores(precision=0.07, recall=0.9), scores(precision=0.5, recall=0.9)),
    ("marks_nothing", scores(recall=0.01), scores(recall=0.1)),
    ("beats_rule", beats(crf=True), beats(crf=False)),
    ("not_beating_rule", beats(crf=False), beats(crf=True)),
    ("wide_interval", scores(confidence_interval=[0.6, 0.8]), scores(confidence_interval=[0.7, 0.75])),
    ("poor_calibration", put(f"{CRF}.calibration.ece", 0.09), put(f"{CRF}.calibration.ece", 0.01)),
    ("temperature_at_bound", put("arms.crf.runs.*.temperature", 20.0), put("arms.crf.runs.*.temperature", 1.3)),
    ("temperature_at_bound", put("arms.crf.runs.*.temperature", 0.05), put("arms.crf.runs.*.temperature", 0.06)),
    ("decoder_gap", decoders(0.5, 0.7), decoders(0.69, 0.7)),
    (
        "blurred_boundaries",
        scores(span_f1_iou50=0.8, span_f1_iou50_95=0.3),
        scores(span_f1_iou50=0.8, span_f1_iou50_95=0.6),
    ),
    (
        "overfitting",
        put("arms.crf.runs.*.validation_loss_rise_since_best", 0.2),
        put("arms.crf.runs.*.validation_loss_rise_since_best", 0.01),
    ),
    ("diverged", put("arms.crf.runs.*.train_loss", [3.0, 9.0]), put("arms.crf.runs.*.train_loss", [3.0, 2.0])),
    (
        "overfitting",
        put("arms.crf.runs.*.validation_loss_rise_since_best", 0.2),
        both(
            put("arms.crf.runs.*.validation_loss_rise_since_best", 0.2),
            put("arms.crf.runs.*.train_loss", [3.0, 9.0]),
        ),
    ),
    ("not_converged", validation(4.0, best_epoch=30), validation(5.1, best_epoch=29)),
    ("weight_imbalance", weights(0.55, 0.11), weights(0.4, 0.3)),
    ("type_at_majority", put(f"{CRF}.type.accuracy", 0.67), put(f"{CRF}.type.accuracy", 0.8)),
]


@pytest.mark.parametrize(("rule", "on", "off"), RULES, ids=[rule for rule, *_ in RULES])
def test_rule_fires_on_its_pattern_and_only_then(good: ReportInput, rule: str, on: Change, off: Change) -> None:
    def found(change: Change) -> list[str]:
        insights = find_insights(gather(changed(good, change)))
        return [i.evidence for i in insights if i.rule == rule and i.arm in {None, "crf"}]

    assert len(found(on)) == 1
    assert found(on)[0]
    assert found(off) == []


def test_a_single_seed_says_how_large_a_difference_would_have_to_be(good: ReportInput) -> None:
    small = both(put("settings.seeds", [4]), put("verdict.detectable_difference", 0.214))
    (insight,) = [item for item in find_insights(gather(changed(good, small))) if item.rule == "one_seed"]
    assert "Only a difference of some 0.214 or more would be told from luck here." in insight.remedy


def test_a_difference_as_large_as_can_be_is_no_measure(good: ReportInput) -> None:
    nothing = both(put("settings.seeds", [4]), put("verdict.detectable_difference", 1.0))
    (insight,) = [item for item in find_insights(gather(changed(good, nothing))) if item.rule == "one_seed"]
    assert "Only a difference" not in insight.remedy


def test_a_weak_arm_that_beats_marking_every_bar_has_learned_something(good: ReportInput) -> None:
    weak = both(put(f"{CRF}.separation.separation", 0.03), scores(f1=0.2, confidence_interval=[0.15, 0.25]))
    facts = gather(changed(good, weak))
    (insight,) = [item for item in find_insights(facts) if item.rule == "no_separation"]
    assert (insight.severity, "hardly learned" in insight.text) == ("warning", True)
    assert "displacement-17" not in insight.remedy  # it has that already


def test_a_separation_below_0_is_not_called_about_0(good: ReportInput) -> None:
    below = both(put(f"{CRF}.separation.separation", -0.3), scores(f1=0.05, confidence_interval=[0.01, 0.1]))
    report = changed(good, below)
    (insight,) = [item for item in find_insights(gather(report)) if item.rule == "no_separation"]
    assert insight.text.startswith("**CRF: separation below 0.")
    assert "- **CRF: below 0.** No way of decoding scores more than F1" in rendered(report)[0]


def test_marginals_that_mark_every_bar_read_nothing_out(good: ReportInput) -> None:
    floor = good.comparison["baselines"]["all_positive"]["f1"]
    found = find_insights(gather(changed(good, decoders(0.0, floor))))
    assert "decoder_gap" not in {item.rule for item in found}


def test_one_epoch_is_one(good: ReportInput) -> None:
    def short(comparison: dict[str, Any]) -> None:
        for run in comparison["arms"]["crf"]["runs"]:
            run.update(train_loss=[3.0, 2.0, 1.0], validation_loss=[10.0, 8.0, 6.0], epochs=3, best_epoch=3)

    (insight,) = [
        item
        for item in find_insights(gather(changed(good, short)))
        if item.rule == "not_converged" and item.arm == "crf"
    ]
    assert "over the last 1 epoch;" in insight.evidence


def test_every_rule_has_a_test() -> None:
    names = {rule.__name__ for rule in RUN_RULES} | {rule.__name__ for rule in ARM_RULES}
    assert names == {rule for rule, *_ in RULES}


def test_the_original_pathology_is_named_with_what_to_try(pathology: ReportInput) -> None:
    markdown, _ = rendered(pathology)
    assert "**Separation about 0: these models have not learned to tell in-span from out-of-span.**" in markdown
    assert "`jade` recipe" in markdown
    assert "✗ about 0" in markdown
    assert "--recipe jade" in markdown


def test_a_leak_is_bold_and_counted(pathology: ReportInput) -> None:
    markdown, _ = rendered(pathology)
    assert "**The split leaks: 17 groups of windows that share bars stand on both sides" in markdown


def test_the_same_finding_for_several_arms_is_one(good: ReportInput) -> None:
    poor = both(put("arms.soft_span.summary.type.accuracy", 0.6), put(f"{CRF}.type.accuracy", 0.6))
    facts = gather(changed(good, poor))
    (found,) = [item for item in merged(find_insights(facts), facts) if item.rule == "type_at_majority"]
    assert all(name in found.evidence for name in ("Soft Span Loss", "CRF"))


def test_gravest_insights_come_first(pathology: ReportInput) -> None:
    order = [found.severity for found in find_insights(gather(pathology))]
    assert order == sorted(order, key=["critical", "warning", "note", "good"].index)
