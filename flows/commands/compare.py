"""`jade compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from flows.commands.common import print_json, print_table
from flows.commands.renting import split_names, tell_rental_plan
from flows.parameters.compare import CompareParameters
from tasks.execution.placement import check_placement
from tasks.execution.progress import terminal_is_live
from tasks.settings.load import load_settings, prepare_prefect

ModelT = TypeVar("ModelT", bound=BaseModel)


def parameter_options(model: type[BaseModel]) -> list[click.Option]:
    """Make one option of each parameter: the model is the only place that names them."""
    return [_option(name, field) for name, field in model.model_fields.items()]


def _option(name: str, field: FieldInfo) -> click.Option:
    flag = f"--{name.replace('_', '-')}"
    if field.annotation is bool:
        return click.Option([flag, name], is_flag=True, default=None, help=field.description)
    several = isinstance(field.get_default(call_default_factory=True), list)
    default = field.default
    shown = "" if default in (None, []) else f"  [default: {', '.join(default) if several else default}]"
    return click.Option([flag, name], multiple=several, help=f"{field.description}{shown}", metavar=name.upper())


def _compare(*, as_json: bool, dry_run: bool, **flags: Any) -> None:
    parameters = given_parameters(CompareParameters, flags)
    if dry_run:
        tell_rental_plan(parameters.placement, as_json=as_json)
        return
    prepare_prefect(quiet=as_json or terminal_is_live())
    from flows.compare import compare

    folder = Path(compare(parameters))
    comparison = json.loads((folder / "comparison.json").read_text())
    if as_json:
        print_json(
            {
                "run_id": folder.name,
                "folder": str(folder),
                "report": str(folder / "report" / "index.html"),
                "verdict": comparison["verdict"],
            }
        )
        return
    from tasks.experiments.publish import comparison_table

    rows = comparison_table(comparison)
    print_table(None, list(rows[0]), [[str(value) for value in row.values()] for row in rows], numeric_from=2)
    click.echo(comparison["verdict"]["reason"])
    click.echo(f"\nReport: {nearby(folder / 'report' / 'index.html')}")


def given_parameters(model: type[ModelT], flags: dict[str, Any]) -> ModelT:
    """Return a flow's parameters from a command's flags.

    Raises:
        HostUnknown, HostError: No settings name the host, or it is a provider that is not set up.
        click.UsageError: A value is refused; every one is named with its flag.
    """
    given = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in flags.items()
        if value not in (None, ())
    }
    for several in ("arms", "hosts"):
        if several in given:
            given[several] = [name for value in given[several] for name in value.replace(",", " ").split()]
    if "gpu" in given:
        given["gpu"] = split_names(given["gpu"])
    if "host" not in given:
        given["host"] = load_settings().host
    try:
        parameters = model.model_validate(given)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            flag = f"--{str(problem['loc'][0]).replace('_', '-')}: " if problem["loc"] else ""
            said = problem["msg"].removeprefix("Value error, ")
            problems.append(f"{flag}{said} (given: {problem['input']!r})" if flag else said)
        raise click.UsageError("; ".join(problems)) from error
    check_placement(parameters.placement)  # type: ignore[attr-defined]
    return parameters


def nearby(path: Path) -> Path:
    """Return the path relative to the working folder where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


command = click.Command(
    "compare",
    callback=_compare,
    params=[
        *parameter_options(CompareParameters),
        click.Option(["--dry-run"], is_flag=True, help="Only tell what would be rented, and what it could cost."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the result as JSON, for scripts."),
    ],
    help="""Train the losses, compare them, write the report.

    Without --data, the built-in sample is used. A training that an earlier run finished is kept, not repeated.
    """,
)
