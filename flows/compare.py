"""The flow `compare`: from labelled windows to a report that says which loss is better."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner

from flows.parameters import CompareParameters
from flows.training_flow import training_flow
from jade_model.comparison.files import read_comparison
from jade_model.report import DrawingProcess
from tasks.artifacts.repository import open_place
from tasks.core.layout import RunLayout
from tasks.core.processes import import_meanwhile
from tasks.execution.placement import check_placement
from tasks.execution.prefect_tasks import follow_trainings, training_job
from tasks.experiments.checks import check_job_data
from tasks.experiments.plan import Plan, load_data, write_job
from tasks.experiments.promote import champion_run
from tasks.experiments.publish import publish_checks, publish_comparison, verdict_in_short
from tasks.experiments.report import write_run_report
from tasks.experiments.sweep_plan import recipes_of
from tasks.experiments.trend import record_trend, tell_regressions
from tasks.operations.flow_runs import conclude
from tasks.runs.record import Run, recorded_run

CONFIDENCE = 0.95
# Tasks that follow a part wait rather than work: let there be one for each.
MAX_PARTS = 128


@training_flow(CompareParameters, task_runner=ThreadPoolTaskRunner(max_workers=MAX_PARTS))
def compare(parameters: CompareParameters) -> str:
    """Train every arm on the same splits, choose thresholds, compare, and write the report.

    Returns:
        The run's folder on this machine.
    """
    check_placement(parameters.trains_on)
    place = open_place(parameters.artifacts)
    with (
        recorded_run(place, "compare", parameters.model_dump(mode="json"), host=str(parameters.trains_on)) as run,
        ExitStack() as at_end,
    ):
        folder = str(run.layout.root)
        with run.phase("prepare"):
            run.record["data"] = prepare_data(folder, parameters)
            run.save()
        with (
            run.phase("train"),
            training_job(run, parameters.trains_on, fresh=parameters.fresh) as training,
        ):
            import_meanwhile("tasks.experiments.evaluate", "jade_model.report.figures")
            beside = at_end.enter_context(DrawingProcess())
            training.start()
            follow_trainings(folder)
        with run.phase("evaluate"):
            evaluate(folder, parameters, run.record["started_at"])
        finish(run, beside)
    return folder


@task(name="prepare-data", task_run_name="prepare-data", cache_policy=NO_CACHE)
def prepare_data(folder: str, parameters: CompareParameters) -> list[dict[str, Any]]:
    """Load, split, write the job, check the data; return what `run.json` says of them."""
    layout = RunLayout(Path(folder))
    data = load_data(parameters.data)
    plan = Plan(
        arms=recipes_of(parameters.recipe, parameters.arms),
        epochs=parameters.epochs,
        seeds=parameters.seeds,
        folds=parameters.num_folds,
        split=parameters.split,
        ensemble=parameters.ensemble,
        arm_module=None if parameters.arm_module is None else Path(parameters.arm_module),
    )
    job = write_job(layout, data, plan)
    try:
        check_job_data(layout, job, data, champion_run(open_place(parameters.artifacts)))
    finally:
        publish_checks(layout)
    return [{"name": item.name, "path": item.path, "sha256": item.sha256} for item in data]


@task(name="evaluate", task_run_name="optimise-thresholds-and-compare", cache_policy=NO_CACHE)
def evaluate(folder: str, parameters: CompareParameters, created_at: str) -> None:
    """Choose temperatures and thresholds, score the held-out windows, decide."""
    # Brings torch: two seconds that training need not wait for.
    from tasks.experiments.evaluate import EvaluationSettings, evaluate_run

    settings = EvaluationSettings(
        **dict(parameters.scoring),
        confidence=CONFIDENCE,
        split=parameters.split,
        num_folds=parameters.num_folds,
        ensemble=parameters.ensemble,
    )
    evaluate_run(RunLayout(Path(folder)), settings, created_at=created_at)


@task(name="report", task_run_name="write-report", cache_policy=NO_CACHE)
def report(folder: str, beside: DrawingProcess | None = None) -> None:
    """Write Markdown, HTML and figures from the run's files."""
    write_run_report(RunLayout(Path(folder)), beside)


@task(name="trend", task_run_name="compare-with-earlier-nights", cache_policy=NO_CACHE)
def trend(folder: str, address: str) -> None:
    """Put the comparison in the row of those before it; tell where an arm fell out of it."""
    layout = RunLayout(Path(folder))
    regressions = record_trend(layout, open_place(address))
    for item in regressions:
        get_run_logger().warning("regression: %s", item.message)
    tell_regressions(layout.run_id, regressions)


def finish(run: Run, beside: DrawingProcess) -> None:
    """Look back, write the report, and show it in the UI."""
    run.note_overhead()
    run.save()
    with run.phase("report"):
        trend(str(run.layout.root), run.place.address)
        report(str(run.layout.root), beside)
        publish_comparison(str(run.layout.root))
    conclude(verdict_in_short(read_comparison(run.layout.comparison_json)["verdict"]))
