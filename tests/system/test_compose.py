"""deployments/compose.yaml and the Dockerfile on whatever Docker engine answers, as docs/operations.md says."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from helpers.ports import free_port
from helpers.processes import wait_until
from helpers.servers import ROOT

DEPLOYMENTS = ROOT / "deployments"
STAY = {"postgres", "redis", "server", "services", "worker", "store"}
END = {"migrate", "deploy", "bucket"}
KILLED = 137
WORKER = ["-m", "prefect", "worker"]
TRAINER = ["-m", "jade_model", "train"]
BUILD_LIMIT_S = 1800.0
UP_LIMIT_S = 600.0

pytestmark = [pytest.mark.slow_system, pytest.mark.timeout(3600), pytest.mark.xdist_group("compose")]


@dataclass(frozen=True)
class Composed:
    """An installation of containers, under a name and on a port of its own.

    Attributes:
        command: `docker compose` with its project and files.
        env: What `deployments/.env` would say.
        port: Of the server.
    """

    command: list[str]
    env: dict[str, str]
    port: int

    def compose(self, *arguments: str, limit_s: float = 120.0) -> str:
        """Run `docker compose`; return what it printed."""
        done = subprocess.run(
            [*self.command, *arguments],
            env=os.environ | self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
        assert done.returncode == 0, (
            f"docker compose {' '.join(arguments)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
        return done.stdout

    def up(self) -> None:
        """Do what the operator does."""
        self.compose("up", "-d", "--wait", limit_s=UP_LIMIT_S)

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return what `docker inspect` says of each service."""
        ids = self.compose("ps", "-a", "-q").split()
        found = json.loads(subprocess.run(["docker", "inspect", *ids], capture_output=True, check=True).stdout)
        return {item["Config"]["Labels"]["com.docker.compose.service"]: item for item in found}

    def state(self, service: str) -> dict[str, Any]:
        """Return how a service's container is."""
        found: dict[str, Any] = self.containers()[service]["State"]
        return found

    def is_healthy(self, service: str) -> bool:
        """Return whether a service runs, and its check passes."""
        state = self.state(service)
        return bool(state["Running"]) and state["Health"]["Status"] == "healthy"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Talk to the API with the password; return what it answers."""
        user, _, password = self.env["PREFECT_AUTH"].partition(":")
        url = f"http://127.0.0.1:{self.port}/api/{path}"
        answer = httpx.request(method, url, json=body, auth=(user, password), timeout=60)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:2000]}"
        return answer.json()

    def start_run(self, **parameters: Any) -> str:
        """Start compare/on-demand as a person would; return the run's id."""
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "prefect",
                "deployment",
                "run",
                "compare/on-demand",
                "--params",
                json.dumps(parameters),
            ],
            env=os.environ
            | {
                "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
                "PREFECT_API_AUTH_STRING": self.env["PREFECT_AUTH"],
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (run,) = re.findall(r"UUID: ([0-9a-f-]{36})", done.stdout)
        return str(run)

    def wait_for_run(self, run: str, *states: str) -> None:
        """Return once a run is in one of these states."""
        wait_until(
            lambda: self.ask("GET", f"flow_runs/{run}")["state_type"] in states,
            300,
            lambda: self.compose("logs", "--tail", "80", "worker"),
        )


def _why_not() -> str | None:
    """Return what is missing, or None."""
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        except FileNotFoundError:
            return "docker is not installed"
        if done.returncode != 0:
            return f"`{' '.join(command)}` fails: {done.stderr.strip().splitlines()[-1:]}"
    services = yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text())["services"].values()
    (base,) = re.findall(r"^FROM (\S+)", (DEPLOYMENTS / "Dockerfile").read_text(), flags=re.MULTILINE)
    for image in sorted({base} | {service["image"] for service in services if "$" not in service["image"]}):
        if subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode != 0:
            return f"the image is not here: docker pull {image}"
    return None


@pytest.fixture(scope="module")
def composed(small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """Build the image and start everything; remove all of it afterwards, volumes and image too."""
    if (reason := _why_not()) is not None:
        pytest.skip(reason)
    name = f"jade-test-{secrets.token_hex(4)}"
    port = free_port()
    data = tmp_path_factory.mktemp("windows")
    data.chmod(0o755)
    (data / "small.parquet").write_bytes(small_file.read_bytes())
    override = tmp_path_factory.mktemp("compose") / "override.yaml"
    override.write_text(f'services:\n  server:\n    ports: !override ["127.0.0.1:{port}:4200"]\n')
    env = {
        key: secrets.token_hex(24) for key in ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "STORE_USER", "STORE_PASSWORD")
    }
    env |= {
        "JADE_VERSION": name,
        "JADE_ARTIFACTS": "s3://jade/runs",
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "DATA_FOLDER": str(data),
        "PREFECT_AUTH": f"jade:{secrets.token_hex(24)}",
    }
    files = ["-f", str(DEPLOYMENTS / "compose.yaml"), "-f", str(override)]
    installation = Composed(["docker", "compose", "-p", name, *files], env, port)
    try:
        installation.compose("build", limit_s=BUILD_LIMIT_S)
        installation.up()
        yield installation
    finally:
        installation.compose("down", "-v", "--remove-orphans", "-t", "5", limit_s=300)
        subprocess.run(["docker", "image", "rm", "-f", f"jade:{name}"], capture_output=True, check=False)


