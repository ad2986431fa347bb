"""`jade validate`."""

from __future__ import annotations

import click

from flows.commands.common import json_option, print_json, print_table
from jade_model.core.errors import DataError
from jade_model.data.schema import find_violations, iter_windows, load_windows
from jade_model.data.splits import group_windows

BATCH_SIZE = 4096
MOST_WINDOWS_GROUPED = 20_000
"""Grouping needs all windows in memory; beyond this many, the check leaves it out."""


@click.command("validate")
@click.argument("data", metavar="DATA")
@click.option("--unlabelled", is_flag=True, help="Check a file for prediction: it needs only window_id and features.")
@json_option
def command(data: str, *, unlabelled: bool, as_json: bool) -> None:
    """Check a data file, folder or glob against the contract; name every violation."""
    violations = find_violations(data, require_labels=not unlabelled)
    if violations:
        if as_json:
            print_json({"valid": False, "violations": [vars(violation) for violation in violations]})
            raise click.exceptions.Exit(2)
        raise DataError(violations)
    facts = {"valid": True, **_facts(data, labelled=not unlabelled)}
    if as_json:
        print_json(facts)
    else:
        print_table(f"{data} is valid", ["", ""], [[name, str(value)] for name, value in facts.items()][1:])


def _facts(data: str, *, labelled: bool) -> dict[str, int | float | str]:
    """Count in batches: a file larger than memory is checked too."""
    num_windows = num_spans = num_in_span = num_bars = window_length = 0
    for batch in iter_windows(data, batch_size=BATCH_SIZE, require_labels=labelled):
        num_windows += batch.num_windows
        num_bars += batch.num_windows * batch.window_length
        num_spans += len(batch.spans_S2)
        num_in_span += int(batch.in_span_NT().sum())
        window_length = batch.window_length
    facts: dict[str, int | float | str] = {"num_windows": num_windows, "window_length": window_length}
    if not labelled:
        return facts
    facts |= {"num_spans": num_spans, "in_span_rate": round(num_in_span / num_bars, 6)}
    if num_windows > MOST_WINDOWS_GROUPED:
        return facts
    grouping = group_windows(load_windows(data))
    return facts | {"num_groups": grouping.num_groups, "num_shared_bar_joins": grouping.num_shared_bar_joins}
