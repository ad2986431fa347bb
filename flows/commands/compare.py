"""`jade compare`."""

from __future__ import annotations

import json
from typing import Any

import click

from flows.commands.common import (
    dry_run_option,
    json_option,
    nearby,
    print_json,
    print_table,
    run_flow,
    tell_rental_plan,
)
from flows.commands.options import SAMPLE_DATA, flags_of, parameters_of
from flows.parameters import CompareParameters
from tasks.experiments.checks import check_sources
from tasks.experiments.sweep_plan import recipes_of


@click.command("compare")
@flags_of(CompareParameters)
@dry_run_option
@json_option
def command(*, as_json: bool, dry_run: bool, **flags: Any) -> None:
    """Train the losses, compare them, write the report.

    Without --data, the built-in sample is used. A training that an earlier run finished is kept, not repeated.
    """
    parameters = parameters_of(CompareParameters, flags, below=SAMPLE_DATA)
    if dry_run:
        tell_rental_plan(parameters.trains_on, as_json=as_json)
        return
    recipes_of(parameters.recipe, parameters.arms)
    check_sources(
        parameters.data,
        folds=parameters.num_folds,
        seeds=parameters.seeds,
        split=parameters.split,
        checked_by_run=True,
    )
    folder = run_flow("compare", parameters, as_json=as_json)
    comparison = json.loads((folder / "comparison.json").read_text())
    report = folder / "report" / "index.html"
    if as_json:
        shown = {"run_id": folder.name, "folder": str(folder), "report": str(report)}
        print_json({**shown, "verdict": comparison["verdict"]})
        return
    from tasks.experiments.publish import comparison_table

    rows = comparison_table(comparison)
    print_table(None, list(rows[0]), [[str(value) for value in row.values()] for row in rows], numeric_from=2)
    click.echo(comparison["verdict"]["reason"])
    click.echo(f"\nReport: {nearby(report)}")
