"""A Dask cluster as an operator would start it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.helpers.processes import wait_until
from tests.helpers.servers import ROOT, kill_group


def command(*arguments: str, env: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    log = (folder / f"{arguments[0].rpartition('.')[2]}-{time.monotonic_ns()}.log").open("wb")
    with log:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True
        )


@contextmanager
def dask_cluster(folder: Path, env: dict[str, str]) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers, each a process of its own, as an operator would start them."""
    # The flow that asks is one of the tests'.
    env = env | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    where = folder / "scheduler.json"
    scheduler = ("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    started = [command(*scheduler, "--scheduler-file", str(where), env=env, folder=folder)]
    try:
        wait_until(where.is_file, 120)
        address = json.loads(where.read_text())["address"]
        for name in ("one", "two"):
            worker = ("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
            local = ("--name", name, "--local-directory", str(folder / name))
            started.append(command(*worker, *local, env=env, folder=folder))
        yield address, started[1:]
    finally:
        # Asked to end, a worker would wait for what it trains.
        for process in reversed(started):
            kill_group(process)


T = TypeVar("T")
_actions: list[Callable[[], object]] = []


def action() -> Callable[[], object]:
    """Return what is to be done in the flow. A function: it does not travel to the workers with the flow."""
    return _actions[-1]


@flow(name="trainings")
def _trainings() -> object:
    return action()()


def in_a_flow(api_url: str, do: Callable[[], T]) -> T:
    """Do something as a flow of the server at an address."""
    _actions.append(do)
    with temporary_settings({PREFECT_API_URL: api_url}):
        return _trainings()  # type: ignore[return-value]
