"""What runs are called in the UI."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.runtime import flow_run


def run_name(flow: str) -> str:
    """Return what this flow's run is called: `compare-2026-11-23-btcusd`.

    Args:
        flow: Its name.
    """
    given: Any = flow_run.parameters.get("parameters", {})
    sources = given.get("data", []) if isinstance(given, Mapping) else getattr(given, "data", [])
    named = Path(sources[0]).stem.strip("*") if sources else "sample"
    return f"{flow}-{flow_run.scheduled_start_time:%Y-%m-%d}-{named or 'data'}"
