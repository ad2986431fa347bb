"""What stands in prefect.yaml and deployments/: complete, pinned, without a password, and understood by its readers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tasks.operations.notify_targets import OCCASIONS, targets_from
from tasks.operations.worker import RUNS_GRACE_S, WORKER_GRACE_S
from tasks.settings.prefect import installation_environment

ROOT = Path(__file__).resolve().parents[3]
DEPLOYMENTS = ROOT / "deployments"

# The parts of the Compose specification that our file uses.
COMPOSE: dict[str, Any] = {
    "type": "object",
    "required": ["services"],
    "patternProperties": {"^x-": {}},
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
        "services": {"type": "object", "additionalProperties": {"$ref": "#/$defs/service"}},
        "volumes": {"type": "object", "additionalProperties": {"type": ["object", "null"]}},
        "networks": {"type": "object", "additionalProperties": {"type": ["object", "null"]}},
    },
    "additionalProperties": False,
    "$defs": {
        "duration": {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"},
        "service": {
            "type": "object",
            "required": ["image", "restart", "networks"],
            "additionalProperties": False,
            "properties": {
                "image": {"type": "string"},
                "build": {
                    "type": "object",
                    "properties": {"context": {"type": "string"}, "dockerfile": {"type": "string"}},
                    "additionalProperties": False,
                },
                "command": {"type": "array", "items": {"type": "string"}},
                "entrypoint": {"type": "array", "items": {"type": "string"}},
                "environment": {"type": "object", "additionalProperties": {"type": "string"}},
                "env_file": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["path"],
                        "properties": {"path": {"type": "string"}, "required": {"type": "boolean"}},
                        "additionalProperties": False,
                    },
                },
                "volumes": {"type": "array", "items": {"type": "string"}},
                "ports": {"type": "array", "items": {"type": "string"}},
                "networks": {"type": "array", "items": {"type": "string"}},
                "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
                "init": {"type": "boolean"},
                "stop_grace_period": {"$ref": "#/$defs/duration"},
                "stop_signal": {"type": "string", "pattern": "^SIG[A-Z]+$"},
                "logging": {"type": "object"},
                "depends_on": {
                    "type": "object",
                    "additionalProperties": {
                        "type": "object",
                        "required": ["condition"],
                        "properties": {
                            "condition": {
                                "enum": ["service_started", "service_healthy", "service_completed_successfully"]
                            }
                        },
                    },
                },
                "healthcheck": {
                    "type": "object",
                    "required": ["test", "interval", "timeout", "retries"],
                    "additionalProperties": False,
                    "properties": {
                        "test": {"type": "array", "items": {"type": "string"}, "minItems": 2},
                        "interval": {"$ref": "#/$defs/duration"},
                        "timeout": {"$ref": "#/$defs/duration"},
                        "start_period": {"$ref": "#/$defs/duration"},
                        "retries": {"type": "integer"},
                    },
                },
            },
        },
    },
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text())
    return content


def test_compose_is_what_its_specification_wants(compose: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(COMPOSE).validate(compose)
    named = set(compose["services"])
    for name, service in compose["services"].items():
        assert set(service.get("depends_on", {})) <= named, name
        assert set(service["networks"]) <= set(compose["networks"]), name
        volumes = {volume.split(":")[0] for volume in service.get("volumes", []) if re.match(r"[a-z]+:", volume)}
        assert volumes <= set(compose["volumes"]), name


def test_whoever_is_waited_for_can_get_there(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for other, wanted in service.get("depends_on", {}).items():
            awaited = compose["services"][other]
            match wanted["condition"]:
                case "service_healthy":
                    assert "healthcheck" in awaited, (name, other)
                case "service_completed_successfully":
                    assert awaited["restart"] == "no", (name, other)


def test_whatever_stays_is_restarted_and_checked(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if service["restart"] != "no":
            assert service["restart"] == "unless-stopped", name
            assert "healthcheck" in service, name


def test_images_are_pinned_and_ports_stay_on_this_machine(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        tag = service["image"].partition(":")[2]
        assert tag, name
        assert tag.startswith("${JADE_VERSION:?") or re.search(r"\d+\.\d+|\d{4}-\d{2}-\d{2}", tag), (name, tag)
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_no_password_has_a_default_and_the_example_names_every_variable() -> None:
    text = (DEPLOYMENTS / "compose.yaml").read_text()
    variables = dict(re.findall(r"(?<!\$)\$\{([A-Z_]+)(:[?-])", text))
    optional = {name for name, how in variables.items() if how == ":-"}
    assert optional == {"JADE_ARTIFACTS"}
    example = re.findall(r"^([A-Z_]+)=(.*)$", (DEPLOYMENTS / "env.example").read_text(), flags=re.MULTILINE)
    assert {name for name, _ in example} == set(variables) - optional
    assert all(value == "" for _, value in example)


def test_passwords_stay_out_of_git_and_of_the_image() -> None:
    assert {"deployments/.env", "deployments/worker.env"} <= set((ROOT / ".gitignore").read_text().split())
    assert "deployments" in (ROOT / ".dockerignore").read_text().split()


def test_the_image_is_built_once_and_its_user_can_write_what_the_ui_needs(compose: dict[str, Any]) -> None:
    assert [name for name, service in compose["services"].items() if "build" in service] == ["migrate"]
    text = (DEPLOYMENTS / "Dockerfile").read_text()
    (folder,) = re.findall(r"PREFECT_SERVER_UI_STATIC_DIRECTORY=(\S+)", text)
    assert folder.startswith("/home/jade/")
    assert text.index("USER jade") > text.index("pip install")


def test_runs_are_asked_to_end_before_their_worker_is(compose: dict[str, Any]) -> None:
    service = compose["services"]["worker"]
    assert service["command"] == ["python", "-m", "tasks.operations.worker", "--pool", "jade", "--with-healthcheck"]
    unit = (DEPLOYMENTS / "systemd" / "jade-worker.service").read_text()
    assert "ExecStop=/opt/jade/.venv/bin/python -m tasks.operations.worker --end-runs $MAINPID\n" in unit
    (limit,) = re.findall(r"TimeoutStopSec=(\d+)", unit)
    assert service["stop_grace_period"] == f"{int(limit) // 60}m"
    assert int(limit) > RUNS_GRACE_S + WORKER_GRACE_S


def test_the_database_counts_as_started_once_others_can_reach_it(compose: dict[str, Any]) -> None:
    """While the image makes a new database, a server that is soon stopped again listens on the socket alone."""
    assert "-h" in compose["services"]["postgres"]["healthcheck"]["test"]


def test_a_shell_hands_its_place_to_redis(compose: dict[str, Any]) -> None:
    *_, script = compose["services"]["redis"]["command"]
    assert script.startswith("exec docker-entrypoint.sh redis-server ")


def test_notifications_are_understood_and_hold_no_address() -> None:
    content = yaml.safe_load((DEPLOYMENTS / "notifications.yaml").read_text())
    targets = targets_from(content["notifications"])
    assert {occasion for target, _ in targets for occasion in target.occasions} == set(OCCASIONS)
    assert all(variable.startswith("JADE_") for _, variable in targets)


def test_every_kind_of_server_reads_the_same_settings(
    compose: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_DATABASE_TIMEOUT", "1")
    settings = dict(re.findall(r"^([A-Z_]+)=(.+)$", (DEPLOYMENTS / "prefect.env").read_text(), flags=re.MULTILINE))
    assert settings["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"].endswith("lease_storage.filesystem")
    for name in ("migrate", "server", "services"):
        assert compose["services"][name]["env_file"] == [{"path": "prefect.env", "required": True}]
        # Several processes share the leases there.
        assert "redis" in compose["services"][name]["environment"]["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"]
    unit = (DEPLOYMENTS / "systemd" / "jade-server.service").read_text()
    assert "EnvironmentFile=/opt/jade/deployments/prefect.env\n" in unit
    local = installation_environment(DEPLOYMENTS / "prefect.env", home=tmp_path, api_url="http://s/api", reports=None)
    assert settings.items() <= local.items()


def test_systemd_units_restart_and_are_valid(tmp_path: Path) -> None:
    units = sorted((DEPLOYMENTS / "systemd").glob("*.service")) + sorted((DEPLOYMENTS / "systemd").glob("*.timer"))
    assert {unit.stem for unit in units} == {"jade-server", "jade-worker", "jade-health"}
    for name in ("jade-server", "jade-worker"):
        text = (DEPLOYMENTS / "systemd" / f"{name}.service").read_text()
        assert "Restart=always" in text
        assert "EnvironmentFile=/etc/jade/" in text
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    # The programs that units start are not where an installation would have them: let them all be one that is.
    for unit in units:
        text = re.sub(r"^(Exec\w+=)\S+", r"\1/bin/true", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text)
    files = [str(tmp_path / unit.name) for unit in units]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True, timeout=60, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "jade-" in line and "postgresql" not in line]
    assert not ours, done.stderr


def test_every_deployment_is_complete() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    flows = {"compare", "sweep", "retrain", "prune", "watch_data", "reap"}
    for item in deployments:
        entry = item["entrypoint"]
        assert entry.partition(":")[2] in flows
        assert len(item["description"]) > 60, item["name"]
        assert "jade" in item["tags"]
        assert item["concurrency_limit"]["limit"] == 1
        assert item["concurrency_limit"]["collision_strategy"] in {"CANCEL_NEW", "ENQUEUE"}
        assert item["work_pool"] == {"name": "jade"}
        assert all(schedule["timezone"] for schedule in item["schedules"])
    named = {(item["entrypoint"].partition(":")[2], item["name"]) for item in deployments}
    assert named >= {
        ("compare", "nightly"),
        ("compare", "on-demand"),
        ("compare", "on-new-data"),
        ("sweep", "on-demand"),
        ("retrain", "weekly"),
        ("prune", "weekly"),
        ("watch_data", "every-10-minutes"),
        ("reap", "every-10-minutes"),
    }


@pytest.mark.parametrize(("looks", "is_restarted"), [(1, False), (2, True)])
def test_a_server_that_died_while_its_health_was_checked_is_left_to_systemd(
    tmp_path: Path, looks: int, *, is_restarted: bool
) -> None:
    programs = {
        "systemctl": f"""echo "$@" >> {tmp_path}/asked
[ "$1" != is-active ] || [ "$(grep -c is-active {tmp_path}/asked)" -le {looks} ]""",
        "sleep": "",
    }
    for name, does in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    check = ROOT / "deployments" / "systemd" / "check-health"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PREFECT_API_URL": "http://127.0.0.1:1/api"}
    subprocess.run(["sh", str(check)], env=environment, check=True, capture_output=True, timeout=120)
    assert ("restart jade-server.service" in (tmp_path / "asked").read_text()) is is_restarted
