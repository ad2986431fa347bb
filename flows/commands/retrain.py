"""`jade retrain`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from flows.commands.common import print_json
from flows.commands.compare import given_parameters, nearby, parameter_options
from flows.parameters.retrain import RetrainParameters
from tasks.execution.progress import terminal_is_live
from tasks.settings.load import prepare_prefect


def _retrain(*, as_json: bool, **flags: Any) -> None:
    parameters = given_parameters(RetrainParameters, flags)
    prepare_prefect(quiet=as_json or terminal_is_live())
    from flows.retrain import retrain

    folder = Path(retrain(parameters))
    card = json.loads((folder / "card.json").read_text())
    if as_json:
        print_json({"run_id": folder.name, "folder": str(folder), "decision": card["decision"], "model": card["model"]})
        return
    verb = "is promoted" if card["decision"]["promote"] and parameters.promote else "stays challenger"
    click.echo(f"{folder.name} {verb}: {card['decision']['reason']}.")
    click.echo(f"\nCard: {nearby(folder / 'report' / 'MODEL_CARD.md')}")


command = click.Command(
    "retrain",
    callback=_retrain,
    params=[
        *parameter_options(RetrainParameters),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the result as JSON, for scripts."),
    ],
    help="""Train a model on all but a fixed hold-out, judge it beside the champion, and promote it if it passes.""",
)
