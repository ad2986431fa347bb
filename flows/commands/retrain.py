"""`jade retrain`."""

from __future__ import annotations

import json
from typing import Any

import click

from flows.commands.common import dry_run_option, json_option, nearby, print_json, run_flow, tell_rental_plan
from flows.commands.options import SAMPLE_DATA, flags_of, parameters_of
from flows.parameters import RetrainParameters
from tasks.experiments.checks import check_pooled_sources


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
    folder = run_flow("retrain", parameters, as_json=as_json)
    card = json.loads((folder / "card.json").read_text())
    if as_json:
        print_json({"run_id": folder.name, "folder": str(folder), "decision": card["decision"], "model": card["model"]})
        return
    verb = "is promoted" if card["decision"]["promote"] and parameters.promote else "stays challenger"
    click.echo(f"{folder.name} {verb}: {card['decision']['reason']}.")
    click.echo(f"\nCard: {nearby(folder / 'report' / 'MODEL_CARD.md')}")
