"""Show a finished comparison in the Prefect UI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from jade_model.contract import read_comparison
from jade_model.report import markdown_for_artifact
from tasks.layout import RunLayout
from tasks.reporting import collect_report


@task(name="publish", task_run_name="publish-report", cache_policy=NO_CACHE)
def publish_comparison(folder: str) -> None:
    """Put the report, the comparison table and the way to the figures among the run's artifacts."""
    layout = RunLayout(Path(folder))
    comparison = read_comparison(layout.comparison_json)
    create_markdown_artifact(
        markdown_for_artifact(collect_report(layout)),
        key="comparison-report",
        description="The report, without its figures.",
    )
    create_table_artifact(comparison_table(comparison), key="comparison", description=comparison["verdict"]["reason"])
    create_link_artifact(
        (layout.report / "index.html").as_uri(),
        link_text="The report with its figures (on the machine that ran this)",
        key="html-report",
        description=f"Run {layout.run_id}",
    )


def comparison_table(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row an arm, and one a baseline: what a reader looks at first."""
    rows = [_arm_row(name, arm) for name, arm in comparison["arms"].items()]
    for name, baseline in comparison["baselines"].items():
        rows.append(
            {
                "arm": f"{name.replace('_', ' ')} (untrained)",
                "decoder": "-",
                "F1": _shown(baseline["f1"]),
                "95 % interval": _interval(baseline.get("confidence_interval")),
                "span F1 at IoU 0.5": _shown(baseline["span_f1_iou50"]),
                "separation": "-",
                "calibration error": "-",
            }
        )
    return rows


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
    return "-" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"
