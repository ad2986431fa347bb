"""`jade` as a process of its own, with a home, settings and state of the test's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from helpers.homes import clean_environment, give_database
from helpers.servers import ROOT

# What may differ between two runs of the same comparison.
VOLATILE = {
    "run_id",
    "created_at",
    "generated_at",
    "seconds",
    "host",
    "parameters",
    "command",
    "started_at",
    "rental",
    "path",
}


class CommandLine:
    """Runs `jade` with an environment in which nothing is the machine's.

    Args:
        folder: Of the test.
        database: An empty one of Prefect's: see `give_database`.
        settings: Text of the user's jade.toml.
        variables: Further ones of the environment.
    """

    def __init__(self, folder: Path, database: Path, settings: str = "", **variables: str) -> None:
        self.folder = folder
        (folder / "config").mkdir()
        (folder / "config" / "jade.toml").write_text(settings)
        self.env = clean_environment(
            give_database(folder / "home", database),
            JADE_CONFIG_DIR=str(folder / "config"),
            JADE_STATE_DIR=str(folder / "state"),
            **variables,
        )
        self.program = [sys.executable, "-m", "flows.cli"]

    def __call__(self, *arguments: str, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.program, *arguments],
            cwd=ROOT,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert expect is None or done.returncode == expect, f"{done.stdout}\n{done.stderr[-6000:]}"
        return done


def figures(value: Any) -> Any:
    """What of a comparison must not depend on where it was made."""
    if isinstance(value, dict):
        return {name: figures(item) for name, item in value.items() if name not in VOLATILE}
    return [figures(item) for item in value] if isinstance(value, list) else value
