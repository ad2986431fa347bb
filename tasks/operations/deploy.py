"""Deploys prefect.yaml without taking back what somebody has changed on the server since.

    python -m tasks.operations.deploy [--reset]

Variables of the server keep, as digests, what was deployed last. What stands there otherwise by now is somebody's wish:
paused deployments and automations stay paused, changed parameters, schedules, limits and tags stay changed, what was
deleted stays deleted. `jade up`, systemd's units and containers all deploy by this.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.exceptions import ObjectNotFound
from prefect.variables import Variable

from jade_model.core.files import sha256_json
from tasks.core.errors import BadRequest, RunError
from tasks.operations.installation import POOL

CHECKOUT = Path(__file__).resolve().parents[2]
LIMITS = {"provider-runpod": 8, "provider-ec2": 8}
"""Machines at once that a new installation admits, over all flows."""
RECORD = "jade_deployed"
_WHOLE = "installation"
DEPLOY_LIMIT_S = 300.0


def deploy(checkout: Path = CHECKOUT, *, reset: bool = False) -> list[str]:
    """Make the work pool, the limits and the deployments that are missing or have changed in the checkout.

    Args:
        checkout: Holds prefect.yaml; deployed flows run there.
        reset: Deploy everything as prefect.yaml says, whatever somebody has changed, and take over another checkout's.

    Returns:
        `flow/name` of what was deployed; empty if nothing has changed since.

    Raises:
        BadRequest: The deployments run from another checkout, which is still there.
        RunError: Prefect's command failed.
    """
    with get_client(sync_client=True) as client:
        before = _deployments(client)
        if not reset:
            _refuse_another_checkout(before, checkout)
        last = {} if reset else _remembered(before)
        _make_pool(client)
        _make_limits(client, last)
        sources = _sources(checkout)
        wanted = [name for name in _named(checkout) if name in before or name not in last]
        is_same = last.get(_WHOLE, {}).get("sources") == sources
        if is_same and set(wanted) <= set(before) and not _others(before, checkout):
            return []
        automations = {item["name"]: item["enabled"] for item in _automations(client)}
        _prefect(checkout, "--no-prompt", "deploy", *[part for name in wanted for part in ("--name", name)])
        after = _deployments(client)
        for name in wanted:
            _remember(name, _digests(after[name]))
            if name in before and not reset:
                _restore(client, before[name], after[name], last.get(name))
        known = set(last.get(_WHOLE, {}).get("automations", []))
        for item in _automations(client):
            if item["name"] in known - set(automations) and not reset:
                client.delete_automation(item["id"])
            elif automations.get(item["name"]) is False and item["enabled"] and not reset:
                client.pause_automation(item["id"])
        made = sorted({item["name"] for item in _automations(client)} | known)
        _remember(_WHOLE, {"sources": sources, "automations": made, "limits": sorted(LIMITS)})
        return wanted


def _named(checkout: Path) -> list[str]:
    """Return the deployments of prefect.yaml as `flow/name`; a flow's name has dashes where its function's has not."""
    entries = yaml.safe_load((checkout / "prefect.yaml").read_text("utf-8"))["deployments"]
    return [f"{entry['entrypoint'].rpartition(':')[2].replace('_', '-')}/{entry['name']}" for entry in entries]


def _sources(checkout: Path) -> str:
    files = [checkout / "prefect.yaml"]
    for package in ("flows", "tasks", "jade_model"):
        files += sorted((checkout / package).rglob("*.py"))
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.relative_to(checkout)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()[:16]


def _deployments(client: SyncPrefectClient) -> dict[str, dict[str, Any]]:
    flows = {item["id"]: item["name"] for item in client.request("POST", "/flows/filter", json={}).json()}
    found = client.request("POST", "/deployments/filter", json={}).json()
    return {f"{flows[item['flow_id']]}/{item['name']}": item for item in found if item["flow_id"] in flows}


def _automations(client: SyncPrefectClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.request("POST", "/automations/filter", json={}).json()
    return found


def _folder_of(deployment: dict[str, Any]) -> Path | None:
    for step in deployment.get("pull_steps") or []:
        for name, inputs in step.items():
            if name.endswith("set_working_directory"):
                return Path(inputs["directory"])
    return None


def _others(before: dict[str, dict[str, Any]], checkout: Path) -> dict[str, Path]:
    """Return the deployments that run from another folder, with it."""
    folders = {name: _folder_of(item) for name, item in before.items()}
    return {name: folder for name, folder in folders.items() if folder not in (None, checkout)}


def _refuse_another_checkout(before: dict[str, dict[str, Any]], checkout: Path) -> None:
    for name, folder in _others(before, checkout).items():
        # One that was moved away is nobody's any more.
        if (folder / "prefect.yaml").is_file():
            raise BadRequest(
                f"the deployments of this server run from another checkout, {folder} ({name} does), not from "
                f"{checkout}: `jade up --reset` here takes them over; or remove that checkout"
            )


def _make_pool(client: SyncPrefectClient) -> None:
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        from prefect.workers.process import ProcessWorker

        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))


def _make_limits(client: SyncPrefectClient, last: dict[str, Any]) -> None:
    for name in set(LIMITS) - set(last.get(_WHOLE, {}).get("limits", [])):
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=LIMITS[name]))


def _variable(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", f"{RECORD}_{name}".lower())


def _remember(name: str, value: dict[str, Any]) -> None:
    Variable.set(_variable(name), value, overwrite=True)


def _remembered(before: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what was deployed last: `flow/name` or _WHOLE -> digests."""
    names = {_WHOLE, *before, *_named(CHECKOUT)}
    found = {name: Variable.get(_variable(name), default=None) for name in names}
    return {name: value for name, value in found.items() if isinstance(value, dict)}


