"""A sweep's report as files, and its result in the Prefect UI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from jade_model.report.numbers import interval, number, signed
from jade_model.report.sweep import SweepReport, sweep_markdown
from tasks.core.layout import RunLayout
from tasks.experiments.publish import show_page
from tasks.experiments.report import read_sweep, write_run_report
from tasks.operations.ui import show_markdown, show_table
from tasks.runs.record import read_run_record


@task(name="report", task_run_name="write-report", cache_policy=NO_CACHE)
def write_sweep_report(folder: str) -> None:
    """Write the report of a sweep from its files alone."""
    write_run_report(RunLayout(Path(folder)))


@task(name="publish", task_run_name="publish-report", cache_policy=NO_CACHE)
def publish_sweep(folder: str) -> None:
    """Put the report, the ranking and the way to the page among the run's artifacts."""
    layout = RunLayout(Path(folder))
    content = read_sweep(layout)
    text = sweep_markdown(SweepReport(content, read_run_record(layout)))
    show_markdown("sweep-report", text, "The report, without its figures.")
    show_table("sweep", sweep_rows(content), content["verdict"]["reason"])
    show_page("sweep-page", layout, "The report with its figures")


def sweep_rows(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row an arm, best first: what a reader looks at first."""
    metric = content["settings"]["metric"]
    return [
        {
            "place": entry["place"],
            "arm": entry["arm"],
            "F1" if metric == "f1" else "span F1": number(entry.get(metric)),
            "95 % interval": interval(entry.get(f"{metric}_interval")),
            "behind the best": signed(entry.get("best_minus_this")),
            "seeds": entry["num_seeds"],
            "state": entry["state"],
        }
        for entry in content["ranking"]
    ]
