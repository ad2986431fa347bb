"""Real servers for the system tests: a Prefect server with a worker, and a headless browser."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from helpers.deployments import working
from helpers.homes import make_database
from helpers.postgres import postgres
from helpers.servers import PrefectServer, serving
from helpers.sharing import made_once

from tasks.provisioning.ledger import Ledger
from tests.fakes.slack_server import SlackServer, running_slack
from tests.fakes.sshd import Sshd, running_sshd

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
    """Keep all that talks to a Prefect server in one process: each process of a parallel run starts its own.

    Whatever else costs much to start says so itself: `pytestmark = pytest.mark.xdist_group("what it shares")`.
    """
    for item in items:
        for server in {"prefect_server", "postgres_server"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group(server))


@pytest.hookimpl(tryfirst=True)  # pytest-rerunfailures would keep for the second try what tests share
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """End every server and scene before a test is run once more: what went wrong may be one of them."""
    option, tries = item.config.option, getattr(item, "execution_count", 0)
    if not any(getattr(item, "_test_failed_statuses", {}).values()) or not 0 < tries <= option.reruns:
        return
    limit = option.max_suite_reruns
    if limit is None or item.config.failures_db.get_suite_reruns() < limit:  # type: ignore[attr-defined]
        item.session._setupstate.teardown_exact(None)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty database of Prefect's to copy: see `give_database`."""
    return made_once(tmp_path_factory, "prefect-database", make_database) / "prefect.db"


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[PrefectServer]:
    """Start `prefect server` on a free port with SQLite."""
    with serving(tmp_path_factory.mktemp("prefect"), database) as server:
        yield server


@pytest.fixture(scope="session")
def slack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlackServer]:
    """Stand in for Slack, as `postgres_server` finds it."""
    with running_slack(tmp_path_factory.mktemp("slack")) as found:
        yield found


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory, slack: SlackServer) -> Iterator[PrefectServer]:
    """Start `prefect server` on PostgreSQL, with an eye on silent runs each second.

    Where every notification is to arrive: with SQLite, Prefect gives an event up if the database is busy five times.
    """
    with postgres() as place:
        settings = {
            "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://jade@{place}",
            "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
            **slack.environment,
        }
        with serving(tmp_path_factory.mktemp("prefect"), None, **settings) as server:
            yield server


@pytest.fixture(scope="session")
def deployed(prefect_server: PrefectServer) -> Iterator[PrefectServer]:
    """Deploy `prefect.yaml` as it stands, and start a worker as a process of its own."""
    with working(prefect_server):
        yield prefect_server


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """Start an SSH server that admits whoever runs the tests."""
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Open an empty ledger of rentals, where `JADE_STATE_DIR` would have it."""
    with closing(Ledger(f"sqlite:///{tmp_path / 'state' / 'ledger.db'}")) as opened:
        yield opened


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
