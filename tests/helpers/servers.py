"""A Prefect server to talk to, and waiting for things to happen."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class PrefectServer:
    """A server of its own, on a database of its own.

    Attributes:
        url: Of the API.
        env: Environment for whatever talks to it.
    """

    url: str
    env: dict[str, str]

    def prefect(self, *arguments: str, timeout_s: float = 300) -> str:
        """Run the `prefect` command; return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=ROOT,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"prefect {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def read(self, kind: str, **body: object) -> list[dict[str, object]]:
        """Return what the API filters: flow_runs, task_runs, artifacts, deployments."""
        answer = httpx.post(f"{self.url}/{kind}/filter", json=body, timeout=30)
        answer.raise_for_status()
        found: list[dict[str, object]] = answer.json()
        return found


def stop_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            continue


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a program that leads a group, with what a killed one leaves behind, such as its ephemeral server."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(holds: Callable[[], bool], limit_s: float, evidence: Callable[[], str] = str) -> None:
    """Poll until it holds; fail with the evidence when the time is up."""
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {limit_s} s\n{evidence()}"
        time.sleep(0.5)
