"""`jade track`."""

from __future__ import annotations

import click

from flows.commands.common import artifacts_option, json_option, print_json


@click.command("track")
@click.argument("run", metavar="RUN")
@artifacts_option
@json_option
def command(*, run: str, artifacts: str | None, as_json: bool) -> None:
    """Tell MLflow of a run, from its files: parameters, metrics, verdict, report; and which model is champion.

    What MLflow knows already stays as it is. RUN is as for `jade report`; `MLFLOW_TRACKING_URI` says where MLflow is.
    """
    from tasks.artifacts.repository import open_run
    from tasks.runs.tracked_models import tell_models
    from tasks.runs.tracking import tell_run, tracks

    tracks("mlflow")
    place, layout = open_run(run, artifacts)
    identifier = tell_run(layout, place.address, is_running=place.is_running(layout.run_id))
    aliases = tell_models(place)
    if as_json:
        print_json({"run_id": layout.run_id, "mlflow_run": identifier, "aliases": aliases})
        return
    click.echo(f"{layout.run_id} is the MLflow run {identifier}.")
    for alias, version in aliases.items():
        click.echo(f"{alias} is version {version} of the model `jade`.")
