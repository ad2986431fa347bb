"""`jade runs`, `diff`, `report`, `track` and `acknowledge`: what goes on, and what runs have left."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from flows.commands.common import artifacts_option, json_option, print_json, print_table, tell

if TYPE_CHECKING:
    from tasks.runs.active import FoundRun


@click.group("runs", invoke_without_command=True)
@click.option("--all", "wants_all", is_flag=True, help="Also what has ended and was not fetched yet.")
@artifacts_option
@json_option
@click.pass_context
def runs(context: click.Context, *, wants_all: bool, artifacts: str | None, as_json: bool) -> None:
    """Show what still trains: on the known hosts, on rented machines, and in flows that keep their runs here.

    The command that started a run attaches to it when it is given again. Exit code 1 if a host, the ledger or the
    artifacts could not be asked: no answer is not "nothing".
    """
    if context.invoked_subcommand is not None:
        return
    from tasks.artifacts.repository import open_place
    from tasks.runs.active import find_runs
    from tasks.settings.load import load_settings

    everything, problems = find_runs(load_settings(), open_place(artifacts))
    found = [run for run in everything if wants_all or run.may_run]
    if as_json:
        print_json([_as_json(run) for run in found])
    elif found:
        print_table(None, _COLUMNS, [_row(run) for run in found], numeric_from=len(_COLUMNS))
    else:
        click.echo("Nothing trains on the known hosts, on rented machines or in a flow of these artifacts.", err=True)
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        context.exit(1)


@runs.command("stop")
@click.argument("run")
@artifacts_option
@json_option
def stop(*, run: str, artifacts: str | None, as_json: bool) -> None:
    """End a run's processes on its machine (TERM, then KILL), or a flow that trains here (as Ctrl-C does).

    What it has trained stays for the next attempt.
    """
    from tasks.artifacts.repository import open_place
    from tasks.runs.active import stop_run
    from tasks.settings.load import load_settings

    ended = stop_run(load_settings(), open_place(artifacts), run)
    if as_json:
        # A run usually has one job; one that was shared out over hosts has several.
        print_json({**_as_json(ended[0]), "jobs": [_as_json(stopped) for stopped in ended]})
        return
    for stopped in ended:
        click.echo(f"{stopped.name}: {stopped.state}; nothing of it runs on {stopped.host} any more.")
        if stopped.rental is not None and stopped.holder is None:
            click.echo(f"No flow is at it: `jade reap` frees {stopped.host}.", err=True)


@runs.command("show")
@click.argument("run")
@artifacts_option
@json_option
def show(*, run: str, artifacts: str | None, as_json: bool) -> None:
    """Tell the story of one RUN: what happened, how long it took, what it cost, how it ended."""
    from tasks.artifacts.repository import open_run
    from tasks.runs.timeline import tell_story

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


@click.command("report")
@click.argument("run", metavar="RUN")
@artifacts_option
@json_option
def report(run: str, *, artifacts: str | None, as_json: bool) -> None:
    """Write a run's report again from its files, and publish it.

    RUN: a folder, s3://bucket/prefix/RUN, a run's name or its beginning, `latest` or another pointer.
    """
    from tasks.artifacts.repository import open_run
    from tasks.experiments.report import write_run_report

    place, layout = open_run(run, artifacts)
    written = write_run_report(layout)
    place.publish_report(layout)
    result = {"run_id": layout.run_id, "markdown": str(written.markdown), "html": str(written.html)}
    tell(result, f"{written.markdown}\n{written.html}", as_json=as_json)


@click.command("diff")
@click.argument("first", metavar="RUN")
@click.argument("second", metavar="RUN")
@artifacts_option
@json_option
def diff(first: str, second: str, *, artifacts: str | None, as_json: bool) -> None:
    """Say what differs between two runs in data, settings, code, versions, host and results."""
    from tasks.artifacts.repository import open_run
    from tasks.runs.diff import diff_runs

    found = diff_runs(open_run(first, artifacts)[1], open_run(second, artifacts)[1])
    if as_json:
        print_json([asdict(difference) for difference in found])
    elif not found:
        click.echo("the runs are alike: same data, settings, code, versions and results")
    else:
        rows = [
            [difference.section, difference.field, _shown(difference.first), _shown(difference.second)]
            for difference in found
        ]
        print_table(None, ["", "field", "first", "second"], rows, numeric_from=2)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


_COLUMNS = ["host", "run", "state", "last sign", "asked for at", "flow on", "problem"]


def _row(run: FoundRun) -> list[str]:
    age_s = run.status.heartbeat_age_s if run.status else None
    return [
        run.host,
        run.name,
        run.state,
        "" if age_s is None else f"{age_s} s ago",
        run.record.started_at if run.record else "",
        run.holder.machine if run.holder else "",
        run.problem,
    ]


def _as_json(run: FoundRun) -> dict[str, Any]:
    return {
        "host": run.host,
        "run_id": run.run_id or None,
        "folder": run.record.folder if run.record else None,
        "key": run.key or None,
        "state": run.state,
        "attempt": run.handle.attempt if run.handle else None,
        "heartbeat_age_s": run.status.heartbeat_age_s if run.status else None,
        "flow_on": run.holder.machine if run.holder else None,
        "rented_from": run.rental.provider if run.rental else None,
        "problem": run.problem or None,
    }


@click.command("track")
@click.argument("run", metavar="RUN")
@artifacts_option
@json_option
def track(*, run: str, artifacts: str | None, as_json: bool) -> None:
    """Tell MLflow of a run, from its files: parameters, metrics, verdict, report; and which model is champion.

    What MLflow knows already stays as it is. RUN is as for `jade report`; `MLFLOW_TRACKING_URI` says where MLflow is.
    """
    from tasks.artifacts.repository import open_run
    from tasks.runs.tracked_models import tell_models
    from tasks.runs.tracking import tell_run, tracks

    tracks("mlflow")
    place, layout = open_run(run, artifacts)
    identifier = tell_run(layout, place.address, is_running=place.is_running(layout.run_id))
    aliases = tell_models(place)
    lines = [f"{layout.run_id} is the MLflow run {identifier}."]
    lines += [f"{alias} is version {version} of the model `jade`." for alias, version in aliases.items()]
    result = {"run_id": layout.run_id, "mlflow_run": identifier, "aliases": aliases}
    tell(result, "\n".join(lines), as_json=as_json)


@click.command("acknowledge")
@click.argument("run")
@artifacts_option
@json_option
def acknowledge(*, run: str, artifacts: str | None, as_json: bool) -> None:
    """Take what the comparison RUN scores as what is to be expected: its regression is no longer told.

    RUN is `latest`, a run's name, or its beginning. Of comparisons with the same data, arms and design, those before it
    no longer count.
    """
    from tasks.artifacts.repository import open_place
    from tasks.experiments.trend import acknowledge

    run_id = acknowledge(open_place(artifacts), run)
    tell({"run_id": run_id}, f"The trend of comparisons like {run_id} begins with it.", as_json=as_json)
