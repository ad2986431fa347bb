"""docs/operations.md's "For real use: systemd", followed to the letter under a real systemd; what befalls it."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.processes import command_lines_seen, wait_until
from helpers.servers import ROOT
from helpers.systemd import Machine, booted, why_not

WHY_NOT = why_not()
POSTGRES = Path("/lib/systemd/system/postgresql.service")
pytestmark = [
    pytest.mark.slow_system,
    pytest.mark.xdist_group("systemd"),
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
    pytest.mark.skipif(not POSTGRES.exists(), reason=f"no {POSTGRES} here (Debian: apt-get install postgresql)"),
]

DATABASE_PASSWORD, API_PASSWORD = "of-the-database-4711", "of-the-api-4711"
SERVER_ENV = f"""PREFECT_API_DATABASE_CONNECTION_URL=postgresql+asyncpg://jade:{DATABASE_PASSWORD}@127.0.0.1/prefect
PREFECT_SERVER_API_AUTH_STRING=admin:{API_PASSWORD}
PREFECT_UI_API_URL=http://127.0.0.1:4200/api
"""
OPERATOR = {
    "PREFECT_API_URL": "http://127.0.0.1:4200/api",
    "PREFECT_API_AUTH_STRING": f"admin:{API_PASSWORD}",
    "PREFECT_HOME": "/root/.prefect",
}
# Nobody sleeps here.
WORKER_ENV = f"""PREFECT_API_URL={OPERATOR["PREFECT_API_URL"]}
PREFECT_API_AUTH_STRING={OPERATOR["PREFECT_API_AUTH_STRING"]}
PREFECT_WORKER_QUERY_SECONDS=2
"""
WRITE_SETTINGS = """#!/bin/sh
for file; do cp "/root/$(basename "$file")" "$file"; done
"""
EDITOR = {"EDITOR": "write-settings"}
CALL = """
import json, os, sys
import httpx
method, path, body, known = json.load(sys.stdin)
auth = tuple(os.environ["PREFECT_API_AUTH_STRING"].split(":")) if known else None
answer = httpx.request(method, os.environ["PREFECT_API_URL"] + path, json=body, auth=auth, timeout=60)
print(json.dumps([answer.status_code, answer.json()]))
"""


@dataclass(frozen=True)
class Site:
    """An installation that was made as the documentation says.

    Attributes:
        machine: Where it is.
        seen: Every command line of its processes so far.
    """

    machine: Machine
    seen: set[str]

    def prefect(self, *arguments: str) -> str:
        """Run `prefect` as an operator does; return what it printed."""
        return self.machine.do("/opt/jade/.venv/bin/prefect", *arguments, variables=OPERATOR)

    def call(self, method: str, path: str, body: object = None, *, known: bool = True) -> tuple[int, Any]:
        """Ask the server; return status and content."""
        asked = json.dumps([method, path, body, known])
        status, content = json.loads(
            self.machine.do("/opt/jade/.venv/bin/python", "-c", CALL, text=asked, variables=OPERATOR)
        )
        return status, content

    def flow_run(self, number: str) -> dict[str, Any]:
        status, found = self.call("GET", f"/flow_runs/{number}")
        assert status == 200
        run: dict[str, Any] = found
        return run

    def start(self, **parameters: object) -> str:
        """Start a small comparison; return the flow run's number."""
        given = json.dumps({"arms": ["soft_span", "crf"], "seeds": 1, "folds": 2, **parameters})
        printed = self.prefect("deployment", "run", "compare/on-demand", "--params", given)
        (number,) = re.findall(r"UUID: (\S+)", printed)
        return str(number)

    def wait_for(self, number: str, *states: str) -> dict[str, Any]:
        """Return a flow run once it is in one of the states."""
        wait_until(lambda: self.flow_run(number)["state_type"] in states, 600, self.machine.journal)
        return self.flow_run(number)

    def start_and_train(self) -> str:
        """Start a comparison without an end; return the flow run's number once it trains."""
        self.wait_until_active("jade-worker")
        number = self.start(epochs=9000)
        wait_until(lambda: "jade_model train" in str(self.machine.processes_of("jade")), 300, self.machine.journal)
        return number

    def states_of_runs(self) -> list[str]:
        """Return what the runs' folders say became of them, the newest last."""
        found = self.machine.do("sh", "-c", "cat /opt/jade/artifacts/*/run.json")
        return re.findall(r'^  "state": "(.*)"', found, flags=re.MULTILINE)

    def wait_until_active(self, unit: str) -> None:
        wait_until(lambda: self.machine.property(unit, "ActiveState") == "active", 300, self.machine.journal)


