"""Whether this installation can do its work: one finding a part, each with what to do about it.

Every part is asked beside the others, and has as long as `LIMIT_S`; one that does not answer is a problem, not a pause.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

from jade_model.core.errors import JadeError
from tasks.artifacts.repository import ArtifactPlace, open_place
from tasks.core.errors import TaskError
from tasks.hosts.host import place_on
from tasks.hosts.preflight import (
    MAX_CLOCK_OFFSET_S,
    MIN_FREE_BYTES,
    MIN_PYTHON,
    MIN_TORCH,
    Finding,
    Verdict,
    check_host,
)
from tasks.hosts.ssh import open_host
from tasks.provisioning.errors import ApiKeyMissing
from tasks.provisioning.registry import FACTORIES
from tasks.runs.tracking import open_client, short, tracks
from tasks.settings.load import Settings, cache_folder, state_folder
from tasks.settings.prefect import prefect_setting, prepare_prefect

LIMIT_S = 30.0
POOL = "jade"
_OWNER = "jadedoctor"
"""Owns no machine: what matters is whether the provider answers."""
_TORCH = """
import torch
devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
print(torch.__version__)
print(", ".join(devices) or "no GPU: training here runs on the CPU")
"""

Check = Callable[[], list[Finding]]


def examine(settings: Settings, artifacts: str | None = None, *, limit_s: float = LIMIT_S) -> list[Finding]:
    """Look at everything that Jade needs or was told of; change nothing.

    Args:
        settings: What the environment and the settings files say.
        artifacts: Where runs are kept; None for what the settings say.
        limit_s: For each part.

    Returns:
        Findings, in the order in which things are needed.
    """
    place = open_place(artifacts)
    checks: dict[str, Check] = {
        "Python": _python,
        "torch": lambda: _torch(limit_s),
        "disk": lambda: _disk(place),
        "store": lambda: _store(place),
        "Prefect server": _prefect,
        "clock": lambda: _clock(place),
        "MLflow": lambda: _mlflow(settings),
        **{f"host {name}": lambda name=name: _host(settings, name, limit_s) for name in settings.hosts},  # type: ignore[misc]
        **{f"provider {name}": lambda name=name: _provider(settings, name) for name in FACTORIES},  # type: ignore[misc]
    }
    found: dict[str, list[Finding]] = {}
    threads = [
        threading.Thread(target=lambda name=name: found.update({name: _asked(name, checks[name])}), daemon=True)
        for name in checks
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    silent = f"no answer within {limit_s:.0f} s"
    advice = "Ask it by itself; it may be slow, or out of reach behind a firewall."
    return [
        finding
        for name in checks
        for finding in dict(found).get(name, [Finding(name, silent, Verdict.PROBLEM, advice)])
    ]


def _asked(name: str, check: Check) -> list[Finding]:
    try:
        return check()
    except (TaskError, JadeError, OSError, subprocess.SubprocessError) as error:
        return [Finding(name, "cannot be used", Verdict.PROBLEM, short(error))]
    except Exception as error:
        return [Finding(name, type(error).__name__, Verdict.PROBLEM, short(error))]


def _python() -> list[Finding]:
    shown = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info[:2] < MIN_PYTHON:
        wanted = ".".join(map(str, MIN_PYTHON))
        return [Finding("Python", shown, Verdict.PROBLEM, f"Install Python {wanted} or newer, and Jade into it.")]
    return [Finding("Python", shown)]


def _torch(limit_s: float) -> list[Finding]:
    # In a process of its own: a torch that does not fit its CUDA ends the process that imports it.
    command = [sys.executable, "-c", _TORCH]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        advice = "Install it anew: `make clean`, then `make compare`, or `pip install --force-reinstall torch`."
        return [Finding("torch", said, Verdict.PROBLEM, advice)]
    version, devices = done.stdout.splitlines()[-2:]
    numbers = tuple(int(part) for part in version.partition("+")[0].split(".")[:2])
    if numbers < MIN_TORCH:
        wanted = ".".join(map(str, MIN_TORCH))
        return [Finding("torch", version, Verdict.PROBLEM, f"Too old: {wanted} or newer is needed.")]
    return [Finding("torch", f"{version}; {devices}")]


def _disk(place: ArtifactPlace) -> list[Finding]:
    rows = []
    for subject, folder, advice in (
        (
            "disk of the runs",
            place.folder,
            "`jade artifacts prune` frees some; or set JADE_ARTIFACTS.",
        ),
        ("state folder", state_folder(), "Set JADE_STATE_DIR to a folder that you may write to."),
        ("cache folder", cache_folder(), "Set JADE_CACHE_DIR to a folder that you may write to."),
    ):
        there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        free = shutil.disk_usage(there).free
        shown = f"{folder}: {free / 2**30:.1f} GiB free"
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            rows.append(Finding(subject, f"{folder}: not writable", Verdict.PROBLEM, advice))
        elif free < MIN_FREE_BYTES and folder == place.folder:
            wanted = f"At least {MIN_FREE_BYTES / 2**30:.0f} GiB should be free. {advice}"
            rows.append(Finding(subject, shown, Verdict.PROBLEM, wanted))
        else:
            rows.append(Finding(subject, shown))
    return rows


def _store(place: ArtifactPlace) -> list[Finding]:
    if place.is_local and not place.folder.exists():
        return [Finding("store", f"{place.address}: the first run makes it")]
    name = f"doctor/{secrets.token_hex(8)}"
    version = place.records.write(name, b"{}", replaces=None)
    place.records.remove(name, version=version)
    count = len(place.store.runs())
    return [Finding("store", f"{place.address}: writable, {count} published run{'' if count == 1 else 's'}")]


def _prefect() -> list[Finding]:
    url = prefect_setting("api", "url")
    if url is None:
        return [
            Finding("Prefect server", "none set: each command starts its own"),
            Finding("worker", "not needed without a server; `jade up` starts both"),
        ]
    prepare_prefect(quiet=True)
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        server = Finding("Prefect server", f"{url}: Prefect {client.api_version()}")
        try:
            workers = client.read_workers_for_work_pool(POOL)
            pool = client.read_work_pool(POOL)
        except ObjectNotFound:
            advice = "`jade up`, or docs/operations.md: nothing is deployed there, so no schedule fires."
            return [server, Finding("worker", f"no work pool {POOL!r}", Verdict.WARNING, advice)]
    online = [worker.name for worker in workers if str(worker.status).endswith("ONLINE")]
    if not online:
        advice = "Start one: `jade up`, `systemctl start jade-worker`, or `prefect worker start --pool jade`."
        return [server, Finding("worker", "none is online: scheduled runs wait", Verdict.PROBLEM, advice)]
    if pool.is_paused:
        advice = f"`prefect work-pool resume {POOL}`"
        return [server, Finding("worker", f"the work pool {POOL!r} is paused", Verdict.PROBLEM, advice)]
    return [server, Finding("worker", ", ".join(online))]


def _clock(place: ArtifactPlace) -> list[Finding]:
    """Hold the clock against that of a server that was set: a bucket's, else Prefect's."""
    url = prefect_setting("api", "url")
    if not place.is_local:
        whose, theirs = place.address, place.store.backend.now()
    elif url is not None:
        import httpx

        answer = httpx.get(f"{url.rstrip('/')}/health", timeout=LIMIT_S)
        whose, theirs = url, parsedate_to_datetime(answer.headers["date"]).timestamp()
    else:
        return [Finding("clock", "no server is set that it could be held against")]
    offset_s = time.time() - theirs
    shown = f"{offset_s:+.0f} s from that of {whose}"
    if abs(offset_s) > MAX_CLOCK_OFFSET_S:
        advice = "Set it (`timedatectl set-ntp true`): claims, schedules and signatures of requests go by it."
        return [Finding("clock", shown, Verdict.PROBLEM, advice)]
    return [Finding("clock", shown)]


def _mlflow(settings: Settings) -> list[Finding]:
    if not tracks(settings.track):
        return []
    open_client().search_experiments(max_results=1)
    return [Finding("MLflow", f"{os.environ.get('MLFLOW_TRACKING_URI') or 'a local one'} answers")]


def _host(settings: Settings, name: str, limit_s: float) -> list[Finding]:
    entry, subject = settings.entry(name), f"host {name}"
    host = open_host(settings, name, connect_timeout_s=limit_s / 2)
    try:
        report = check_host(host, place_on(entry), timeout_s=limit_s, is_quick=True)
    finally:
        host.close()
    return [
        Finding(subject, f"{row.subject}: {row.found}", Verdict.PROBLEM, f"{row.advice} `jade hosts check {name}`")
        for row in report.problems
    ] or [Finding(subject, f"{entry.address}: ready")]


def _provider(settings: Settings, name: str) -> list[Finding]:
    subject = f"provider {name}"
    if name == "static" and name not in settings.providers:
        return []  # it needs no key, and has no machine that nobody described
    try:
        FACTORIES[name](settings).provisioner.list(_OWNER)
    except ApiKeyMissing as error:
        if name in settings.providers:
            return [Finding(subject, "described in jade.toml, but no key is set", Verdict.WARNING, short(error))]
        return []
    except TaskError as error:
        if name not in settings.providers:
            return []  # nobody asked for it
        return [Finding(subject, "refuses or does not answer", Verdict.PROBLEM, short(error))]
    return [Finding(subject, "answers")]


def is_well(findings: list[Finding]) -> bool:
    """Whether nothing that was found hinders the work."""
    return all(finding.verdict is not Verdict.PROBLEM for finding in findings)
