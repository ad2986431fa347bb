"""Reports: numbers agree with comparison.json, text follows rules, pages are safe and need nothing else."""

from __future__ import annotations

import copy
import html as html_module
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report_inputs import make_report_input

from jade_model.errors import UserError
from jade_model.report import Curve, ReportInput, markdown_for_artifact, write_report
from jade_model.report.actions import next_actions
from jade_model.report.building import build_document
from jade_model.report.document import code, plain
from jade_model.report.facts import gather
from jade_model.report.figures import draw_figures
from jade_model.report.headline import headline
from jade_model.report.html import to_html
from jade_model.report.insights import find_insights, merged
from jade_model.report.markdown import to_markdown
from jade_model.report.naming import contestant, decoder_name, metric_name
from jade_model.report.numbers import duration, interval, number, p_value, percent, signed, size, with_interval
from jade_model.report.section_training import shown_epochs

HOSTILE = '<script>alert("1")</script> `|` ![x](http://evil.example/x.png) <img src=x onerror=alert(1)> $\\frac{1}{0}$'


class Page(HTMLParser):
    """Tables as text, and everything that could reach outside or run."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: list[list[list[str]]] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self.headings: list[str] = []
        self._cell: list[str] | None = None
        self._heading = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self._cell = []
        elif tag in {"h2", "h3"}:
            self._heading = True
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th"} and self._cell is not None:
            self.tables[-1][-1].append("".join(self._cell).strip())
            self._cell = None
        elif tag in {"h2", "h3"}:
            self._heading = False

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)
        if self._heading:
            self.headings[-1] += data


def markdown_tables(text: str) -> list[list[list[str]]]:
    """Parse Markdown with somebody else's parser, tables only."""
    return Page(MarkdownIt("commonmark").enable("table").render(text)).tables


def table_with(tables: list[list[list[str]]], *titles: str) -> list[list[str]]:
    found = [table for table in tables if set(titles) <= set(table[0])]
    assert len(found) == 1, (titles, [table[0] for table in tables])
    return found[0]


def rendered(report: ReportInput) -> tuple[str, str]:
    """Markdown and HTML without figures, which cost most of the time."""
    facts = gather(report)
    document = build_document(facts)
    return to_markdown(document, {}), to_html(document, facts, {})


def changed(report: ReportInput, change: Callable[[dict[str, Any]], object]) -> ReportInput:
    comparison = copy.deepcopy(dict(report.comparison))
    change(comparison)
    return replace(report, comparison=comparison)


@pytest.fixture(scope="module")
def good() -> ReportInput:
    return make_report_input(
        ("soft_span", "crf", "single_span"), seeds=(0, 1, 2), num_folds=2, num_windows=40, trend=True, epochs=30
    )


@pytest.fixture(scope="module")
def pathology() -> ReportInput:
    return make_report_input(
        ("soft_span", "crf"), num_folds=1, split="seed", learned=False, overfit=0.15, num_windows=40
    )


