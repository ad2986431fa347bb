"""`jade train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flows.commands.common import dry_run_option, json_option, print_json, tell_rental_plan
from flows.commands.options import SAMPLE_DATA, flags_of, parameters_of
from flows.parameters import TrainParameters
from jade_model.core.checkpoint import load_checkpoint
from jade_model.core.training_files import files_of
from tasks.artifacts.repository import open_place
from tasks.execution.run import trainings_of
from tasks.experiments.checks import check_sources
from tasks.experiments.plan import Plan, load_data, write_job
from tasks.runs.record import recorded_run


@click.command("train")
@flags_of(TrainParameters, leave_out=("data",))
@click.option("--data-path", "data", multiple=True, metavar="DATA", help="Labelled windows; else the built-in sample.")
@dry_run_option
@json_option
def command(*, as_json: bool, dry_run: bool, **flags: Any) -> None:
    """Train one loss on a data file, without a comparison."""
    parameters = parameters_of(TrainParameters, flags, below=SAMPLE_DATA)
    placement = parameters.trains_on
    if dry_run:
        tell_rental_plan(placement, as_json=as_json)
        return
    arms = {parameters.loss: f"{parameters.recipe}_{parameters.loss}"}
    plan = Plan(arms, parameters.epochs, seeds=parameters.seeds, folds=1, split=parameters.split, ensemble=1)
    check_sources(parameters.data, folds=1, seeds=parameters.seeds, split=parameters.split)
    given = parameters.model_dump(mode="json")
    with recorded_run(open_place(parameters.artifacts), "train", given, host=str(placement)) as run:
        data = load_data(parameters.data)
        run.record["data"] = [{"name": item.name, "path": item.path, "sha256": item.sha256} for item in data]
        job = write_job(run.layout, data, plan)
        with (
            run.phase("train"),
            trainings_of(run, placement, fresh=parameters.fresh) as training,
        ):
            training.start()
            training.progress.wait_for_end()
            training.raise_if_failed()
    trained = [_trained(files_of(training, run.layout.root).last) for training in job.trainings]
    if as_json:
        print_json({"run_id": run.layout.run_id, "folder": str(run.layout.root), "trainings": trained})
    else:
        for entry in trained:
            shown = "" if entry["validation_loss"] is None else f", val_loss={entry['validation_loss']:.4f}"
            click.echo(f"{entry['checkpoint']}: train_loss={entry['train_loss']:.4f}{shown}")


def _trained(checkpoint: Path) -> dict[str, Any]:
    history = load_checkpoint(checkpoint).history
    return {
        "checkpoint": str(checkpoint),
        "epochs": len(history),
        "train_loss": history[-1]["train_loss"],
        "validation_loss": history[-1]["validation_loss"],
    }
