"""Show a finished comparison in the Prefect UI."""

from __future__ import annotations

import base64
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from jade_model.comparison.files import read_comparison
from jade_model.report import markdown_for_artifact
from jade_model.report.model_card import card_markdown, write_card
from jade_model.report.numbers import duration
from jade_model.statistics.trend import TrendPoint
from tasks.core.layout import RunLayout
from tasks.experiments.model_card import read_card
from tasks.experiments.report import collect_report
from tasks.operations.ui import run_link, show_image, show_link, show_markdown, show_table
from tasks.runs.past import read_checks, read_trend
from tasks.runs.record import read_run_record
from tasks.settings.prefect import report_address

NOTHING = "–"
"""In a cell of a table for the UI that has no value: a hyphen would be shown as the bullet of an empty list."""


@task(name="publish", task_run_name="publish-report", cache_policy=NO_CACHE)
def publish_comparison(folder: str) -> None:
    """Put the report, the comparison table and the way to the figures among the run's artifacts."""
    layout = RunLayout(Path(folder))
    comparison = read_comparison(layout.comparison_json)
    text = markdown_for_artifact(collect_report(layout))
    show_markdown("comparison-report", text, "The report, without its figures.")
    show_table("comparison", comparison_table(comparison), comparison["verdict"]["reason"])
    trend = read_trend(layout)
    if trend["points"]:
        fallen = " ".join(item["message"] for item in trend["regressions"])
        told = fallen or "The last comparisons of these data, the newest first; no arm fell below what was expected."
        show_table("trend", trend_table(trend), told)
    show_figures(layout.report, ("forest", "differences", "trend", "drift"))
    show_page("html-report", layout, "The report with its figures")


@task(name="write-card", task_run_name="write-model-card", cache_policy=NO_CACHE)
def publish_card(folder: str) -> None:
    """Write a retrained model's card, and put it among the run's artifacts."""
    layout = RunLayout(Path(folder))
    card = read_card(layout)
    write_card(card, layout.report)
    show_markdown("model-card", card_markdown(card), card["decision"]["reason"])
    show_figures(layout.report, ("drift",))
    show_page("html-card", layout, "The model card with its figures")


def show_page(key: str, layout: RunLayout, what: str) -> None:
    """Put the way to a run's page among the run's artifacts: a link where it is served, else where it lies.

    Args:
        key: Of the artifact.
        layout: Of the run.
        what: The page in words.
    """
    page = layout.report / "index.html"
    if address := report_address(page):
        show_link(key, address, f"{what} (on the machine that ran this)", f"Run {layout.run_id}")
        return
    kept = str(read_run_record(layout)["artifacts"])
    if "://" in kept:
        where = f"It is kept in {kept}."
        how = f"    jade report {kept}/{layout.run_id}"
        text = f"{where} This fetches the run to your machine and prints where the page then lies:\n\n{how}"
    else:
        text = (
            f"It lies on the host {platform.node()}, where no report server runs (`make up` starts one):\n\n"
            f"    {page}\n\nIt is one file, figures included: copy it, and open it in a browser."
        )
    show_markdown(key, f"**{what}** of run {layout.run_id}. {text}\n", f"Run {layout.run_id}")


def show_figures(report: Path, names: Sequence[str]) -> None:
    """Put figures of a report among the run's artifacts: as served, or else inside of the artifact.

    Args:
        report: The report's folder.
        names: Of figures; those that the report lacks are passed over.
    """
    for name in names:
        path = report / f"{name}.png"
        if path.is_file():
            within = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
            show_image(f"figure-{name}", report_address(path) or within, f"Figure {name} of the report.")


def publish_checks(layout: RunLayout) -> None:
    """Show the answers as a table among the run's artifacts."""
    reports = read_checks(layout)
    if not reports:
        return
    rows = [
        {"data": report["dataset"], "check": check["name"], "result": check["status"], "found": check["found"]}
        | {"expected": check["expected"]}
        for report in reports
        for check in report["checks"]
    ]
    failed = [row for row in rows if row["result"] == "failed"]
    told = f"{len(failed)} of {len(rows)} checks failed: nothing is trained." if failed else "Every check passed."
    show_table("data-checks", rows, told)


