"""Real servers for the system tests: a Prefect server with a worker, and a headless browser."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from helpers.homes import STARTUP_LIMIT_S, clean_environment, make_database
from helpers.ports import free_port
from helpers.servers import ROOT, PrefectServer, stop_group, wait_until
from helpers.sharing import made_once

CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep all that talks to the Prefect server in one process: each process of a parallel run starts its own.

    Whatever else costs much to start says so itself: `pytestmark = pytest.mark.xdist_group("what it shares")`.
    """
    for item in items:
        if "prefect_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("prefect server"))


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty database of Prefect's to copy: see `give_database`."""
    return made_once(tmp_path_factory, "prefect-database", make_database) / "prefect.db"


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[PrefectServer]:
    """Start `prefect server` on a free port with SQLite."""
    home = tmp_path_factory.mktemp("prefect")
    shutil.copy(database, home)
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    env = clean_environment(home) | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,
        "PREFECT_UI_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    }
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_until(lambda: _is_healthy(url), STARTUP_LIMIT_S, lambda: (home / "server.log").read_text()[-3000:])
            yield PrefectServer(url, env)
        finally:
            stop_group(server)


@pytest.fixture(scope="session")
def deployed(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """Deploy `prefect.yaml` as it stands, and start a worker as a process of its own."""
    prefect_server.prefect("work-pool", "create", "jade", "--type", "process")
    prefect_server.prefect("--no-prompt", "deploy", "--all")
    log_path = tmp_path_factory.mktemp("worker") / "worker.log"
    with log_path.open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "jade"],
            cwd=ROOT,
            env=prefect_server.env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield prefect_server
        finally:
            stop_group(worker)


@pytest.fixture
def browse(tmp_path: Path) -> Callable[[str], str]:
    """Open a page in headless Chromium, let its scripts run, and return what stands in it."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "no Chromium: `make test-system` installs it, or names what is missing"

    def dump(url: str) -> str:
        done = subprocess.run(
            [
                chromium,
                *CHROMIUM_FLAGS,
                f"--user-data-dir={tmp_path / 'profile'}",
                "--virtual-time-budget=30000",
                "--window-size=1400,2400",
                "--dump-dom",
                url,
            ],
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return dump


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
