"""What reports say: numbers agree with comparison.json, the first lines hold the verdict, advice fits."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from typing import Any

import click
import numpy as np
import pytest
from helpers.report_inputs import make_report_input
from helpers.report_reading import Page, changed, markdown_tables, rendered, table_with

from flows.cli import jade
from flows.parameters import CompareParameters
from jade_model.core.errors import UserError
from jade_model.report import ReportInput, markdown_for_artifact
from jade_model.report.facts import gather
from jade_model.report.naming import contestant, decoder_name
from jade_model.report.numbers import duration, interval, number, p_value, percent, signed, size, with_interval
from jade_model.report.view.actions import next_actions
from jade_model.report.view.first_screen import headline
from jade_model.report.view.training import shown_epochs
from jade_model.statistics.verdict import WHOLE_SPANS_ALONE

# Numbers


def test_every_table_says_the_same_in_markdown_and_html(good: ReportInput, pathology: ReportInput) -> None:
    for report in (good, pathology):
        markdown, page = rendered(report)
        in_markdown = markdown_tables(markdown)
        assert len(in_markdown) > 10
        assert in_markdown == Page(page).tables


def test_decoder_scores_agree_with_the_comparison(good: ReportInput) -> None:
    for text in rendered(good):
        tables = markdown_tables(text) if text.startswith("#") else Page(text).tables
        rows = table_with(tables, "Arm", "Decoder", "F1 (bars)")[1:]
        expected = [
            [
                decoder_name(name),
                number(scores["threshold"]) if scores["threshold"] is not None else "none",
                f"{number(scores['precision'])} / {number(scores['recall'])}",
                with_interval(scores["f1"], scores["confidence_interval"]),
            ]
            for arm in good.comparison["arms"].values()
            for name, scores in arm["summary"]["decoders"].items()
        ]
        assert [[row[1].removesuffix(" (used)"), *row[2:5]] for row in rows] == expected


def test_f1_can_be_parsed_back_to_the_comparison(good: ReportInput) -> None:
    markdown, page = rendered(good)
    for tables in (markdown_tables(markdown), Page(page).tables):
        quick = {row[0]: row[1:] for row in table_with(tables, "Metric", "Soft Span Loss", "CRF", "Single Span")}
        for column, arm in enumerate(good.comparison["arms"].values()):
            best = arm["summary"]["decoders"][arm["summary"]["best_decoder"]]
            f1, low, high = map(float, re.findall(r"[\d.]+", quick["F1 (bars)"][column]))
            assert f1 == pytest.approx(best["f1"], abs=5e-4)
            assert [low, high] == pytest.approx(best["confidence_interval"], abs=5e-4)
            separation = float(quick["Probability separation"][column].split()[0])
            assert separation == pytest.approx(arm["summary"]["separation"]["separation"], abs=5e-4)


def test_differences_agree_with_the_comparison(good: ReportInput) -> None:
    markdown, _ = rendered(good)
    rows = table_with(markdown_tables(markdown), "First minus second", "Event F1")[1:]
    styles = gather(good).styles
    for metric, first_column in (("f1", 1), ("span_f1_iou50", 4)):
        expected = [
            [
                f"{contestant(item['first'], styles)} − {contestant(item['second'], styles)}",
                f"{signed(item['difference'])} {interval(item['confidence_interval'], with_sign=True)}",
                p_value(item["adjusted_p_value"]),
            ]
            for item in good.comparison["differences"]
            if item["dataset"] is None and item["metric"] == metric
        ]
        assert [[row[0], *row[first_column : first_column + 2]] for row in rows] == expected


def test_weights_losses_and_epochs_agree_with_the_runs(good: ReportInput) -> None:
    markdown, _ = rendered(good)
    shares = {row[0]: row[1:] for row in table_with(markdown_tables(markdown), "σ → share of the loss")}
    runs = [arm["runs"] for arm in good.comparison["arms"].values()]
    assert [share.split(" → ")[1] for share in shares["Span"]] == [
        percent(float(np.mean([run["task_weight"]["span"] for run in of]))) for of in runs
    ]
    block = re.findall(r"^Epoch (\d+): +train_loss=([\d.]+), val_loss=([\d.]+)", markdown, flags=re.MULTILINE)
    first_arm = block[: [epoch for epoch, *_ in block].index("30") + 1]
    for epoch, train, validation in first_arm:
        index = int(epoch) - 1
        assert float(train) == pytest.approx(np.mean([run["train_loss"][index] for run in runs[0]]), abs=1e-4)
        assert float(validation) == pytest.approx(np.mean([r["validation_loss"][index] for r in runs[0]]), abs=1e-4)
    assert {"1", "15", "30"} <= {epoch for epoch, *_ in first_arm}


def test_all_positive_and_untrained_stand_beside_every_f1(good: ReportInput) -> None:
    markdown, _ = rendered(good)
    quick = {row[0]: row[1:] for row in table_with(markdown_tables(markdown), "Metric")}
    all_positive = number(good.comparison["baselines"]["all_positive"]["f1"])
    assert quick["Same network, untrained (F1)"] == ["0.098"] * 3
    assert f"Marking every bar (F1 {all_positive})" in quick
    assert f"All-positive F1: {all_positive}." in markdown


def test_losses_of_different_kinds_are_never_set_against_each_other(good: ReportInput) -> None:
    markdown, _ = rendered(good)
    assert "neither the values nor the percentages say which arm is better" in markdown
    table = table_with(markdown_tables(markdown), "Criterion")
    assert not any("oss reduction" in row[0] or "scale" in row[0].lower().replace("scalab", "") for row in table)


def test_numbers_are_shown_without_surprises() -> None:
    assert [number(-0.0001), number(None), number(float("nan")), number(0.98765)] == ["0.000", "n/a", "n/a", "0.988"]
    assert [signed(0.05), signed(-0.05), signed(0.0001)] == ["+0.050", "-0.050", "0.000"]
    assert interval([0.1, None]) == "n/a"
    assert [p_value(0.0004), p_value(0.0412)] == ["< 0.001", "0.041"]
    assert [duration(0.5), duration(61.0), duration(125.4), duration(3780)] == [
        "0.50 s",
        "61.0 s",
        "2 min 5 s",
        "1 h 3 min",
    ]
    assert [size(999), size(402_133)] == ["999 B", "402.1 kB"]


@pytest.mark.parametrize(("epochs", "best", "expected"), [(50, 43, [1, 5, 25, 43, 50]), (3, 0, [1, 3]), (1, 1, [1])])
def test_epochs_worth_a_line(epochs: int, best: int, expected: list[int]) -> None:
    assert shown_epochs(epochs, best) == expected


# The first lines


def test_first_screen_tells_of_the_champion_and_of_what_went_wrong(good: ReportInput) -> None:
    told = replace(
        good,
        champion={"run_id": "20260101T000000Z-retrain-aaaaaa", "f1": 0.7123},
        troubles=["gpu1 is away", "tried *again*"],
    )
    screen = markdown_for_artifact(told).split("---")[0]
    assert (
        "**Champion**: F1 0.712 on the windows that it was judged by, run `20260101T000000Z-retrain-aaaaaa`" in screen
    )
    assert r"**Failures and retries**: 2 warnings, the last: tried \*again\*" in screen
    assert "**Failures and retries**: none" in markdown_for_artifact(good)


def test_an_interval_that_leaves_everything_open_is_called_unknown() -> None:
    assert interval([-1.0, 1.0], with_sign=True) == interval([0.0, 1.0]) == "unknown"
    assert with_interval(0.5, [0.0, 1.0]) == "0.500 (interval unknown)"
    assert interval([-1.0, 0.9], with_sign=True) == "[-1.000, +0.900]"


def test_first_five_lines_hold_the_verdict(good: ReportInput) -> None:
    lines = markdown_for_artifact(good).splitlines()[:5]
    verdict = good.comparison["verdict"]
    low, high = sorted(abs(bound) for bound in verdict["confidence_interval"])
    assert lines[0].startswith("# Soft Span Loss vs CRF vs Single Span: 30-Epoch")
    assert "**Single Span**" in lines[1]
    assert number(abs(verdict["difference"])) in lines[1]
    assert f"from {number(low)} to {number(high)}" in lines[2]
    assert "0.621" in lines[3]
    assert "3 seeds x 2 folds" in lines[4]
    assert not re.search(r"bootstrap|p-value|equivalence|calibrat", " ".join(lines))


def test_headline_names_an_undecided_comparison_and_what_would_settle_it(pathology: ReportInput) -> None:
    who, sure, worth, trust = headline(gather(pathology))
    assert "cannot tell" in who
    assert "143 more base windows" in sure
    assert "all that was trained here falls short of" in worth
    assert "not even shown to beat marking every bar" in worth
    assert "the split leaks: 17 groups" in trust


def test_headline_calls_equivalence_by_its_margin(good: ReportInput) -> None:
    def equivalent(comparison: dict[str, Any]) -> None:
        comparison["verdict"].update(
            outcome="equivalent", winner=None, difference=0.004, confidence_interval=[-0.02, 0.028]
        )

    who, sure, *_ = headline(gather(changed(good, equivalent)))
    assert "within 0.03 of each other" in who
    assert "between -0.020 and 0.028" in sure


def test_the_lead_is_shown_as_positive_whoever_was_named_first(good: ReportInput) -> None:
    def swap(comparison: dict[str, Any]) -> None:
        verdict = comparison["verdict"]
        low, high = verdict["confidence_interval"]
        verdict.update(
            first=verdict["second"],
            second=verdict["first"],
            difference=-verdict["difference"],
            confidence_interval=[-high, -low],
        )

    assert headline(gather(changed(good, swap))) == headline(gather(good))


# What to do


def test_one_seed_suggests_more_seeds_and_folds_on_the_same_data() -> None:
    report = make_report_input(("soft_span", "crf"), seeds=(0,), num_folds=1, gallery=False, num_windows=30)
    run = {**report.run, "parameters": {"data": ["my data/nq.parquet"]}}
    command = next_actions(gather(replace(report, run=run)))[0].command
    assert shlex.split(command) == ["jade", "compare", "--data", "my data/nq.parquet", "--seeds", "3", "--folds", "5"]


def test_commands_name_checkpoints_and_modes(good: ReportInput) -> None:
    commands = "\n".join(action.command for action in next_actions(gather(good)))
    words = shlex.split(commands)
    assert [words[index + 1] for index, word in enumerate(words) if word == "--mode"] == ["single_span"]
    folder = "artifacts/20261122T175000Z-compare-0a1b2c/single_span"
    assert f"{folder}/seed0-fold0/checkpoint_single_span_30.pt" in words


@pytest.mark.parametrize("place", ["/srv/jade", "s3://bucket/prefix"])
def test_commands_name_the_place_that_the_settings_chose(good: ReportInput, place: str) -> None:
    run = {**good.run, "artifacts": place, "parameters": {**good.run["parameters"], "artifacts": None}}
    markdown = markdown_for_artifact(replace(good, run=run))
    assert f"--model-path {place}/20261122T175000Z-compare-0a1b2c/single_span/" in markdown
    assert "None/" not in markdown


def test_an_only_comparison_is_no_last_comparisons(good: ReportInput) -> None:
    assert good.trend is not None
    alone = markdown_for_artifact(replace(good, trend=good.trend[-3:]))
    assert "This is the only comparison so far." in alone
    assert "1 comparisons" not in alone


def test_one_span_that_is_always_taken_is_no_threshold(good: ReportInput) -> None:
    def take_all(comparison: dict[str, Any]) -> None:
        summary = comparison["arms"]["crf"]["summary"]
        summary["decoders"][summary["best_decoder"]]["threshold"] = 0.0

    assert "**CRF**: read out by one span at 0.000: the span of every window" in rendered(changed(good, take_all))[0]


def test_arms_of_which_the_same_is_advised_share_a_line(good: ReportInput) -> None:
    def take_all(comparison: dict[str, Any]) -> None:
        for arm in comparison["arms"].values():
            arm["summary"]["decoders"][arm["summary"]["best_decoder"]]["threshold"] = 0.0

    advice = "**Soft Span Loss, CRF and Single Span**: read out by one span at 0.000"
    assert advice in rendered(changed(good, take_all))[0]


def test_a_repeated_comparison_is_told_what_the_run_was_told(good: ReportInput) -> None:
    told = CompareParameters(
        data=["a.parquet", "b.parquet"],
        arms=["crf", "soft_span"],
        epochs=7,
        ensemble=2,
        recipe="my own.toml",
        placement={"host": ["gpu1", "gpu2"], "workers": 2},
        rental={"gpu": ["A40", "L4"], "max_price": 0.5, "spot": True},
        scoring={"checkpoint": "best", "margin": 0.05},
    )
    run = {**good.run, "parameters": told.model_dump(mode="json")}
    one_seed = changed(replace(good, run=run), lambda comparison: comparison["settings"].update(seeds=[0]))
    command = shlex.split(next_actions(gather(one_seed))[0].command)
    again = jade.get_command(click.Context(jade), "compare").make_context("compare", command[2:]).params
    first = jade.get_command(click.Context(jade), "compare").make_context("compare", COMMAND).params
    assert again == first


COMMAND = shlex.split(
    "--data a.parquet --data b.parquet --arms crf,soft_span --epochs 7 --ensemble 2 --recipe 'my own.toml' --host gpu1 "
    "--host gpu2 --workers 2 --gpu A40,L4 --max-price 0.5 --spot --checkpoint best --margin 0.05 --seeds 3 --folds 5"
)


def test_what_a_comparison_does_without_flags_is_not_repeated(good: ReportInput) -> None:
    told = CompareParameters(data=["sample"]).model_dump(mode="json")
    one_seed = changed(replace(good, run={**good.run, "parameters": told}), lambda c: c["settings"].update(seeds=[0]))
    assert next_actions(gather(one_seed))[0].command == "jade compare --seeds 3 --folds 5"


def test_commands_for_an_own_arm_name_its_module(good: ReportInput) -> None:
    told = {**good.run["parameters"], "arm_module": "my_arms.py"}
    commands = [action.command for action in next_actions(gather(replace(good, run={**good.run, "parameters": told})))]
    assert sum("--arm-module my_arms.py" in command for command in commands) == len(commands) - 1  # all but `jade diff`


def test_whole_spans_alone_stand_beside_the_arms(good: ReportInput) -> None:
    def score(comparison: dict[str, Any]) -> None:
        behind = {"difference": -0.077, "confidence_interval": [-0.119, -0.035], "outcome": "winner"}
        comparison["baselines"]["span_score"] = {
            "f1": 0.86,
            "span_f1_iou50": 0.88,
            "confidence_interval": [0.81, 0.9],
            "num_parameters": 111,
            "arms": dict.fromkeys(comparison["arms"], behind),
        }
        comparison["verdict"]["beats_span_score"] = dict.fromkeys(comparison["arms"], False)
        comparison["verdict"]["caveats"].append(f"crf falls short of {WHOLE_SPANS_ALONE} (111 parameters, F1 0.860).")

    markdown = rendered(changed(good, score))[0]
    assert "| Score of whole spans alone (F1 0.860) | not beaten ✗ | not beaten ✗ | not beaten ✗ |" in markdown
    assert "| CRF − Whole spans alone | -0.077 [-0.119, -0.035] |  | **Whole spans alone** |" in markdown
    assert WHOLE_SPANS_ALONE not in markdown


def test_names_of_arms_keep_their_capitals_to_the_last_line(good: ReportInput) -> None:
    def win(comparison: dict[str, Any]) -> None:
        comparison["verdict"].update(outcome="winner", winner="single_span")

    assert "done and scored. Single Span is better" in rendered(changed(good, win))[0]


def test_two_equal_arms_are_neither_better_within_the_margin_as_it_was_set() -> None:
    report = make_report_input(("soft_span", "crf"), seeds=(0, 1), num_folds=2, num_windows=30, gallery=False)

    def equal(comparison: dict[str, Any]) -> None:
        comparison["verdict"].update(outcome="equivalent", winner=None, margin=0.005)

    assert "**Neither, as far as it matters:** " in headline(gather(changed(report, equal)))[0]
    assert "within 0.005 of each other" in headline(gather(changed(report, equal)))[0]


@pytest.mark.parametrize("which", ["good", "pathology"])
def test_every_command_is_one_that_jade_accepts(which: str, request: pytest.FixtureRequest) -> None:
    actions = next_actions(gather(request.getfixturevalue(which)))
    commands = [line for action in actions for line in action.command.replace("\\\n", " ").splitlines() if line]
    assert len(commands) >= 2
    for command in commands:
        program, name, *arguments = shlex.split(command)
        assert program == "jade"
        sub = jade.get_command(click.Context(jade), name)
        assert sub is not None
        sub.make_context(name, arguments)


def test_a_repeated_comparison_keeps_the_recipe_and_an_advised_one_changes_it(pathology: ReportInput) -> None:
    commands = [shlex.split(action.command) for action in next_actions(gather(pathology))]
    recipes = [words[words.index("--recipe") + 1] for words in commands if "--recipe" in words]
    assert recipes == ["seed", "jade", "seed"]


def test_an_arm_that_does_not_beat_the_rule_is_not_recommended(pathology: ReportInput) -> None:
    markdown, _ = rendered(pathology)
    assert "**For production:** none of these. The untrained rule (F1 0.621)" in markdown


# Contract, determinism, size


def test_everything_that_is_wrong_with_a_comparison_is_named(good: ReportInput) -> None:
    def damage(comparison: dict[str, Any]) -> None:
        del comparison["verdict"]["margin"]
        del comparison["arms"]["crf"]["summary"]["decoders"]["viterbi"]["f1"]
        comparison["data"][0]["num_windows"] = "215"
        comparison["differences"][0]["outcome"] = "draw"

    with pytest.raises(UserError) as caught:
        markdown_for_artifact(changed(good, damage))
    for line in (
        "verdict.margin is missing",
        "arms.crf.summary.decoders.viterbi.f1 is missing",
        "data[0].num_windows: Input should be a valid integer, found '215'",
        "differences[0].outcome: Input should be 'winner', 'equivalent' or 'undecided', found 'draw'",
    ):
        assert line in str(caught.value)


def test_another_schema_version_is_refused_with_what_to_do(good: ReportInput) -> None:
    with pytest.raises(UserError, match=r"schema_version is 2.*use the Jade that wrote it"):
        markdown_for_artifact(changed(good, lambda comparison: comparison.update(schema_version=2)))


def test_fields_that_a_report_does_not_know_are_ignored(good: ReportInput) -> None:
    assert markdown_for_artifact(changed(good, lambda c: c.update(extra={"a": 1}))) == markdown_for_artifact(good)
