"""The only reader of environment variables."""

from __future__ import annotations

import os

PREFECT_DEFAULTS = {
    # A fresh database takes an ephemeral server some 20 s; Prefect gives up after 20.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
}


def prepare_prefect(*, quiet: bool) -> None:
    """Set Prefect's defaults for a flow called from the command line; what the user has set stays.

    Must run before `prefect` is imported.

    Args:
        quiet: Keep Prefect's own lines off the terminal unless they are warnings, because progress bars are shown.
    """
    for name, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    if quiet:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "WARNING")


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def training_environment() -> dict[str, str]:
    """Return the environment of a training process: one thread each, since parallelism comes from processes."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "PYTHONUNBUFFERED": "1",
    }
