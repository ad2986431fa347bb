"""`jade sweep`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from flows.commands.common import print_json, print_table
from flows.commands.renting import split_names, tell_rental_plan
from flows.parameters.sweep import SweepParameters
from tasks.core.errors import BadRequest
from tasks.execution.placement import check_placement
from tasks.execution.progress import terminal_is_live
from tasks.experiments.sweep_plan import plan_arms
from tasks.settings.load import load_settings, prepare_prefect

IN_FILE_ONLY = ("grid", "arms")
"""Tables: a flag would be a second way to write TOML."""


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
    data = content.get("data", [])
    if isinstance(data, str):
        data = [data]
    if not isinstance(data, list) or not all(isinstance(item, str) for item in data):
        raise BadRequest(f"{path}: data is {data!r}; it must be a path or a list of paths")
    return {**content, "data": [str(path.parent / Path(item).expanduser()) for item in data]}


def _options() -> list[click.Option]:
    return [_option(name, field) for name, field in SweepParameters.model_fields.items() if name not in IN_FILE_ONLY]


def _option(name: str, field: FieldInfo) -> click.Option:
    flag = f"--{name.replace('_', '-')}"
    if field.annotation is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", name], default=None, help=field.description)
    several = isinstance(field.get_default(call_default_factory=True), list)
    shown = "" if field.default in (None, []) else f"  [default: {field.default}]"
    return click.Option([flag, name], multiple=several, help=f"{field.description}{shown}", metavar=name.upper())


def _sweep(*, file: Path, as_json: bool, dry_run: bool, **flags: Any) -> None:
    parameters = sweep_parameters(file, flags)
    if dry_run:
        tell_rental_plan(parameters.placement, as_json=as_json)
        return
    prepare_prefect(quiet=as_json or terminal_is_live())
    from flows.sweep import sweep

    folder = Path(sweep(parameters))
    from tasks.core.layout import RunLayout
    from tasks.experiments.sweep_publishing import read_sweep, sweep_rows
    from tasks.provisioning.rental_files import read_rental, rental_sentence

    content, rental = read_sweep(RunLayout(folder)), read_rental(folder)
    report = folder / "report" / "index.html"
    if as_json:
        results = {"table": str(folder / "results.parquet"), "report": str(report)}
        verdict, ranking = content["verdict"], content["ranking"]
        print_json(
            {
                "run_id": folder.name,
                "folder": str(folder),
                **results,
                "verdict": verdict,
                "ranking": ranking,
                "trainings": content["trainings"],
                **({} if rental is None else {"rental": rental}),
            }
        )
        return
    rows = sweep_rows(content)
    print_table(None, list(rows[0]), [[str(value) for value in row.values()] for row in rows], numeric_from=2)
    click.echo(content["verdict"]["reason"])
    if rental is not None:
        click.echo(rental_sentence(rental))
    click.echo(f"\nReport: {report.relative_to(Path.cwd()) if report.is_relative_to(Path.cwd()) else report}")


def sweep_parameters(file: Path, flags: dict[str, Any]) -> SweepParameters:
    """Return a sweep's parameters: the file's, and what the flags say instead.

    Raises:
        BadRequest: The file, or what the arms say, is wrong; the message names the key.
        click.UsageError: A flag is wrong.
    """
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in flags.items()}
    given = {name: value for name, value in given.items() if value not in (None, [])}
    if "gpu" in given:
        given["gpu"] = split_names(given["gpu"])
    if "hosts" in given:
        given["hosts"] = [name for value in given["hosts"] for name in value.replace(",", " ").split()]
    content = read_sweep_file(file)
    if not {"host", "engine", "hosts", "rent", "provider"} & {*content, *given}:
        content["host"] = load_settings().host
    try:
        parameters = SweepParameters.model_validate({**content, **given})
    except ValidationError as error:
        from_flags = [problem for problem in error.errors() if problem["loc"] and problem["loc"][0] in given]
        if from_flags:
            name = str(from_flags[0]["loc"][0]).replace("_", "-")
            raise click.UsageError(f"--{name}: {from_flags[0]['msg']} (given: {from_flags[0]['input']!r})") from error
        raise BadRequest(f"{file}: {_problems(error)}") from error
    try:
        plan_arms(parameters.grid, parameters.arms, epochs=parameters.epochs)
    except BadRequest as error:
        raise BadRequest(f"{file}: {error}") from error
    try:
        check_placement(parameters.placement)
    except ValidationError as error:
        raise BadRequest("; ".join(problem["msg"] for problem in error.errors())) from error
    return parameters


def _problems(error: ValidationError) -> str:
    known = ", ".join(SweepParameters.model_fields)
    said = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            said.append(f"unknown key {key}; known: {known}")
        else:
            said.append(f"{key} is {problem['input']!r}: {problem['msg']}" if key else problem["msg"])
    return "; ".join(said)


command = click.Command(
    "sweep",
    callback=_sweep,
    params=[
        click.Argument(["file"], type=click.Path(path_type=Path), metavar="SWEEP.TOML"),
        *_options(),
        click.Option(["--dry-run"], is_flag=True, help="Only tell what would be rented, and what each could cost."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the result as JSON, for scripts."),
    ],
    help="""Try recipes from a TOML file, rank them, say what each setting is worth.

    The file names recipes and what varies; docs/sweeps.md shows one. Flags override the file. A training that an
    earlier run finished is kept, not repeated.
    """,
)