def verdict_in_short(verdict: dict[str, Any]) -> str:
    """Return a verdict for where one line is all there is: `crf wins by 0.110 [0.080, 0.130] over soft_span`."""
    if not isinstance(verdict["difference"], float):
        return str(verdict["reason"])
    low, high = verdict["confidence_interval"]
    first, second, difference = verdict["first"], verdict["second"], verdict["difference"]
    if difference < 0:
        first, second, difference, low, high = second, first, -difference, -high, -low
    lead = f"{difference:.3f} [{low:.3f}, {high:.3f}]"
    match verdict["outcome"]:
        case "winner":
            return f"{first} wins by {lead} over {second}"
        case "equivalent":
            return f"{first} and {second} are equally good: {first} leads by {lead}, within {verdict['margin']:g}"
        case _:
            return f"undecided: {first} leads {second} by {lead}"


def comparison_table(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row an arm, and one a baseline: what a reader looks at first."""
    rows = [_arm_row(name, arm) for name, arm in comparison["arms"].items()]
    for name, baseline in comparison["baselines"].items():
        rows.append(
            {
                "arm": f"{name.replace('_', ' ')} (untrained)",
                "decoder": NOTHING,
                "F1": _shown(baseline["f1"]),
                "95 % interval": _interval(baseline.get("confidence_interval")),
                "span F1 at IoU 0.5": _shown(baseline["span_f1_iou50"]),
                "separation": NOTHING,
                "calibration error": NOTHING,
            }
        )
    return rows


def trend_table(trend: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row a comparison, the newest first, for the UI: duration, cost and F1, and what was expected.

    A page shows some six columns; the rest is scrolled to.

    Args:
        trend: As `read_trend` returns it.
    """
    rows = []
    for run_id in reversed(dict.fromkeys(point.run_id for point in trend["points"])):
        points = [point for point in trend["points"] if point.run_id == run_id]
        night = trend["nights"].get(run_id, {})
        training = [point.seconds for point in points if point.seconds is not None]
        cost = points[0].cost_usd
        rows.append(
            {
                "comparison": run_link(run_id, night.get("flow_run_id")),
                "took": NOTHING if night.get("seconds") is None else duration(night["seconds"]),
                "cost, USD": NOTHING if cost is None else f"{cost:.2f}",
                **{f"F1 of {point.arm}": _score(point, night) for point in points},
                "began (UTC)": f"{datetime.fromisoformat(points[0].created_at):%Y-%m-%d %H:%M}",
                "training, all together": duration(sum(training)) if training else NOTHING,
                **{f"expected of {point.arm}": _expected(night, point.arm) for point in points},
            }
        )
    return rows


def _score(point: TrendPoint, night: Mapping[str, Any]) -> str:
    fell = " fell" if point.arm in night.get("fell", ()) else ""
    if point.confidence_interval is None:
        return f"{point.f1:.3f}{fell}"
    low, high = point.confidence_interval
    return f"{point.f1:.3f} [{low:.3f}, {high:.3f}]{fell}"


def _expected(night: Mapping[str, Any], arm: str) -> str:
    band = night.get("expected", {}).get(arm)
    if band is None:
        return NOTHING
    return f"{band[0]:.3f}, at least {band[1]:.3f}"


def _arm_row(name: str, arm: dict[str, Any]) -> dict[str, Any]:
    summary = arm["summary"]
    decoder = summary["decoders"][summary["best_decoder"]]
    return {
        "arm": name,
        "decoder": summary["best_decoder"],
        "F1": _shown(decoder["f1"]),
        "95 % interval": _interval(decoder["confidence_interval"]),
        "span F1 at IoU 0.5": _shown(decoder["span_f1_iou50"]),
        "separation": _shown(summary["separation"]["separation"]),
        "calibration error": _shown(summary["calibration"]["ece"]),
    }


def _shown(value: float) -> str:
    return f"{value:.3f}"


def _interval(bounds: list[float] | None) -> str:
    return NOTHING if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"
