"""`jade runs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flows.commands.common import artifacts_option, json_option, print_json, print_table

if TYPE_CHECKING:
    from tasks.remote_runs import FoundRun


@click.group("runs", invoke_without_command=True)
@click.option("--all", "wants_all", is_flag=True, help="Also what has ended and was not fetched yet.")
@json_option
@click.pass_context
def command(context: click.Context, *, wants_all: bool, as_json: bool) -> None:
    """Show what still trains on the known hosts.

    The command that started a run attaches to it when it is given again.
    """
    if context.invoked_subcommand is not None:
        return
    from tasks.remote_runs import find_runs
    from tasks.settings import load_settings

    found = [run for run in find_runs(load_settings()) if wants_all or run.may_run]
    if as_json:
        print_json([_as_json(run) for run in found])
        return
    if not found:
        click.echo("Nothing trains on the known hosts.", err=True)
        return
    rows = [
        [
            run.host,
            run.name,
            run.state,
            f"{run.status.heartbeat_age_s} s ago" if run.status and run.status.heartbeat_age_s is not None else "",
            run.record.started_at if run.record else "",
            run.problem,
        ]
        for run in found
    ]
    print_table(None, ["host", "run", "state", "last sign", "asked for at", "problem"], rows, numeric_from=6)


@command.command("stop")
@click.argument("run")
@json_option
def stop(*, run: str, as_json: bool) -> None:
    """End a run's processes on its host: TERM, then KILL. What it has trained stays there for the next attempt."""
    from tasks.remote_runs import stop_run
    from tasks.settings import load_settings

    stopped = stop_run(load_settings(), run)
    if as_json:
        print_json(_as_json(stopped))
    else:
        click.echo(f"{stopped.name}: {stopped.state}; nothing of it runs on {stopped.host} any more.")


@command.command("show")
@click.argument("run")
@artifacts_option
@json_option
def show(*, run: str, artifacts: str | None, as_json: bool) -> None:
    """Tell the story of one RUN: what happened, how long it took, what it cost, how it ended."""
    from dataclasses import asdict

    from tasks.artifact_places import open_run
    from tasks.story import tell_story

    _, layout = open_run(run, artifacts)
    chapters = tell_story(layout)
    if as_json:
        print_json({"run_id": layout.run_id, "story": [asdict(chapter) for chapter in chapters]})
        return
    rows = [
        [
            chapter.at,
            f"{'  ' * chapter.level}{chapter.what}",
            "" if chapter.seconds is None else f"{chapter.seconds:.1f} s",
            "" if chapter.usd is None else f"{chapter.usd:.2f} USD",
        ]
        for chapter in chapters
    ]
    print_table(layout.run_id, ["UTC", "what", "time", "cost"], rows, numeric_from=2)


def _as_json(run: FoundRun) -> dict[str, Any]:
    return {
        "host": run.host,
        "run_id": run.record.run_id if run.record else None,
        "folder": run.record.folder if run.record else None,
        "key": run.key,
        "state": run.state,
        "attempt": run.handle.attempt if run.handle else None,
        "heartbeat_age_s": run.status.heartbeat_age_s if run.status else None,
        "problem": run.problem or None,
    }