def _in_worker(composed: Composed, words: list[str], does: str) -> str:
    """Do something with the processes of the worker's container that have these words after the program's name."""
    chosen = f"(p.info['cmdline'] or [])[1:4] == {words}"
    code = f"import psutil; print([p.{does} for p in psutil.process_iter(['cmdline']) if {chosen}])"
    return composed.compose("exec", "-T", "worker", "python", "-c", code).strip()


def test_all_are_healthy_and_what_prepares_has_ended(composed: Composed) -> None:
    found = composed.containers()
    assert set(found) == STAY | END
    assert {name for name in STAY if composed.is_healthy(name)} == STAY
    assert {name: found[name]["State"]["ExitCode"] for name in END} == dict.fromkeys(END, 0)


def test_the_ui_is_there_and_the_api_asks_for_the_password(composed: Composed) -> None:
    page = httpx.get(f"{composed.env['PUBLIC_URL']}/", timeout=30)
    assert page.status_code == httpx.codes.OK
    assert "text/html" in page.headers["content-type"]
    settings = httpx.get(f"{composed.env['PUBLIC_URL']}/ui-settings", timeout=30).json()
    assert settings["api_url"] == f"{composed.env['PUBLIC_URL']}/api"
    assert settings["auth"] == "BASIC"
    url = f"{composed.env['PUBLIC_URL']}/api/deployments/filter"
    for wrong in (None, ("jade", "wrong")):
        assert httpx.post(url, json={}, auth=wrong, timeout=30).status_code == httpx.codes.UNAUTHORIZED
    assert {"nightly", "on-demand", "weekly"} <= {
        item["name"] for item in composed.ask("POST", "deployments/filter", {})
    }


def test_a_run_completes_and_the_store_keeps_it(composed: Composed) -> None:
    run = composed.start_run(data=["/data/small.parquet"], epochs=2, seeds=1, folds=2)
    composed.wait_for_run(run, "COMPLETED")
    (kept,) = json.loads(composed.compose("exec", "-T", "worker", "jade", "artifacts", "list", "--json"))
    assert kept["state"] == "complete"
    composed.compose("exec", "-T", "worker", "jade", "artifacts", "verify", kept["run_id"])


def test_no_password_stands_in_a_process_list_or_a_log(composed: Composed) -> None:
    shown = composed.compose("top") + composed.compose("logs")
    assert "redis-server" in shown
    for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "STORE_PASSWORD", "PREFECT_AUTH"):
        assert composed.env[name].rpartition(":")[2] not in shown, name


def test_nothing_of_ours_runs_as_root_and_the_worker_can_keep_its_state(composed: Composed) -> None:
    for name in ("server", "services", "worker"):
        assert composed.compose("exec", "-T", name, "id", "-u").strip() == "10001"
    composed.compose("exec", "-T", "worker", "sh", "-c", "touch /state/here && rm /state/here")
    processes = composed.compose("top", "redis").splitlines()
    assert not [line for line in processes if "redis-server" in line and line.split()[0] == "root"]


def test_a_worker_that_dies_comes_back(composed: Composed) -> None:
    # Not `docker compose kill`: what a person has ended stays ended.
    composed.compose("exec", "-T", "worker", "sh", "-c", "kill -KILL $(cat /proc/1/task/1/children)")
    wait_until(lambda: composed.containers()["worker"]["RestartCount"] == 1, 60)
    wait_until(lambda: composed.is_healthy("worker"), 180)


def test_a_stopped_worker_lets_its_run_end_first(composed: Composed) -> None:
    run = composed.start_run(epochs=500, seeds=3, folds=5)
    wait_until(lambda: _in_worker(composed, TRAINER, "pid") != "[]", 180, lambda: composed.compose("logs", "worker"))
    started = time.monotonic()
    composed.compose("stop", "worker", limit_s=240)
    assert time.monotonic() - started < 150
    assert composed.state("worker")["ExitCode"] == 0
    state = composed.ask("GET", f"flow_runs/{run}")["state"]
    assert (state["type"], "asked to end by its worker" in state["message"]) == ("CANCELLED", True)
    composed.up()


def test_what_hangs_is_seen(composed: Composed) -> None:
    composed.up()
    others = sorted(STAY - {"worker"})

    def fails(name: str) -> bool:
        return int(composed.state(name)["Health"]["FailingStreak"]) >= 2

    try:
        _in_worker(composed, WORKER, "suspend()")
        composed.compose("kill", "-s", "STOP", *others)
        wait_until(lambda: all(fails(name) for name in STAY), 180, lambda: str({name: fails(name) for name in STAY}))
    finally:
        composed.compose("kill", "-s", "CONT", *others)
        _in_worker(composed, WORKER, "resume()")
    wait_until(lambda: all(composed.is_healthy(name) for name in STAY), 180)


def test_everything_ends_when_asked_and_history_stays(composed: Composed) -> None:
    begun = {"flow_runs": {"start_time": {"is_null_": False}}}
    before = {item["id"] for item in composed.ask("POST", "flow_runs/filter", begun)}
    composed.compose("stop", limit_s=300)
    assert {name for name in STAY if composed.state(name)["ExitCode"] == KILLED} == set()
    composed.compose("down", limit_s=300)
    composed.up()
    assert before
    assert before <= {item["id"] for item in composed.ask("POST", "flow_runs/filter", begun)}
