"""`jade retrain`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from flows.commands.common import dry_run_option, json_option, nearby, print_json, tell_rental_plan
from flows.commands.options import SAMPLE_DATA, flags_of, parameters_of
from flows.parameters import RetrainParameters
from tasks.execution.progress import terminal_is_live
from tasks.experiments.checks import check_pooled_sources
from tasks.settings.prefect import prepare_prefect


@click.command("retrain")
@flags_of(RetrainParameters)
@dry_run_option
@json_option
def command(*, as_json: bool, dry_run: bool, **flags: Any) -> None:
    """Train a model on all but a fixed hold-out, judge it beside the champion, and promote it if it passes.

    Without --data, the built-in sample is used.
    """
    parameters = parameters_of(RetrainParameters, flags, below=SAMPLE_DATA)
    if dry_run:
        tell_rental_plan(parameters.trains_on, as_json=as_json)
        return
    check_pooled_sources(parameters.data, folds=parameters.folds, holdout=parameters.holdout)
    prepare_prefect(quiet=as_json or terminal_is_live())
    from flows.retrain import retrain

    folder = Path(retrain(**dict(parameters)))
    card = json.loads((folder / "card.json").read_text())
    if as_json:
        print_json({"run_id": folder.name, "folder": str(folder), "decision": card["decision"], "model": card["model"]})
        return
    verb = "is promoted" if card["decision"]["promote"] and parameters.promote else "stays challenger"
    click.echo(f"{folder.name} {verb}: {card['decision']['reason']}.")
    click.echo(f"\nCard: {nearby(folder / 'report' / 'MODEL_CARD.md')}")
