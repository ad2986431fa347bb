"""Homes and environments for programs that must know nothing of whoever runs the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

# What a person would not wait for, a busy machine may need.
STARTUP_LIMIT_S = 400


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """Return an environment of which only what every program needs is this process's own.

    Args:
        home: Empty or as `give_database` leaves it.
        more: Variables to add.
    """
    kept = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("PREFECT_", "JADE_", "SSH_", "XDG_", "AWS_", "RUNPOD_"))
    }
    return kept | {"HOME": str(home), "OMP_NUM_THREADS": "1"} | more


def make_database(folder: Path) -> None:
    """Write an empty `prefect.db` with all its tables: what takes Prefect longest in an empty home."""
    env = clean_environment(folder, PREFECT_HOME=str(folder))
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "prefect.db").is_file()


def give_database(home: Path, database: Path) -> Path:
    """Make a home, and put an empty database where commands look for theirs; return the home."""
    folder = home / ".local" / "state" / "jade" / "prefect"
    folder.mkdir(parents=True)
    shutil.copy(database, folder / "prefect.db")
    return home