@pytest.fixture(scope="module")
def written(good: ReportInput, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    folder = tmp_path_factory.mktemp("report")
    files = write_report(good, folder)
    return folder, files.markdown.read_text(encoding="utf-8"), files.html.read_text(encoding="utf-8")


# Numbers


def test_every_table_says_the_same_in_markdown_and_html(good: ReportInput, pathology: ReportInput) -> None:
    for report in (good, pathology):
        markdown, page = rendered(report)
        assert markdown_tables(markdown) == [_with_head(table) for table in Page(page).tables]


def _with_head(table: list[list[str]]) -> list[list[str]]:
    return table if table[0] != ["", ""] else table[1:]


def test_decoder_scores_agree_with_the_comparison(good: ReportInput) -> None:
    for text in rendered(good):
        tables = markdown_tables(text) if text.startswith("#") else Page(text).tables
        rows = table_with(tables, "Arm", "Decoder", "F1 (bars)")[1:]
        expected = [
            [
                decoder_name(name),
                number(scores["threshold"]) if scores["threshold"] is not None else "none",
                number(scores["precision"]),
                number(scores["recall"]),
                with_interval(scores["f1"], scores["confidence_interval"]),
            ]
            for arm in good.comparison["arms"].values()
            for name, scores in arm["summary"]["decoders"].items()
        ]
        assert [[row[1].removesuffix(" (used)"), *row[2:6]] for row in rows] == expected


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
    rows = table_with(markdown_tables(markdown), "First minus second", "Outcome")[1:]
    styles = gather(good).styles
    expected = [
        [
            f"{contestant(item['first'], styles)} − {contestant(item['second'], styles)}",
            metric_name(item["metric"]),
            signed(item["difference"]),
            interval(item["confidence_interval"], with_sign=True),
            p_value(item["p_value"]),
            p_value(item["adjusted_p_value"]),
        ]
        for item in good.comparison["differences"]
        if item["dataset"] is None
    ]
    assert [row[:6] for row in rows] == expected


def test_weights_losses_and_epochs_agree_with_the_runs(good: ReportInput) -> None:
    markdown, _ = rendered(good)
    shares = {row[0]: row[1:] for row in table_with(markdown_tables(markdown), "Share of the loss")}
    runs = [arm["runs"] for arm in good.comparison["arms"].values()]
    assert shares["Span"] == [percent(float(np.mean([run["task_weight"]["span"] for run in of]))) for of in runs]
    block = re.findall(r"^Epoch (\d+): +train_loss=([\d.]+), val_loss=([\d.]+)", markdown, flags=re.MULTILINE)
    first_arm = block[: [epoch for epoch, *_ in block].index("30") + 1]
    for epoch, train, validation in first_arm:
        index = int(epoch) - 1
        assert float(train) == pytest.approx(np.mean([run["train_loss"][index] for run in runs[0]]), abs=1e-4)
        assert float(validation) == pytest.approx(np.mean([r["validation_loss"][index] for r in runs[0]]), abs=1e-4)
    assert {"1", "5", "30"} <= {epoch for epoch, *_ in first_arm}


def test_all_positive_and_untrained_stand_beside_every_f1(good: ReportInput) -> None:
    markdown, _ = rendered(good)
    for row in table_with(markdown_tables(markdown), "Arm", "Decoder")[1:]:
        assert row[-2:] == ["0.098", number(good.comparison["baselines"]["all_positive"]["f1"])]


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


@pytest.mark.parametrize(
    ("epochs", "best", "expected"), [(50, 43, [1, 5, 10, 20, 30, 40, 43, 50]), (3, 0, [1, 2, 3]), (1, 1, [1])]
)
def test_epochs_worth_a_line(epochs: int, best: int, expected: list[int]) -> None:
    assert shown_epochs(epochs, best) == expected


# The first lines


def test_first_five_lines_hold_the_verdict(written: tuple[Path, str, str], good: ReportInput) -> None:
    lines = written[1].splitlines()[:5]
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
    assert "nothing trained here is shown to beat" in worth
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


# Rules


def _arm(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda comparison: change(comparison["arms"][name])


def _best(name: str, **fields: Any) -> Callable[[dict[str, Any]], object]:
    def change(comparison: dict[str, Any]) -> None:
        summary = comparison["arms"][name]["summary"]
        summary["decoders"][summary["best_decoder"]].update(fields)

    return change


def _summary(name: str, part: str, **fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda comparison: comparison["arms"][name]["summary"][part].update(fields)


def _runs(name: str, **fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda comparison: [run.update(fields) for run in comparison["arms"][name]["runs"]]


def _settings(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda comparison: comparison["settings"].update(fields)


def _falling(name: str, last: float) -> Callable[[dict[str, Any]], object]:
    losses = [*np.linspace(10, 5, 29), last]
    return _runs(name, validation_loss=losses, best_epoch=30 if last < 5 else 29)


def _pair(metric: str, difference: float, dataset: str | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "first": "crf", "second": "single_span", "metric": metric, "dataset": dataset, "difference": difference,
        "confidence_interval": [difference - 0.02, difference + 0.02], "p_value": 0.01, "adjusted_p_value": 0.02,
        "outcome": "winner", **fields,
    }  # fmt: skip


def _differences(*items: dict[str, Any]) -> Callable[[dict[str, Any]], object]:
    return lambda comparison: comparison.update(differences=list(items))


def _folds(*scores: float) -> Callable[[dict[str, Any]], object]:
    parts = [
        {"dataset": "d", "seed": 0, "fold": fold, "threshold": None, "f1": f1, "span_f1_iou50": f1}
        for fold, f1 in enumerate(scores)
    ]

    def change(comparison: dict[str, Any]) -> None:
        for arm in comparison["arms"].values():
            for scores_of in arm["summary"]["decoders"].values():
                scores_of["per_fold"] = parts

    return change


Change = Callable[[dict[str, Any]], object]
RULES: list[tuple[str, Change, Change]] = [
    ("leak", lambda c: c["data"][0].update(num_straddling_groups=3), lambda c: c["data"][0].update(num_straddling_groups=0)),
    ("leak", _settings(split="seed"), _settings(split="grouped")),
    ("one_seed", _settings(seeds=[4]), _settings(seeds=[4, 5])),
    ("shared_bars", lambda c: c["data"][0].update(num_shared_bar_joins=2), lambda c: c["data"][0].update(num_shared_bar_joins=0)),
    ("metrics_disagree", _differences(_pair("f1", -0.1), _pair("span_f1_iou50", 0.1)), _differences(_pair("f1", -0.1), _pair("span_f1_iou50", -0.1))),
    ("data_sets_disagree", _differences(_pair("f1", -0.1), _pair("f1", 0.1, "eth")), _differences(_pair("f1", -0.1), _pair("f1", -0.1, "eth"))),
    ("training_noise", _differences(_pair("f1", -0.1, training_share=0.7)), _differences(_pair("f1", -0.1, training_share=0.3))),
    ("fold_spread", _folds(0.5, 0.75), _folds(0.5, 0.65)),
    ("no_separation", _summary("crf", "separation", separation=-0.002), _summary("crf", "separation", separation=0.2)),
    ("clear_separation", _summary("crf", "separation", separation=0.6), _summary("crf", "separation", separation=0.39)),
    ("below_all_positive", _best("crf", f1=0.12, confidence_interval=[0.1, 0.2]), _best("crf", f1=0.2, confidence_interval=[0.15, 0.25])),
    ("below_untrained", _best("crf", f1=0.09), _best("crf", f1=0.2)),
    ("marks_everything", _best("crf", precision=0.07, recall=0.9), _best("crf", precision=0.5, recall=0.9)),
    ("marks_nothing", _best("crf", recall=0.01), _best("crf", recall=0.1)),
    ("beats_rule", lambda c: c["verdict"].update(beats_baseline={"crf": True}), lambda c: c["verdict"].update(beats_baseline={})),
    ("not_beating_rule", lambda c: c["verdict"].update(beats_baseline={"crf": False}), lambda c: c["verdict"].update(beats_baseline={"crf": True})),
    ("wide_interval", _best("crf", confidence_interval=[0.6, 0.8]), _best("crf", confidence_interval=[0.7, 0.75])),
    ("poor_calibration", _summary("crf", "calibration", ece=0.09), _summary("crf", "calibration", ece=0.01)),
    ("decoder_gap", lambda c: c["arms"]["crf"]["summary"]["decoders"]["viterbi"].update(f1=0.5), lambda c: c["arms"]["crf"]["summary"]["decoders"]["viterbi"].update(f1=0.72)),
    ("blurred_boundaries", _best("crf", span_f1_iou50=0.8, span_f1_iou50_95=0.3), _best("crf", span_f1_iou50=0.8, span_f1_iou50_95=0.6)),
    ("overfitting", _runs("crf", validation_loss_rise_since_best=0.2), _runs("crf", validation_loss_rise_since_best=0.01)),
    ("not_converged", _falling("crf", 4.0), _falling("crf", 5.1)),
    ("weight_imbalance", _runs("crf", task_weight={"pointer": 0.55, "span": 0.11, "type": 0.24, "countdown": 0.1}), _runs("crf", task_weight={"pointer": 0.4, "span": 0.3, "type": 0.2, "countdown": 0.1})),
    ("type_at_majority", _summary("crf", "type", accuracy=0.67), _summary("crf", "type", accuracy=0.8)),
    ("pointer_source", _summary("crf", "pointer_error_bars", posterior={"center": 5.0, "length": 2.0}), _summary("crf", "pointer_error_bars", posterior={"center": 12.0, "length": 2.0})),
    ("countdown_source", _summary("crf", "countdown_error_bars", posterior=9.0), _summary("crf", "countdown_error_bars", posterior=5.0)),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "on", "off"), RULES, ids=[rule for rule, *_ in RULES])
def test_rule_fires_on_its_pattern_and_only_then(good: ReportInput, rule: str, on: Change, off: Change) -> None:
    fired = [
        found for found in find_insights(gather(changed(good, on))) if found.rule == rule and found.arm in {None, "crf"}
    ]
    silent = [
        found
        for found in find_insights(gather(changed(good, off)))
        if found.rule == rule and found.arm in {None, "crf"}
    ]
    assert len(fired) == 1
    assert not silent
    assert fired[0].evidence


def test_every_rule_has_a_test() -> None:
    from jade_model.report.insights import RUN_RULES
    from jade_model.report.insights_scores import SCORE_RULES
    from jade_model.report.insights_training import TRAINING_RULES

    names = {rule.__name__ for rule in (*RUN_RULES, *SCORE_RULES, *TRAINING_RULES)}
    assert names <= {rule for rule, *_ in RULES}


def test_the_original_pathology_is_named_with_what_to_try(pathology: ReportInput) -> None:
    markdown, _ = rendered(pathology)
    assert "separation about 0. The model has not learned to tell in-span from out-of-span.**" in markdown
    assert "`jade` recipe" in markdown
    assert "✗ (about 0)" in markdown
    assert "--recipe jade" in markdown


def test_a_leak_is_bold_and_counted(pathology: ReportInput) -> None:
    markdown, _ = rendered(pathology)
    assert "**The split leaks: 17 groups of windows that share bars stand on both sides" in markdown


def test_the_same_finding_for_several_arms_is_one(good: ReportInput) -> None:
    facts = gather(good)
    pointers = [found for found in merged(find_insights(facts), facts) if found.rule == "pointer_source"]
    assert len(pointers) == 1
    assert all(arm.name in pointers[0].evidence for arm in facts.arms)


def test_gravest_insights_come_first(pathology: ReportInput) -> None:
    order = [found.severity for found in find_insights(gather(pathology))]
    assert order == sorted(order, key=["critical", "warning", "note", "good"].index)


# What to do


def test_one_seed_suggests_more_seeds_and_folds_on_the_same_data() -> None:
    report = make_report_input(("soft_span", "crf"), seeds=(0,), num_folds=1, gallery=False, num_windows=30)
    run = {**report.run, "parameters": {"data": ["my data/nq.parquet"]}}
    command = next_actions(gather(replace(report, run=run)))[0].command
    assert shlex.split(command) == ["jade", "compare", "--data", "my data/nq.parquet", "--seeds", "3", "--folds", "5"]


def test_commands_name_checkpoints_and_modes(good: ReportInput) -> None:
    commands = "\n".join(action.command for action in next_actions(gather(good)))
    words = shlex.split(commands)
    assert [words[index + 1] for index, word in enumerate(words) if word == "--mode"] == ["soft", "crf", "single_span"]
    assert "artifacts/20261122T175000Z-compare-0a1b2c/crf/seed0-fold0/checkpoint_crf_30.pt" in words


def test_an_arm_that_does_not_beat_the_rule_is_not_recommended(pathology: ReportInput) -> None:
    markdown, _ = rendered(pathology)
    assert "**For production:** none of these. The untrained rule (F1 0.621)" in markdown


# Safety and self-containment


def test_page_needs_nothing_else_and_runs_nothing(written: tuple[Path, str, str]) -> None:
    text = written[2]
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "embed", "base", "img"} & set(page.tags)
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert all(value.startswith("#") for _, name, value in page.attributes if name in {"href", "src", "xlink:href"})
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert set(re.findall(r"url\(([^)]{1,5})", text)) == {
        match for match in re.findall(r"url\(([^)]{1,5})", text) if match[0] == "#"
    }


def test_ids_are_unique_and_contents_lead_to_them(written: tuple[Path, str, str]) -> None:
    page = Page(written[2])
    assert len(page.ids) == len(set(page.ids))
    targets = {value[1:] for tag, name, value in page.attributes if (tag, name) == ("a", "href")}
    assert targets <= set(page.ids)
    assert len(targets) > 12


def test_every_figure_has_an_alternative_text_and_a_caption(written: tuple[Path, str, str]) -> None:
    folder, markdown, text = written
    page = Page(text)
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    pngs = sorted(folder.glob("*.png"))
    assert len(labels) == len(pngs) == text.count("<figcaption>") == 13
    assert all(len(label) > 20 for label in labels)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pngs)
    assert sorted(re.findall(r"^!\[.+\]\(([a-z]+\.png)\)$", markdown, flags=re.MULTILINE)) == [p.name for p in pngs]


def test_figures_follow_the_theme(written: tuple[Path, str, str]) -> None:
    text = written[2]
    figures = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    assert re.findall(r"#[0-9a-f]{6}\b", figures) == []
    for variable in set(re.findall(r"var\((--c[0-9a-f]{6})\)", figures)):
        assert text.count(f"{variable}:") == 2


def test_hostile_names_stay_text(good: ReportInput) -> None:
    gallery = [replace(window, window_id=HOSTILE) for window in good.gallery[:1]]

    def poison(comparison: dict[str, Any]) -> None:
        comparison["data"][0].update(name=HOSTILE, path=HOSTILE)
        comparison["verdict"]["reason"] = HOSTILE
        comparison["verdict"]["caveats"] = [HOSTILE]
        comparison["run_id"] = HOSTILE
        comparison["arms"]["crf"]["runs"][0]["checkpoint"] = HOSTILE

    poisoned = replace(changed(good, poison), gallery=gallery, files=[(HOSTILE, 1, HOSTILE)], trend=None)
    poisoned = replace(poisoned, run={"versions": {HOSTILE: HOSTILE}, "host": HOSTILE, "code_version": HOSTILE})
    facts = gather(poisoned)
    document = build_document(facts)
    text = to_html(document, facts, draw_gallery_only(poisoned))
    page = Page(text)
    assert not {"script", "img"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert html_module.escape(HOSTILE[:25], quote=False) in text
    as_others_see_it = Page(MarkdownIt("commonmark").enable("table").render(to_markdown(document, {})))
    assert not {"script", "img", "a"} & set(as_others_see_it.tags)


def draw_gallery_only(report: ReportInput) -> dict[str, Any]:
    from jade_model.report.figures_gallery import galleries

    return {figure.name: figure for figure in galleries(gather(report))}


@given(st.text(max_size=60))
def test_text_from_data_comes_out_as_it_went_in(text: str) -> None:
    flat = re.sub(r"\s+", " ", text).strip()
    render = MarkdownIt("commonmark", {"html": True}).renderInline
    for markup in (plain(text), code(text)):
        shown = Page(f"<table><tr><td>{render(markup)}</td></tr></table>").tables[0][0][0]
        if "\x00" not in flat:
            assert shown == flat


# Whatever is missing


@pytest.mark.parametrize("arms", [("single_span",), ("crf", "soft_span"), ("soft_span", "crf", "single_span")])
def test_any_number_of_arms_is_reported_in_their_order(arms: tuple[str, ...]) -> None:
    report = make_report_input(arms, num_folds=2, num_windows=30, gallery=False)
    markdown, page = rendered(report)
    names = [arm.name for arm in gather(report).arms]
    assert table_with(markdown_tables(markdown), "Metric", *names)[0][1:] == names
    assert Page(page).headings[0] == "Executive Summary"


def test_every_section_of_the_first_comparison_exists(written: tuple[Path, str, str]) -> None:
    headings = re.findall(r"^#+ (.+)$", written[1], flags=re.MULTILINE)
    for title in (
        "Executive Summary", "Quick Comparison", "Detailed Loss Trajectory Analysis", "Soft Span Loss", "CRF",
        "Learned Task Weighting (Uncertainty Parameters)", "Auto-Learned σ Parameters",
        "Derived Task Weights (from σ Values)", "Interpretation", "Probability Distribution Analysis", "Key Insights",
        "1. Loss Scales (Not Directly Comparable)", "2. Convergence Patterns", "3. Task Weight Distribution",
        "4. Probability Separation", "Threshold Optimization", "Recommendation for Threshold Optimization",
        "Recommendation: Which Approach?", "Verdict", "Files Generated", "Next Immediate Action",
    ):  # fmt: skip
        assert title in headings
    for label in ("Date", "Dataset", "Model", "Training", "Status", "Next", "Created"):
        assert re.search(rf"^\*\*{label}\*\*: ", written[1], flags=re.MULTILINE)


def test_report_without_validation_gallery_histories_curves_or_run(tmp_path: Path) -> None:
    report = make_report_input(("single_span",), num_folds=1, num_windows=30, validation=False, gallery=False)
    report = replace(report, run={}, histories={}, curves={}, files=(), trend=None)
    files = write_report(report, tmp_path / "new" / "folder")
    markdown = files.markdown.read_text(encoding="utf-8")
    assert "No validation losses were recorded" in markdown
    assert {"forest.png", "losses.png"} <= {path.name for path in files.figures}
    assert not {"gallery.png", "thresholds.png", "sigma.png", "trend.png"} & {path.name for path in files.figures}
    assert "Windows Worth a Look" not in markdown
    assert "None" not in markdown
    assert "nan" not in markdown.lower().replace("financ", "")


def test_several_data_sets_have_their_own_lines() -> None:
    report = make_report_input(("soft_span", "crf"), datasets=("btc_usd", "eth|usd"), num_folds=2, num_windows=30)
    markdown, _ = rendered(report)
    table = table_with(markdown_tables(markdown), "F1 (bars)", "Soft Span Loss", "CRF")
    assert [row[0] for row in table[1:]] == ["btc_usd", "eth|usd", "All, pooled"]
    assert "Differences by data set" in markdown


def test_missing_scores_are_shown_as_absent(good: ReportInput) -> None:
    def blank(comparison: dict[str, Any]) -> None:
        _best(
            "crf", span_f1_iou50=None, span_f1_iou50_95=None, confidence_interval=None, span_confidence_interval=None
        )(comparison)
        _summary("crf", "separation", separation=None, in_span_mean=None)(comparison)
        _summary("crf", "calibration", ece=None, brier=None, temperature=None, reliability=[])(comparison)
        _summary("crf", "pointer_error_bars", posterior={"center": None, "length": None})(comparison)
        _summary("crf", "type", accuracy=None, majority_accuracy=None)(comparison)

    blanked = changed(good, blank)
    for text in rendered(blanked):
        assert "n/a" in text
        assert "None" not in text
    assert "forest" in draw_figures(gather(replace(blanked, gallery=(), histories={}, curves={}, trend=None)))


@pytest.mark.parametrize("num_bars", [16, 1024])
def test_windows_of_any_length_and_flat_bars_are_drawn(good: ReportInput, num_bars: int) -> None:
    window = replace(
        good.gallery[0],
        bars_T4=np.full((num_bars, 4), 7.0),
        true_spans=[(num_bars - 6, num_bars)],
        predicted=dict.fromkeys(("soft_span", "crf", "single_span"), [(0, 4)]),
        probability={"crf": np.zeros(num_bars)},
    )
    assert draw_gallery_only(replace(good, gallery=[window]))["gallery"].png.startswith(b"\x89PNG")


def test_curves_with_gaps_and_many_points_are_drawn(good: ReportInput) -> None:
    from jade_model.report.figures_probability import thresholds

    cutoffs = np.linspace(0, 1, 20_000)
    f1 = np.where(cutoffs > 0.9, np.nan, cutoffs * (1 - cutoffs))
    curve = Curve(cutoffs, f1, f1, f1, 0.5, "validation windows")
    figure = thresholds(gather(replace(good, curves={"crf": {"marginal": curve}})))
    assert figure is not None
    assert "best F1 0.250 at 0.500" in figure.alt
    assert len(figure.svg) < 60_000


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
        "data[0].num_windows: found str, expected int",
        "differences[0].outcome: found 'draw', expected one of winner, equivalent, undecided",
    ):
        assert line in str(caught.value)


def test_another_schema_version_is_refused_with_what_to_do(good: ReportInput) -> None:
    with pytest.raises(UserError, match=r"schema_version is 2.*compare again"):
        markdown_for_artifact(changed(good, lambda comparison: comparison.update(schema_version=2)))


def test_a_best_decoder_without_scores_is_refused(good: ReportInput) -> None:
    with pytest.raises(UserError, match=r"arms\.crf\.summary\.best_decoder is 'oracle'"):
        markdown_for_artifact(changed(good, lambda c: c["arms"]["crf"]["summary"].update(best_decoder="oracle")))


def test_fields_that_a_report_does_not_know_are_ignored(good: ReportInput) -> None:
    assert markdown_for_artifact(changed(good, lambda c: c.update(extra={"a": 1}))) == markdown_for_artifact(good)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    report = make_report_input(("crf",), num_folds=2, num_windows=20, gallery=False)
    report = replace(report, curves={}, histories={})
    for name in ("one", "two"):
        write_report(report, tmp_path / name)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert first == second


def test_drawing_leaves_the_settings_of_matplotlib_alone(good: ReportInput) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    draw_figures(gather(replace(good, gallery=(), curves={}, histories={}, trend=None)))
    assert dict(mpl.rcParams) == before


def test_artifact_is_the_report_without_figures(good: ReportInput, written: tuple[Path, str, str]) -> None:
    text = markdown_for_artifact(good)
    assert "![" not in text
    assert ".png" not in text
    assert text.splitlines()[:5] == written[1].splitlines()[:5]
    assert not re.search(r"<[a-z]+[ >]", text)


def test_artifact_of_a_huge_comparison_stays_small_and_keeps_the_verdict(good: ReportInput) -> None:
    def inflate(comparison: dict[str, Any]) -> None:
        runs = comparison["arms"]["crf"]["runs"]
        comparison["arms"]["crf"]["runs"] = [{**runs[0], "seed": seed} for seed in range(6000)]

    text = markdown_for_artifact(changed(good, inflate))
    assert len(text.encode()) <= 500_000
    assert "*Shortened: the rest is in the full report of this run.*" in text
    assert "How Sure Is the Verdict" in text
