"""`jade artifacts`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from flows.commands.common import artifacts_option, json_option, print_json, print_table

if TYPE_CHECKING:
    from tasks.artifacts.retention import RunFacts


@click.group("artifacts", epilog="Every command takes --json.")
def command() -> None:
    """List, verify or prune what is kept of runs, in a folder or a bucket."""


@command.command("list")
@artifacts_option
@json_option
def list_artifacts(*, artifacts: str | None, as_json: bool) -> None:
    """List the runs, the newest last, with what points to them."""
    from tasks.artifacts.repository import open_place

    place = open_place(artifacts)
    runs = sorted(place.facts(), key=lambda run: run.run_id)
    if as_json:
        print_json([_as_json(run) for run in runs])
        return
    if not runs:
        click.echo(f"No run is kept in {place.address}.", err=True)
        return
    rows = [
        [run.run_id, _state(run), _when(run.published_at), str(run.files), _size(run.size), ", ".join(run.pointers)]
        for run in runs
    ]
    print_table(place.address, ["run", "state", "published at", "files", "size", "pointed to by"], rows, numeric_from=9)


@command.command("verify")
@click.argument("run", metavar="RUN")
@artifacts_option
@json_option
@click.pass_context
def verify_run(context: click.Context, *, run: str, artifacts: str | None, as_json: bool) -> None:
    """Read every byte of a published run and compare it with the manifest; exit code 1 if anything is wrong.

    RUN: a folder, s3://bucket/prefix/RUN, a run's name or its beginning, `latest` or another pointer.
    """
    from tasks.artifacts.repository import locate_run
    from tasks.artifacts.transfer import verify

    place, run_id = locate_run(run, artifacts)
    problems = verify(place.store, run_id)
    if as_json:
        print_json(
            {
                "run_id": run_id,
                "place": place.address,
                "is_whole": not problems,
                "problems": [asdict(problem) for problem in problems],
            }
        )
    elif problems:
        rows = [[problem.path, problem.kind, problem.detail] for problem in problems]
        print_table(f"{run_id} in {place.address}", ["file", "", "found"], rows, numeric_from=9)
    else:
        manifest = place.store.manifest(run_id)
        what = "" if manifest.complete else "; the run itself is not complete"
        click.echo(
            f"{run_id}: {len(manifest.files)} files, {_size(manifest.size)}, every byte as its manifest says{what}"
        )
    if problems:
        context.exit(1)


@command.command("prune")
@click.option("--keep-last", type=click.IntRange(0), metavar="N", help="The newest N runs stay.")
@click.option("--keep-days", type=click.FloatRange(0), metavar="D", help="Runs of the last D days stay.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@artifacts_option
@json_option
def prune_runs(
    *, keep_last: int | None, keep_days: float | None, dry_run: bool, artifacts: str | None, as_json: bool
) -> None:
    """Delete the runs that no rule keeps; never one that a pointer stands on, or that goes on."""
    from tasks.artifacts.repository import open_place

    place = open_place(artifacts)
    plan, outcome = place.prune(keep_last=keep_last, keep_days=keep_days, dry_run=dry_run)
    gone = {decision.run_id for decision in outcome.deleted}
    if as_json:
        print_json(
            {
                "place": place.address,
                "dry_run": dry_run,
                "runs": [asdict(decision) | {"deleted": decision.run_id in gone} for decision in plan],
                "freed_bytes": outcome.freed_bytes,
                "swept_bytes": outcome.swept_bytes,
                "swept_leases": outcome.swept_leases,
                "versions_remain": outcome.versions_remain,
            }
        )
        return
    verb = "would go" if dry_run else "deleted"
    rows = [
        [decision.run_id, verb if decision.run_id in gone else "kept", _size(decision.size), decision.reason]
        for decision in plan
    ]
    print_table(place.address, ["run", "", "size", "why"], rows, numeric_from=9)
    total = f"{len(gone)} of {len(plan)} runs {verb}, {_size(outcome.freed_bytes)}"
    swept = f", {_size(outcome.swept_bytes)} of it left by writers that died" if outcome.swept_bytes else ""
    leases = f"; {outcome.swept_leases} claims and signs of life of dead runs removed" if outcome.swept_leases else ""
    click.echo(total + swept + leases)
    if outcome.versions_remain:
        click.echo(
            f"{place.address} keeps versions of what is deleted: "
            "they take up space until the bucket's lifecycle rules remove them"
        )


def _as_json(run: RunFacts) -> dict[str, Any]:
    published = run.published_at.isoformat() if run.published_at else None
    return {**asdict(run), "published_at": published, "state": _state(run)}


def _state(run: RunFacts) -> str:
    if run.is_running:
        return "running"
    if run.published_at is None:
        return "unreadable"
    return "complete" if run.is_complete else "ended early"


def _when(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC") if moment else "-"


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError
