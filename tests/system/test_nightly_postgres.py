"""The same deployments with Prefect's history in PostgreSQL, as deployments/ has it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from helpers.deployments import Deployments
from helpers.ports import free_port
from helpers.postgres import postgres
from helpers.servers import ROOT, PrefectServer, stop_group, wait_until

pytestmark = [pytest.mark.slow_system, pytest.mark.xdist_group("prefect on postgres")]


def test_deployments_run_to_their_end_on_postgresql(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    env |= {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "JADE_STATE_DIR": str(tmp_path / "state"),
        "JADE_ARTIFACTS": str(tmp_path / "artifacts"),
    }

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{arguments[0]}.log").open("wb") as log:
            command = [sys.executable, "-m", "prefect", *arguments]
            return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/health", timeout=5).is_success
        except httpx.TransportError:
            return False

    with postgres() as place:
        env["PREFECT_API_DATABASE_CONNECTION_URL"] = f"postgresql+asyncpg://jade@{place}"
        server = start("server", "start", "--host", "127.0.0.1", "--port", str(port))
        worker = None
        try:
            wait_until(answers, 300, lambda: (tmp_path / "server.log").read_text()[-3000:])
            commands = PrefectServer(url, env)
            commands.prefect("work-pool", "create", "jade", "--type", "process")
            commands.prefect("--no-prompt", "deploy", "--all")
            worker = start("worker", "start", "--pool", "jade")
            deployments = Deployments(port, env)
            for name in ("prune/weekly", "reap/every-10-minutes", "watch-data/every-10-minutes"):
                deployments.completed(deployments.start(name))
        finally:
            for process in (worker, server):
                if process is not None:
                    stop_group(process)
