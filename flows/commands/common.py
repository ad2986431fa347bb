"""What several commands share: options, and how results are printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from flows.parameters import Parameters
    from tasks.execution.placement import Placement

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, for scripts.")

dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Only tell what would be rented, and what each could cost."
)

artifacts_option = click.option(
    "--artifacts",
    metavar="PLACE",
    help="What keeps the runs: a folder or s3://bucket/prefix.  [default: the settings', else `artifacts`]",
)


arm_module_option = click.option(
    "--arm-module",
    type=click.Path(path_type=Path),
    help="Python file with the arm of your own that the model was trained with; it is run.",
)


def load_arm_module(path: Path | None) -> None:
    """Run the module that `arm_module_option` names, if any."""
    if path is not None:
        from jade_model.core.span_heads.own import load_arms

        load_arms(path)


def run_flow(name: str, parameters: Parameters, *, as_json: bool) -> Path:
    """Run a flow in this process, with the Prefect server that is set or one of this command's own.

    Args:
        name: Of the flow, and of its module.
        parameters: The flow's.
        as_json: Whether the command's result is for programs.

    Returns:
        The run's folder.

    Raises:
        BadStoreAddress: The runs are to be kept where nothing can be.
    """
    from tasks.artifacts.repository import open_place
    from tasks.execution.progress import terminal_is_live
    from tasks.operations.temporary_server import TemporaryServer
    from tasks.settings.prefect import prefect_folder, prefect_setting, prepare_prefect

    open_place(parameters.artifacts)
    prepare_prefect(quiet=as_json or terminal_is_live())
    server = None
    if prefect_setting("api", "url") is None:
        server = TemporaryServer(prefect_folder() / "server.log")
    # Importing it takes about as long as the server's start.
    flow = getattr(import_module(f"flows.{name}"), name)
    if server is not None:
        server.wait()
    return Path(flow(**dict(parameters)))


def print_json(value: Any) -> None:
    """Print a value as indented JSON on standard output."""
    click.echo(json.dumps(value, indent=2))


def tell(result: Any, text: str, *, as_json: bool) -> None:
    """Print a result on standard output: as JSON for programs, in words for people."""
    if as_json:
        print_json(result)
    else:
        click.echo(text)


def print_table(title: str | None, columns: list[str], rows: list[list[str]], *, numeric_from: int = 1) -> None:
    """Print a table on standard output.

    Args:
        title: Line above, or None.
        columns: Headings.
        rows: Cells as text.
        numeric_from: First column that is set flush right.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # As text: markup would take the brackets of a path such as data[v2].parquet for a style.
    table = Table(title=None if title is None else Text(title), box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.show_header = any(columns)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index >= numeric_from else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console()
    # A pipe has no width of its own: let the table have what it needs instead of folding at 80.
    Console(width=console.width if console.is_terminal else 160).print(table)


def nearby(path: Path) -> Path:
    """Return the path relative to the working folder where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def tell_rental_plan(placement: Placement, *, as_json: bool) -> None:
    """Print which machines would be tried in which order, and what each could cost. Rents nothing.

    Raises:
        BadRequest: The placement rents nothing; or as `Renter.quotes`.
    """
    from tasks.core.errors import BadRequest
    from tasks.provisioning.ledger import Purpose
    from tasks.provisioning.registry import open_registry
    from tasks.settings.models import PROVIDERS

    request = placement.rental
    if placement.provider is None:
        raise BadRequest(f"--dry-run is about renting: --host must be one of {', '.join(PROVIDERS)}")
    with closing(open_registry()) as registry:
        purpose = Purpose("dry-run")
        renter = registry.renter(placement.provider, request, purpose, note=lambda line: click.echo(line, err=True))
        planned = renter.quotes()
        spent = registry.ledger.spent_usd()
    if as_json:
        shown = [
            {
                "kind": offer.kind,
                "title": offer.title,
                "price_usd_per_hour": offer.price_usd_per_hour,
                "hours": round(hours, 4),
                "max_cost_usd": round(offer.price_usd_per_hour * hours, 4),
                "available": offer.available,
            }
            for offer, hours in planned
        ]
        print_json({"candidates": shown, "max_hours": request.max_hours, "spent_this_month_usd": round(spent, 4)})
        return
    rows = [
        [
            str(number),
            offer.title,
            f"{offer.price_usd_per_hour:.3f}",
            f"{hours:.2g}" if hours else "over the budget",
            f"{offer.price_usd_per_hour * hours:.2f}",
            {True: "yes", False: "sold out", None: "unknown"}[offer.available],
        ]
        for number, (offer, hours) in enumerate(planned, 1)
    ]
    columns = ["", "would try", "USD/h", "hours at most", "USD at most", "to be had"]
    print_table(None, columns, rows, numeric_from=2)
    left = "" if request.budget is None else f" of {request.budget:.2f}"
    click.echo(f"Nothing was rented. This month's runs have cost {spent:.2f}{left} USD.", err=True)