def documented_commands() -> list[str]:
    """Return the commands of the section, in its order."""
    text = (ROOT / "docs" / "operations.md").read_text()
    section = text[text.index("## For real use: systemd") :]
    found = re.search(r"```sh\n(.*?)```", section, flags=re.DOTALL)
    assert found
    return found[1].splitlines()


def install(machine: Machine) -> None:
    """Do what the documentation says, with PostgreSQL as Debian's package leaves it."""
    machine.do(
        "sh",
        "-ec",
        "rm -rf /etc/postgresql/* /var/lib/postgresql/*; ! id jade 2>/dev/null || userdel jade; "
        "pg_createcluster $(ls /usr/lib/postgresql | sort -n | tail -1) main; systemctl enable --now postgresql",
    )
    machine.write("/usr/local/bin/write-settings", WRITE_SETTINGS, "0755")
    machine.write("/root/server.env", SERVER_ENV)
    machine.write("/root/worker.env", WORKER_ENV)
    done = []
    for command in documented_commands():
        # The checkout with its environment is there already, without the network.
        if not command.startswith("git clone"):
            answers = f"{DATABASE_PASSWORD}\n{DATABASE_PASSWORD}\n" if "--pwprompt" in command else ""
            machine.do("sh", "-ec", f"cd /opt/jade && {command}", text=answers, variables=EDITOR, limit_s=900)
            done.append(command.split()[0])
    assert done == ["useradd", "runuser", "install", "$EDITOR", "cp", "systemctl"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with booted(tmp_path_factory.mktemp("systemd")) as machine, command_lines_seen() as seen:
        install(machine)
        yield Site(machine, seen)


@pytest.fixture(scope="module")
def completed(site: Site) -> str:
    """Run the deployment once; return the flow run's number."""
    number = site.start(epochs=2)
    run = site.wait_for(number, "COMPLETED", "FAILED", "CRASHED", "CANCELLED")
    assert run["state_type"] == "COMPLETED", run["state"]
    return number


def test_the_units_are_valid_and_enabled_and_run(site: Site) -> None:
    units = ["jade-server.service", "jade-worker.service", "jade-health.service", "jade-health.timer"]
    verified = site.machine.run("systemd-analyze", "verify", *(f"/etc/systemd/system/{unit}" for unit in units))
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    for unit in ("jade-server", "jade-worker", "jade-health.timer"):
        assert site.machine.property(unit, "UnitFileState") == "enabled"
        assert site.machine.property(unit, "ActiveState") == "active", site.machine.journal()
        assert site.machine.property(unit, "Result") == "success"
    for unit in ("jade-server", "jade-worker"):
        assert site.machine.property(unit, "NRestarts") == "0", site.machine.journal()


def test_the_server_answers_those_who_know_the_password_and_nobody_from_outside(site: Site) -> None:
    status, found = site.call("POST", "/deployments/filter", {})
    assert status == 200
    assert {item["name"] for item in found} >= {"nightly", "on-demand", "on-new-data", "weekly", "every-10-minutes"}
    assert site.call("POST", "/deployments/filter", {}, known=False)[0] == 401

    def listening() -> set[str]:
        return {line.split()[3] for line in site.machine.do("ss", "-Htln").splitlines()}

    wait_until(lambda: {port.rpartition(":")[2] for port in listening()} >= {"4200", "8080"}, 60, site.machine.journal)
    assert all(place.startswith(("127.", "[::1]")) for place in listening()), listening()


def test_a_run_completes_and_its_files_belong_to_jade(site: Site, completed: str) -> None:
    status, found = site.call("POST", "/artifacts/filter", {"flow_runs": {"id": {"any_": [completed]}}})
    assert status == 200
    assert {"comparison-report", "html-report"} <= {item["key"] for item in found}
    owners = set(site.machine.do("find", "/opt/jade/artifacts", "-printf", "%u\n").split())
    assert owners == {"jade"}
    described = json.loads(site.machine.do("sh", "-c", "cat /opt/jade/artifacts/*-compare-*/run.json"))
    assert described["state"] == "completed"
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert described["code"]["commit"] == (commit.stdout.strip() if commit.returncode == 0 else None)


def test_services_keep_their_bytecode_and_write_to_their_folders_only(site: Site, completed: str) -> None:
    kept = site.machine.do("find", "/var/cache/jade/bytecode/opt/jade/flows", "-name", "compare.*.pyc", "-user", "jade")
    assert kept.strip()
    others = ["/proc", "/sys", "/dev", "/tmp", "/run", "/opt/jade/artifacts", "/var/lib/jade", "/var/cache/jade"]
    pruned = [part for folder in others for part in ("-path", folder, "-prune", "-o")]
    assert site.machine.do("find", "/", "/opt/jade", "-xdev", *pruned, "-user", "jade", "-print") == ""


def test_secrets_stand_in_no_process_list_no_unit_and_no_log(site: Site, completed: str) -> None:
    assert any("prefect\0server\0start" in line for line in site.seen)
    assert any("prefect.engine" in line for line in site.seen)
    shown = site.machine.do("systemctl", "show", "jade-server", "jade-worker", "jade-health")
    journal = site.machine.do("journalctl", "--no-pager")
    for secret in (DATABASE_PASSWORD, API_PASSWORD):
        assert not [line for line in site.seen if secret in line]
        assert secret not in shown
        assert secret not in journal
    for path in ("/etc/jade/server.env", "/etc/jade/worker.env"):
        assert site.machine.run("runuser", "-u", "jade", "--", "cat", path).returncode != 0


def test_a_server_that_is_killed_comes_back_by_itself_and_knows_its_runs(site: Site, completed: str) -> None:
    killed = site.machine.property("jade-server", "MainPID")
    site.machine.do("kill", "-KILL", killed)
    wait_until(lambda: site.machine.property("jade-server", "MainPID") not in {killed, "0"}, 120, site.machine.journal)
    site.wait_until_active("jade-server")
    assert site.machine.property("jade-server", "NRestarts") == "1", site.machine.journal()
    assert site.flow_run(completed)["state_type"] == "COMPLETED"


def test_a_server_that_hangs_is_restarted_by_the_health_check_and_the_worker_is_left_alone(
    site: Site, completed: str
) -> None:
    site.wait_until_active("jade-worker")
    server, worker = (site.machine.property(unit, "MainPID") for unit in ("jade-server", "jade-worker"))
    site.machine.do("systemctl", "start", "jade-health")
    assert site.machine.property("jade-server", "MainPID") == server
    site.machine.do("kill", "-STOP", server)
    started = time.monotonic()
    site.machine.do("systemctl", "start", "jade-health")
    assert time.monotonic() - started < 300
    assert site.machine.property("jade-health", "Result") == "success"
    assert site.machine.property("jade-server", "MainPID") not in {server, "0"}
    assert site.machine.property("jade-server", "ActiveState") == "active"
    assert site.machine.property("jade-worker", "MainPID") == worker
    assert site.flow_run(completed)["state_type"] == "COMPLETED"


def test_stopping_the_worker_lets_its_runs_end_themselves_and_leaves_no_process(site: Site) -> None:
    number = site.start_and_train()
    site.machine.do("systemctl", "stop", "jade-worker", limit_s=400)
    assert site.machine.property("jade-worker", "Result") == "success"
    left = site.machine.processes_of("jade")
    assert [line for line in left if "prefect server start" not in line] == []
    run = site.flow_run(number)
    assert run["state_type"] == "CANCELLED", run["state"]
    assert site.states_of_runs()[-1] == "failed"


def test_a_worker_that_is_killed_comes_back_and_its_runs_end_themselves(site: Site) -> None:
    site.machine.do("systemctl", "start", "jade-worker")
    number = site.start_and_train()
    killed = site.machine.property("jade-worker", "MainPID")
    site.machine.do("kill", "-KILL", killed)
    wait_until(lambda: site.machine.property("jade-worker", "MainPID") not in {killed, "0"}, 300, site.machine.journal)
    assert not [line for line in site.machine.processes_of("jade") if "jade_model train" in line]
    run = site.flow_run(number)
    assert run["state_type"] == "CANCELLED", run["state"]
    assert site.states_of_runs()[-1] == "failed"


def test_after_a_restart_of_everything_history_is_there_and_runs_go_on(site: Site, completed: str) -> None:
    site.machine.do("systemctl", "restart", "jade-server", "jade-worker", limit_s=600)
    assert site.flow_run(completed)["state_type"] == "COMPLETED"
    again = site.start(epochs=1)
    run = site.wait_for(again, "COMPLETED", "FAILED", "CRASHED", "CANCELLED")
    assert run["state_type"] == "COMPLETED", run["state"]
