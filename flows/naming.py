"""What runs are called in the UI."""

from __future__ import annotations

from pathlib import Path

from prefect.runtime import flow_run


def run_name(flow: str) -> str:
    """Return what this flow's run is called: `compare-2026-11-23-btcusd`.

    Args:
        flow: Its name.
    """
    named = Path(flow_run.parameters["data"][0]).stem.strip("*")
    return f"{flow}-{flow_run.scheduled_start_time:%Y-%m-%d}-{named or 'data'}"
