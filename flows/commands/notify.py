"""`jade notify`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flows.commands.common import json_option, print_json, print_table, tell
from tasks.core.errors import BadRequest
from tasks.operations.notify_targets import KINDS, OCCASIONS, SILENT_AFTER_S, Target, targets_from
from tasks.settings.environment import secret_from_environment
from tasks.settings.prefect import prepare_prefect, require_server


@click.group("notify", epilog="Every command takes --json.")
def command() -> None:
    """Say who is told when a run fails, crashes, is late or silent, of workers, regressions, promotions and budgets.

    Needs a Prefect server: `jade up`, or PREFECT_API_URL.
    """


@command.command("add")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name")
@click.option("--on", "occasions", multiple=True, type=click.Choice(OCCASIONS), help="Only this; may be repeated.")
@click.option("--silent-after", type=click.FloatRange(30), default=SILENT_AFTER_S, show_default=True, help="Seconds.")
@click.option("--address-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Holds the address.")
@json_option
def add(
    *, kind: str, name: str, occasions: tuple[str, ...], silent_after: float, address_file: Path | None, as_json: bool
) -> None:
    """Notify somebody. The address is a secret: it is asked for, or read from --address-file or standard input.

    Slack and webhook want a URL, email Apprise's mailtos://USER:PASSWORD@SMTP-HOST?to=WHOM.
    """
    _prepare()
    from tasks.operations.notifications import add_target

    target = Target(name, kind, occasions or OCCASIONS, silent_after)  # type: ignore[arg-type]
    if address_file is not None:
        address = address_file.read_text("utf-8")
    elif sys.stdin.isatty():
        address = click.prompt(f"Address of {name} ({kind})", hide_input=True)
    else:
        address = sys.stdin.read()
    made = add_target(target, address)
    text = f"{name} is told of: {', '.join(target.occasions)}."
    tell({"name": name, "kind": kind, "automations": made}, text, as_json=as_json)


@command.command("apply")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def apply(*, file: Path, as_json: bool) -> None:
    """Set up all that a file such as deployments/notifications.yaml says; addresses come from the environment."""
    _prepare()
    import yaml

    from tasks.operations.notifications import add_target

    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise BadRequest(f"{file} is no YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("notifications"), list):
        raise BadRequest(f"{file} needs a list called notifications")
    wanted = targets_from(content["notifications"])
    # All addresses first: nothing is set up by halves.
    found = [(target, secret_from_environment(variable)) for target, variable in wanted]
    for target, address in found:
        add_target(target, address)
        if not as_json:
            click.echo(f"{target.name} is told of: {', '.join(target.occasions)}.")
    if as_json:
        print_json([{"name": target.name, "occasions": list(target.occasions)} for target, _ in found])


@command.command("list")
@json_option
def list_all(*, as_json: bool) -> None:
    """Show who is told of what."""
    _prepare()
    from tasks.operations.notifications import list_targets

    found = list_targets()
    if as_json:
        print_json([{"name": name, "occasions": occasions} for name, occasions in found])
    elif found:
        print_table(None, ["who", "is told of"], [[name, ", ".join(told)] for name, told in found], numeric_from=2)
    else:
        click.echo("Nobody is notified.", err=True)


@command.command("remove")
@click.argument("name")
@json_option
def remove(*, name: str, as_json: bool) -> None:
    """Notify somebody no more, and forget the address."""
    _prepare()
    from tasks.operations.notifications import remove_target

    remove_target(name)
    tell({"removed": name}, f"{name} is not notified any more.", as_json=as_json)


def _prepare() -> None:
    require_server()
    prepare_prefect(quiet=True)
