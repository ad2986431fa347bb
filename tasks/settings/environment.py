"""What child processes, logs and Prefect are given of the environment, and what of it is a secret."""

from __future__ import annotations

import os
from pathlib import Path

from tasks.core.errors import SettingsError

PREFECT_DEFAULTS = {
    # A fresh database takes an ephemeral server some 20 s; Prefect gives up after 20.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
}

# One thread a training: parallelism comes from processes.
THREADING = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    # glibc gives each large tensor back to the kernel, and asks for it anew at the next step, unless told to keep them.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}


def prepare_prefect(*, quiet: bool) -> None:
    """Set Prefect's defaults for a flow called from the command line; what the user has set stays.

    Must run before `prefect` is imported.

    Args:
        quiet: Keep Prefect's own lines off the terminal unless they are warnings, because progress bars are shown.

    Raises:
        SettingsError: Its temporary server would have nowhere to keep its database.
    """
    for name, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    if quiet:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "WARNING")
    if not os.environ.get("PREFECT_API_URL"):
        home = os.environ.get("PREFECT_HOME") or "~/.prefect"
        try:
            # Prefect makes the last folder only, and starts a server that fails again and again for as long as it may.
            Path(home).expanduser().mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError) as error:
            raise SettingsError(
                f"Prefect keeps its database in {home}, which can't be made: {error}. Name a folder that can with "
                "PREFECT_HOME, or a server with PREFECT_API_URL"
            ) from error


def installation_environment(
    server: Path, *, home: Path, api_url: str, reports: tuple[Path, str] | None
) -> dict[str, str]:
    """Return the environment of the local installation's processes, and of the flows that its worker runs.

    What the user has set for Prefect stays out: the installation is one of its own.

    Args:
        server: File with the settings of every server of ours, a line each: NAME=VALUE.
        home: Where Prefect keeps the database.
        api_url: Of the installation's server.
        reports: Folder whose runs' reports are served, and under which address; None: they are not.
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    if reports is not None:
        ours |= {"JADE_REPORTS_FOLDER": str(reports[0]), "JADE_REPORTS_URL": reports[1]}
    lines = [line for line in server.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return {
        **ours,
        **dict(line.split("=", 1) for line in lines),
        **THREADING,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": api_url,
        "PREFECT_UI_API_URL": api_url,
        "PREFECT_LOGGING_COLORS": "false",
        "PYTHONUNBUFFERED": "1",
    }


def training_environment() -> dict[str, str]:
    """Return the environment of a training process on this machine."""
    return {**os.environ, **THREADING, "PYTHONUNBUFFERED": "1"}


def report_address(file: Path) -> str:
    """Return where a browser finds a file of a run's report: served by the installation, else on this machine's disk.

    Args:
        file: `<artifacts>/<run>/report/<name>`.
    """
    url, folder = os.environ.get("JADE_REPORTS_URL"), os.environ.get("JADE_REPORTS_FOLDER")
    if url and folder and file.is_relative_to(folder):
        return f"{url}/{file.relative_to(folder).as_posix()}"
    return file.as_uri()


def require_server() -> None:
    """Refuse to go on without a Prefect server that outlives this command.

    Raises:
        SettingsError: PREFECT_API_URL is not set.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise SettingsError(
            "this needs a Prefect server: start one with `jade up` and set PREFECT_API_URL as it says, or to yours"
        )


def provider_environment(names: tuple[str, ...]) -> dict[str, str]:
    """Return those of the named variables that are set: keys of providers, which no file here holds."""
    return {name: os.environ[name] for name in names if os.environ.get(name)}


_SECRET_NAMES = ("SECRET", "TOKEN", "PASSWORD", "API_KEY", "AUTH_STRING", "CONNECTION_URL")
_SHORTEST_SECRET = 6


def secret_values() -> list[str]:
    """Return what the environment holds under names that say secret, longest first, to be masked in logs."""
    found = {
        value
        for name, value in os.environ.items()
        if any(word in name.upper() for word in _SECRET_NAMES) and len(value) >= _SHORTEST_SECRET
    }
    return sorted(found, key=len, reverse=True)


def secret_from_environment(name: str) -> str:
    """Return a secret that an environment variable holds; no message ever shows it.

    Raises:
        SettingsError: The variable is missing or empty.
    """
    value = os.environ.get(name)
    if not value:
        raise SettingsError(f"the environment variable {name} is not set; a secret is expected there")
    return value


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
