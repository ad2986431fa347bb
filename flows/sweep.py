"""The flow `sweep`: from recipes and data to a ranking that says which is best and what each setting is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.parameters import SweepParameters
from flows.training_flow import training_flow
from jade_model.scoring.decoding import Cleanup
from tasks.artifacts.repository import open_place
from tasks.core.layout import RunLayout
from tasks.execution.placement import check_placement
from tasks.execution.prefect_tasks import training_job
from tasks.experiments.plan import Plan, load_data, write_job
from tasks.experiments.report import read_sweep
from tasks.experiments.sweep import ARMS_FOLDER, Sweep, SweepSettings, check_distinct
from tasks.experiments.sweep_plan import plan_arms
from tasks.experiments.sweep_tasks import look, opened_sweep, publish_sweep, train_round, write_sweep_report
from tasks.operations.flow_runs import conclude
from tasks.runs.record import Run, recorded_run

CONFIDENCE = 0.95


@training_flow(SweepParameters)
def sweep(parameters: SweepParameters) -> str:
    """Train every arm, round by round, stop those that cannot win any more, rank them, and write the report.

    Returns:
        The run's folder.
    """
    placement = parameters.trains_on
    check_placement(placement)
    place = open_place(parameters.artifacts)
    with (
        recorded_run(place, "sweep", parameters.model_dump(mode="json"), host=str(placement)) as run,
    ):
        folder = str(run.layout.root)
        with run.phase("prepare"):
            prepared = prepare_sweep(folder, parameters)
            record_data(run, prepared)
        with (
            run.phase("train"),
            opened_sweep(prepared),
            training_job(run, placement, fresh=parameters.fresh) as training,
        ):
            for number, seeds in enumerate(prepared.rounds, start=1):
                train_round(folder, training, seeds)
                is_last = number == len(prepared.rounds)
                if look(folder, is_last=is_last) < 2:
                    break
        run.save()
        with run.phase("report"):
            prepared.finish(created_at=run.record["started_at"])
            write_sweep_report(folder)
            publish_sweep(folder)
        prepared.raise_if_not_run()
        conclude(read_sweep(run.layout)["verdict"]["reason"])
    return folder


@task(name="prepare-sweep", task_run_name="prepare-data-and-arms", cache_policy=NO_CACHE, persist_result=False)
def prepare_sweep(folder: str, parameters: SweepParameters) -> Sweep:
    """Plan the arms, load, check and split the data, write the job."""
    layout = RunLayout(Path(folder))
    arms = plan_arms(parameters.grid, parameters.arms, epochs=parameters.epochs)
    data = load_data(parameters.data)
    plan = Plan(
        arms={arm.name: arm.recipe for arm in arms},
        epochs=None,
        seeds=parameters.seeds,
        folds=parameters.folds,
        split="grouped",
        ensemble=1,
    )
    job = write_job(layout, data, plan, below=ARMS_FOLDER)
    check_distinct(job)
    settings = SweepSettings(
        metric=parameters.metric,
        margin=parameters.scoring.margin,
        confidence=CONFIDENCE,
        error_rate=parameters.error_rate if parameters.stop_early else None,
        checkpoint=parameters.scoring.checkpoint,
        cleanup=Cleanup(parameters.scoring.min_span_length, parameters.scoring.merge_gap),
    )
    return Sweep(layout, job, arms, data, plan, settings)


def record_data(run: Run, prepared: Sweep) -> None:
    """Say in `run.json` what was read."""
    entries: list[dict[str, Any]] = prepared.data_entries
    run.record["data"] = [{name: entry[name] for name in ("name", "path", "sha256")} for entry in entries]
    run.save()