def _snapshot(deployment: dict[str, Any]) -> dict[str, Any]:
    """Return what of a deployment somebody may want otherwise; parameters one by one, under their path."""
    schedules = [
        {name: item.get(name) for name in ("schedule", "active", "parameters", "slug", "max_scheduled_runs")}
        for item in deployment.get("schedules") or []
    ]
    schedules.sort(key=lambda item: json.dumps(item, sort_keys=True))
    found = {name: deployment.get(name) for name in ("paused", "tags", "description", "job_variables")}
    found["concurrency_limit"] = (deployment.get("global_concurrency_limit") or {}).get("limit")
    return found | {"schedules": schedules} | dict(_leaves("parameters", deployment.get("parameters") or {}))


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(f"{path}.{name}", inner)
    else:
        yield path, value


def _digests(deployment: dict[str, Any]) -> dict[str, str]:
    return {name: sha256_json(value)[:12] for name, value in _snapshot(deployment).items()}


def _restore(
    client: SyncPrefectClient, before: dict[str, Any], after: dict[str, Any], last: dict[str, str] | None
) -> None:
    """Put back what somebody had changed; without a record, what switches things off and on."""
    was, now, digests = _snapshot(before), _snapshot(after), _digests(before)
    changed = {name for name in was if last.get(name) != digests[name]} if last else {"paused", "schedules"}
    wanted: dict[str, Any] = {}
    parameters = copy.deepcopy(after.get("parameters") or {})
    for name in sorted(changed):
        if was[name] == now.get(name):
            continue
        if not name.startswith("parameters."):
            wanted[name] = was[name]
            continue
        *path, leaf = name.split(".")[1:]
        inner = parameters
        for part in path:
            inner = inner.setdefault(part, {})
        inner[leaf] = was[name]
        wanted["parameters"] = parameters
    if wanted:
        client.request("PATCH", "/deployments/{id}", path_params={"id": after["id"]}, json=wanted)


def _prefect(checkout: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        cwd=checkout,
        env=os.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEPLOY_LIMIT_S,
        check=False,
    )
    if done.returncode != 0:
        raise RunError(f"`prefect {' '.join(arguments)}` failed:\n{(done.stdout + done.stderr)[-3000:]}")


def main() -> int:
    """Deploy, and print what was, a line each; return the exit status."""
    parser = argparse.ArgumentParser(description="Deploy prefect.yaml; what was changed on the server since stays.")
    parser.add_argument("--reset", action="store_true", help="deploy everything as prefect.yaml says")
    try:
        deployed = deploy(reset=parser.parse_args().reset)
    except RunError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print("\n".join(deployed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
