"""`jade doctor`."""

from __future__ import annotations

from dataclasses import asdict

import click

from flows.commands.common import artifacts_option, json_option, print_json, print_table


@click.command("doctor")
@artifacts_option
@click.option(
    "--timeout-s", type=click.FloatRange(1), default=30.0, show_default=True, help="For each part; all at once."
)
@json_option
@click.pass_context
def command(context: click.Context, *, artifacts: str | None, timeout_s: float, as_json: bool) -> None:
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
