"""`jade sweep`."""

from __future__ import annotations

import tomllib
from pathlib import Path
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
from flows.commands.options import flags_of, parameters_of
from flows.parameters import SweepParameters
from jade_model.data.sample import NAME as SAMPLE
from tasks.core.errors import BadRequest
from tasks.experiments.checks import check_sources
from tasks.experiments.sweep_plan import plan_arms


def read_sweep_file(path: Path) -> dict[str, Any]:
    """Read sweep.toml; its data files are meant relative to it.

    Raises:
        BadRequest: It is missing or no TOML, or `data` is no list of paths.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise BadRequest(f"there is no file {path}; docs/sweeps.md shows one to start from") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadRequest(f"{path} is not a readable TOML file: {error}") from error
    data = content.get("data", SAMPLE)
    data = [data] if isinstance(data, str) else data
    if not isinstance(data, list) or not all(isinstance(item, str) for item in data):
        raise BadRequest(f"{path}: data is {data!r}; it must be a path or a list of paths")
    return {
        **content,
        "data": [item if item == SAMPLE else str(path.parent / Path(item).expanduser()) for item in data],
    }


def sweep_parameters(file: Path, flags: dict[str, Any]) -> SweepParameters:
    """Return a sweep's parameters: the file's, and what the flags say instead.

    Raises:
        BadRequest: The file, or what the arms say, is wrong; the message names the key.
        click.UsageError: A flag, or a value in the file, is wrong.
    """
    parameters = parameters_of(SweepParameters, flags, below=read_sweep_file(file), file=str(file))
    try:
        plan_arms(parameters.grid, parameters.arms, epochs=parameters.epochs)
    except BadRequest as error:
        raise BadRequest(f"{file}: {error}") from error
    return parameters


@click.command("sweep")
@click.argument("file", type=click.Path(path_type=Path), metavar="SWEEP.TOML")
@flags_of(SweepParameters, leave_out=("grid", "arms"))  # tables: a flag would be a second way to write TOML
@dry_run_option
@json_option
def command(*, file: Path, as_json: bool, dry_run: bool, **flags: Any) -> None:
    """Try recipes from a TOML file, rank them, say what each setting is worth.

    The file names recipes and what varies; docs/sweeps.md shows one. Flags override the file. A training that an
    earlier run finished is kept, not repeated.
    """
    parameters = sweep_parameters(file, flags)
    if dry_run:
        tell_rental_plan(parameters.trains_on, as_json=as_json)
        return
    check_sources(parameters.data, folds=parameters.folds, seeds=parameters.seeds)
    folder = run_flow("sweep", parameters, as_json=as_json)
    from tasks.core.layout import RunLayout
    from tasks.experiments.report import read_sweep
    from tasks.experiments.sweep_tasks import sweep_rows
    from tasks.provisioning.rental_record import read_rental, rental_sentence

    content, rental = read_sweep(RunLayout(folder)), read_rental(folder)
    report = folder / "report" / "index.html"
    if as_json:
        print_json(
            {
                "run_id": folder.name,
                "folder": str(folder),
                "table": str(folder / "results.parquet"),
                "report": str(report),
                **{name: content[name] for name in ("verdict", "ranking", "trainings")},
                **({} if rental is None else {"rental": rental}),
            }
        )
        return
    rows = sweep_rows(content)
    print_table(None, list(rows[0]), [[str(value) for value in row.values()] for row in rows], numeric_from=2)
    click.echo(content["verdict"]["reason"])
    if rental is not None:
        click.echo(rental_sentence(rental))
    click.echo(f"\nReport: {nearby(report)}")
