"""`jade train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from flows.commands.common import artifacts_option, json_option, print_json
from flows.commands.renting import rent_options, rental_request_of, tell_rental_plan
from jade_model.core.checkpoint import load_checkpoint
from jade_model.core.config import LOSSES, Loss
from jade_model.core.training_files import files_of
from tasks.artifacts.repository import open_place
from tasks.execution.jobs import FollowedJob, parts_of
from tasks.execution.placement import Placement, check_placement
from tasks.execution.run import trainings_of
from tasks.experiments.plan import Plan, load_data, write_job
from tasks.runs.record import recorded_run
from tasks.settings.load import load_settings


@click.command("train")
@click.option("--loss", type=click.Choice(LOSSES), required=True, help="Which loss.")
@click.option("--data-path", metavar="DATA", help="Labelled windows; the built-in sample if not given.")
@click.option("--recipe", type=click.Choice(["jade", "seed"]), default="jade", show_default=True)
@click.option("--epochs", type=click.IntRange(1, 10_000), help="Instead of the recipe's.")
@click.option(
    "--seeds",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    help="Train so many, seeds 0, 1, ...",
)
@click.option(
    "--split",
    type=click.Choice(["grouped", "seed"]),
    default="grouped",
    show_default=True,
    help="60/20/20, or the original's.",
)
@click.option("--host", metavar="NAME", help="Where it trains: local, or a host that `jade hosts list` shows.")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), help="What trains there; the host's own setting if not given."
)
@click.option(
    "--workers", type=click.IntRange(1, 256), help="Trainings at once; if not given, one a core, or one on a GPU."
)
@rent_options
@click.option("--fresh", is_flag=True, help="Train even if the same training is kept from an earlier run.")
@artifacts_option
@json_option
def command(
    *,
    loss: Loss,
    data_path: str | None,
    recipe: str,
    epochs: int | None,
    seeds: int,
    split: Literal["grouped", "seed"],
    host: str | None,
    device: Literal["cpu", "cuda"] | None,
    workers: int | None,
    fresh: bool,
    artifacts: str | None,
    as_json: bool,
    dry_run: bool,
    **rent: Any,
) -> None:
    """Train one loss on a data file, without a comparison."""
    plan = Plan({loss: f"{recipe}_{loss}"}, epochs, seeds=seeds, folds=1, split=split, ensemble=1)
    given: dict[str, Any] = {
        "loss": loss,
        "data": [data_path] if data_path else [],
        "recipe": recipe,
        "epochs": epochs,
    }
    host = host or load_settings().host
    placement = Placement(host=(host,), device=device, workers=workers, rental=rental_request_of(rent))
    check_placement(placement)
    if dry_run:
        tell_rental_plan(placement, as_json=as_json)
        return
    given |= {"seeds": seeds, "split": split, "host": host, "device": device}
    with recorded_run(open_place(artifacts), "train", given, host=host) as run:
        data = load_data(given["data"])
        run.record["data"] = [{"name": item.name, "path": item.path, "sha256": item.sha256} for item in data]
        job = write_job(run.layout, data, plan)
        with (
            run.phase("train"),
            trainings_of(run, placement, fresh=fresh) as running,
        ):
            _wait(running)
    trained = [_trained(files_of(training, run.layout.root).last) for training in job.trainings]
    if as_json:
        print_json({"run_id": run.layout.run_id, "folder": str(run.layout.root), "trainings": trained})
    else:
        for entry in trained:
            shown = "" if entry["validation_loss"] is None else f", val_loss={entry['validation_loss']:.4f}"
            click.echo(f"{entry['checkpoint']}: train_loss={entry['train_loss']:.4f}{shown}")


def _wait(running: FollowedJob) -> None:
    running.wait_for_end()
    if running.exit_status != 0:
        parts = ", ".join(part.name for part in parts_of(running.job))
        raise running.failure(f"train {parts}")


def _trained(checkpoint: Path) -> dict[str, Any]:
    history = load_checkpoint(checkpoint).history
    return {
        "checkpoint": str(checkpoint),
        "epochs": len(history),
        "train_loss": history[-1]["train_loss"],
        "validation_loss": history[-1]["validation_loss"],
    }
