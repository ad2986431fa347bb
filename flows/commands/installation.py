"""`jade up`, `down`, `doctor` and `completion`: the local installation, and whether all is well."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from flows.commands.common import artifacts_option, json_option, nearby, print_json, print_table, tell
from tasks.operations.installation import (
    DEFAULT_PORT,
    LAST_PORT,
    local_installation,
    start_installation,
    stop_installation,
)


@click.command("up")
@click.option(
    "--port",
    type=click.IntRange(1, LAST_PORT),
    default=DEFAULT_PORT,
    show_default=True,
    help="Of the server, on 127.0.0.1; reports take the next one.",
)
@click.option("--reset", is_flag=True, help="Deploy everything as prefect.yaml says, whatever was changed in the UI.")
@json_option
def up(*, port: int, reset: bool, as_json: bool) -> None:
    """Start a local Prefect server, a worker and the deployments of prefect.yaml; what runs already stays.

    What was paused, changed or deleted in the UI stays so. Runs and history lie in the state folder and stay when `jade
    down` stops it all.
    """
    installation = local_installation(port)
    click.echo("Starting (the first time takes about a minute)", err=True)
    started = start_installation(installation, reset=reset)
    if as_json:
        print_json({"ui": installation.ui_url, "api": installation.api_url, "started": started})
        return
    click.echo(f"UI: {installation.ui_url}")
    click.echo(f"\n  export PREFECT_API_URL={installation.api_url}")
    click.echo(f"  {nearby(Path(sys.executable).with_name('prefect'))} deployment run compare/nightly --watch")
    click.echo(f"\nRuns: {installation.artifacts or 'the bucket of the settings'}")
    click.echo(f"Logs and history: {installation.folder}. `jade down` stops it.")


@click.command("down")
@json_option
def down(*, as_json: bool) -> None:
    """Stop the local Prefect server and worker, and what they run; runs and history stay."""
    installation = local_installation()
    stopped = stop_installation(installation)
    text = f"Stopped: {', '.join(stopped)}." if stopped else "Nothing ran."
    tell({"stopped": stopped}, text, as_json=as_json)


@click.command("doctor")
@artifacts_option
@click.option(
    "--timeout-s", type=click.FloatRange(1), default=30.0, show_default=True, help="For each part; all at once."
)
@json_option
@click.pass_context
def doctor(context: click.Context, *, artifacts: str | None, timeout_s: float, as_json: bool) -> None:
    """Look over this installation: Python, torch, disk, store, Prefect, worker, clock, hosts, providers.

    Says what to do about each problem. Exit code 1 if there is one.
    """
    from tasks.runs.doctor import examine, is_well
    from tasks.settings.load import load_settings

    findings = examine(load_settings(), artifacts, limit_s=timeout_s)
    if as_json:
        rows = [{**asdict(finding), "verdict": finding.verdict.value} for finding in findings]
        print_json({"is_well": is_well(findings), "findings": rows})
    else:
        shown = [[finding.subject, finding.found, finding.verdict.value, finding.advice] for finding in findings]
        print_table(None, ["what", "found", "verdict", "what to do"], shown, numeric_from=4)
    if not is_well(findings):
        context.exit(1)


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(*, shell: str) -> None:
    """Print what lets a SHELL complete commands and flags.

    \b
    bash: jade completion bash >> ~/.bashrc
    zsh:  jade completion zsh >> ~/.zshrc
    fish: jade completion fish > ~/.config/fish/completions/jade.fish
    """  # noqa: D301 - \b is click's mark for lines that are left as they are
    from flows.cli import jade

    if (kind := get_completion_class(shell)) is not None:
        click.echo(kind(jade, {}, "jade", "_JADE_COMPLETE").source())
