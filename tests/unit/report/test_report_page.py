"""Report files: complete, safe, in need of nothing else, and whole whatever is missing."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from helpers.report_inputs import make_report_input
from helpers.report_reading import Page, changed, markdown_tables, rendered, table_with
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.axes import Axes

from jade_model.report import Curve, ReportInput, markdown_for_artifact, write_report
from jade_model.report.facts import gather
from jade_model.report.figures import probability
from jade_model.report.figures.gallery import gallery as draw_gallery
from jade_model.report.figures.probability import thresholds
from jade_model.report.markup import code, plain, to_markdown
from jade_model.report.writing import report_page, report_source

HOSTILE = '<script>alert("1")</script> `|` ![x](http://evil.example/x.png) <img src=x onerror=alert(1)> $\\frac{1}{0}$'


@pytest.fixture(scope="module")
def written(good: ReportInput, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    folder = tmp_path_factory.mktemp("report")
    before = dict(mpl.rcParams)
    files = write_report(good, folder)
    assert dict(mpl.rcParams) == before, "drawing changed the settings of the process"
    return folder, files.markdown.read_text(encoding="utf-8"), files.html.read_text(encoding="utf-8")


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
    assert len(labels) == len(pngs) == text.count("<figcaption>") == 7
    assert all(len(label) > 20 for label in labels)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pngs)
    assert sorted(re.findall(r"^!\[.+\]\(([a-z]+\.png)\)$", markdown, flags=re.MULTILINE)) == [p.name for p in pngs]


def test_a_report_of_eighteen_trainings_has_few_words_its_figures_included(written: tuple[Path, str, str]) -> None:
    assert len(written[1].split()) < 3350


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
    source = report_source(facts)
    text = report_page(facts, source, draw_gallery_only(poisoned))
    page = Page(text)
    assert not {"script", "img"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "&lt;script&gt;alert(" in text
    as_others_see_it = Page(MarkdownIt("commonmark").enable("table").render(to_markdown(source, {})))
    assert not {"script", "img", "a"} & set(as_others_see_it.tags)


def draw_gallery_only(report: ReportInput) -> dict[str, Any]:
    figure = draw_gallery(gather(report))
    return {} if figure is None else {figure.name: figure}


@settings(max_examples=60)
@given(st.text(max_size=60))
def test_text_from_data_comes_out_as_it_went_in(text: str) -> None:
    flat = re.sub(r"\s+", " ", text).strip()
    render = MarkdownIt("commonmark", {"html": True}).renderInline
    for markup in (plain(text), code(text)):
        shown = Page(f"<table><tr><td>{render(markup)}</td></tr></table>").tables[0][0][0]
        assert shown == flat.replace("\x00", "\ufffd")


# Whatever is missing


@pytest.mark.parametrize("arms", [("crf", "soft_span"), ("soft_span", "crf", "single_span")])
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
        "Learned Task Weighting (Uncertainty Parameters)",
        "Auto-Learned σ Parameters and Derived Task Weights", "Probability Distribution Analysis", "Key Insights",
        "1. Loss Scales (Not Directly Comparable)", "2. Convergence Patterns", "3. Task Weight Distribution",
        "4. Probability Separation", "Threshold Optimization", "Recommendation for Threshold Optimization",
        "Recommendation: Which Approach?", "Verdict", "Files Generated", "Next Immediate Action",
    ):  # fmt: skip
        assert title in headings
    for label in ("Date", "Dataset", "Model", "Training", "Status", "Next", "Created"):
        assert re.search(rf"^\*\*{label}\*\*: ", written[1], flags=re.MULTILINE)


def test_report_without_validation_gallery_curves_or_run(tmp_path: Path) -> None:
    report = make_report_input(("single_span", "crf"), num_folds=1, num_windows=30, validation=False, gallery=False)
    report = replace(report, run={}, curves={}, files=(), trend=None)
    files = write_report(report, tmp_path / "new" / "folder")
    markdown = files.markdown.read_text(encoding="utf-8")
    assert "as no validation losses were recorded" in markdown
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


def test_offers_that_could_not_be_had_are_listed_with_what_became_of_them(good: ReportInput) -> None:
    rental = {
        "provider": "runpod", "cost_usd": 1.2, "spent_this_month_usd": 3.4, "machines": [],
        "tried": [{"what": "A40", "price_usd_per_hour": 0.4, "outcome": "no longer there"}],
    }  # fmt: skip
    markdown, _ = rendered(replace(good, run={**good.run, "rental": rental}))
    assert ["A40", "$0.40", "n/a", "n/a", "no longer there"] in table_with(markdown_tables(markdown), "GPU", "Cost")


def test_missing_scores_are_shown_as_absent(good: ReportInput) -> None:
    def blank(comparison: dict[str, Any]) -> None:
        summary = comparison["arms"]["crf"]["summary"]
        summary["separation"].update(separation=None, in_span_mean=None)
        summary["pointer_error_bars"]["posterior"] = {"center": None, "length": None}
        summary["type"] = None

    blanked = changed(good, blank)
    for text in rendered(blanked):
        assert "n/a" in text
        assert "None" not in text


@pytest.mark.parametrize("num_bars", [16, 1024])
def test_windows_of_any_length_and_flat_bars_are_drawn(good: ReportInput, num_bars: int) -> None:
    window = replace(
        good.gallery[0],
        bars_T4=np.full((num_bars, 4), 7.0),
        true_spans=[(num_bars - 6, num_bars)],
        predicted={arm: [(0, 4)] for arm in ("soft_span", "crf", "single_span")},
        probability={"crf": np.zeros(num_bars)},
    )
    assert draw_gallery_only(replace(good, gallery=[window]))["gallery"].png.startswith(b"\x89PNG")


def test_curves_with_gaps_and_many_points_are_drawn(good: ReportInput) -> None:
    cutoffs = np.linspace(0, 1, 20_000)
    f1 = np.where(cutoffs > 0.9, np.nan, cutoffs * (1 - cutoffs))
    curve = Curve(cutoffs, f1, f1, f1, 0.5, "validation windows")
    figure = thresholds(gather(replace(good, curves={"crf": {"one_span": curve}})))
    assert figure is not None
    assert "0.250 at 0.500" in figure.alt
    assert len(figure.svg) < 60_000


def test_the_mark_of_a_threshold_lies_on_its_curve(good: ReportInput, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Axes] = []
    monkeypatch.setattr(probability, "few_ticks", lambda axes, **_: drawn.append(axes))
    for chosen in (0.0, 0.3, 0.35, 0.9):
        x, f1 = np.array([0.3, 0.4, 0.9]), np.array([0.6, 0.7, 0.1])
        curve = Curve(x, f1, f1, f1, chosen, "validation windows")
        thresholds(gather(replace(good, curves={"crf": {"one_span": curve}})))
        lines = [line for line in drawn[-1].get_lines() if len(line.get_xydata())]
        (mark,) = [line for line in lines if line.get_marker() != "None"]
        (solid,) = [line for line in lines if line.get_drawstyle() == "steps-pre" and line.get_linestyle() == "-"]
        at, height = np.asarray(mark.get_xydata())[0]
        xs, ys = np.asarray(solid.get_xydata()).T
        assert xs[0] <= at <= xs[-1]
        assert ys[np.searchsorted(xs, at)] == height


def test_artifact_is_the_report_without_figures(good: ReportInput, written: tuple[Path, str, str]) -> None:
    text = markdown_for_artifact(good)
    assert "![" not in text
    assert ".png" not in text
    assert text.splitlines()[:5] == written[1].splitlines()[:5]
    assert not re.search(r"<[a-z]+[ >]", text)


def test_artifact_of_a_huge_comparison_stays_small_and_keeps_the_verdict(good: ReportInput) -> None:
    def inflate(comparison: dict[str, Any]) -> None:
        decoder = comparison["arms"]["crf"]["summary"]["decoders"][gather(good).arms[1].best_decoder]
        decoder["per_fold"] = [{**decoder["per_fold"][0], "seed": seed} for seed in range(15_000)]

    text = markdown_for_artifact(changed(good, inflate))
    assert len(text.encode()) <= 500_000
    assert "*Shortened: the rest is in the full report of this run.*" in text
    assert "How Sure Is the Verdict" in text
