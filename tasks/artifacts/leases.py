"""Who trains what: a heartbeat for each run that goes on, and a claim of a run on each run key that it trains.

A claim names a run and counts as long as that run's heartbeat does. So there is one thing to keep alive for a run, and
one thing that ends when its owner dies, whatever it was killed by.

Nobody compares clocks of two machines. Others judge a heartbeat by the store's clock alone; its owner judges itself by
its own: after LOST_AFTER_S without a beat that the store took, it stops training, well before anybody may take over.
Whoever takes over first marks the dead heartbeat, so that an owner who was only asleep finds out at its next beat. An
owner on this machine is looked up among the processes: the same command again need not wait.

Beside that, the user's state folder has a file for each job that a host may still be at: written before the job is
started, removed once its results are here. Whoever dies in between leaves the file, never the other way round.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jade_model.core.files import write_atomically
from tasks.artifacts.backend import Record, Records, when_unchanged
from tasks.artifacts.errors import PreconditionFailed, StoreError
from tasks.core.errors import LeaseLost
from tasks.core.names import is_plain_name
from tasks.core.processes import process_table, start_ticks
from tasks.settings.load import state_folder

BEAT_EVERY_S = 20.0
LOST_AFTER_S = 240.0
STALE_AFTER_S = 300.0


@dataclass(frozen=True)
class Holder:
    """A run that goes on: which machine its flow runs on, as which process if that is this one, where it trains."""

    run_id: str
    machine: str
    host: str
    process_id: int | None = None

    def __str__(self) -> str:
        return f"{self.run_id} (on {self.machine}, training on {self.host})"


class Heartbeat:
    """Says that a run goes on, and on which host for people, until it is stopped or this process dies."""

    def __init__(
        self, records: Records, run_id: str, *, host: str = "local", beat_every_s: float = BEAT_EVERY_S
    ) -> None:
        self.records, self.run_id, self._name = records, run_id, f"running/{run_id}"
        process = {"table": process_table(), "id": os.getpid(), "started": start_ticks(os.getpid())}
        known = process if process["table"] and process["started"] else None
        self._told = {"run_id": run_id, "machine": socket.gethostname(), "host": host, "process": known}
        self._told["nonce"] = self._nonce = secrets.token_hex(8)
        self._beat_every_s = beat_every_s
        self._beats, self._version, self._last_beat = 0, "", time.monotonic()
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._lost: LeaseLost | None = None
        self._tell: Callable[[LeaseLost], None] | None = None
        self._thread = threading.Thread(target=self._keep_on, daemon=True, name=f"heartbeat-{run_id}")

    def start(self) -> None:
        """Begin; an error of the store's is that the first beat could not be written."""
        self._beat(None)
        self._thread.start()

    def stop(self) -> None:
        """End; the run's claims end with it. Silent if the store does not answer: it will find the run dead in time."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(StoreError):
            self.records.remove(self._name)

    def when_lost(self, tell: Callable[[LeaseLost], None] | None) -> None:
        """Call `tell` once the heartbeat is lost, or at once if it is already; None calls nothing any more."""
        with self._lock:
            self._tell, lost = tell, self._lost
        if lost is not None and tell is not None:
            tell(lost)

    def _beat(self, replaces: str | None) -> None:
        began = time.monotonic()
        self._beats += 1
        content = json.dumps({**self._told, "beat": self._beats}).encode()
        self._version = self.records.write(self._name, content, replaces=replaces)
        self._last_beat = began

    def _keep_on(self) -> None:
        while not self._stop.wait(self._beat_every_s):
            try:
                try:
                    self._beat(self._version)
                except PreconditionFailed:
                    # It may be our own: a beat before this one whose answer was lost.
                    found = self.records.read(self._name)
                    if found is None or _parsed(found).get("nonce") != self._nonce:
                        return self._lose("another run took it for dead and may train the same by now")
                    self._version = found.version
            except Exception as error:  # whatever it is: a thread that ended would leave the run training unclaimed
                silent_s = time.monotonic() - self._last_beat
                if silent_s > LOST_AFTER_S:
                    return self._lose(f"no sign of life reached the artifacts for {silent_s:.0f} s: {error}")
        return None

    def _lose(self, reason: str) -> None:
        with self._lock:
            self._lost, tell = LeaseLost(self.run_id, reason), self._tell
        if tell is not None:
            tell(self._lost)


def running(records: Records, run_id: str) -> Holder | None:
    """Return who is at a run, or None if nobody is any more."""
    return _living(records, records.read(f"running/{run_id}"))


def holders(records: Records) -> list[Holder]:
    """Return who is at a run now, all of them."""
    found = [_living(records, records.read(name)) for name in records.names("running")]
    return [holder for holder in found if holder is not None]


def interrupt(holder: Holder, *, patience_s: float = 30.0) -> bool:
    """Ask a flow of this machine to end, as Ctrl-C does, then as a shutdown does; return whether it has ended.

    Raises:
        PermissionError: It is another user's.
    """
    if holder.process_id is None:
        return False
    started = start_ticks(holder.process_id)
    # What a script starts in the background ignores the first.
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ProcessLookupError):
            os.kill(holder.process_id, number)
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            if started is None or start_ticks(holder.process_id) != started:
                return True
            time.sleep(0.1)
    return False


def claim(records: Records, run_id: str, key: str) -> Holder | None:
    """Take a run key for a run that has a heartbeat, unless another living run has it; then return that one."""
    name = f"claims/{key}"

    def take() -> Holder | None:
        found = records.read(name)
        owner = _owner(found)
        if owner == run_id:
            return None
        beat = records.read(f"running/{owner}") if owner else None
        if holder := _living(records, beat):
            return holder
        # Where the owner gives a sign of life meanwhile, or somebody else claims the key, all is looked at again.
        if beat is not None and not _parsed(beat).get("dead"):
            dead = {"run_id": owner, "dead": True, "by": run_id}
            records.write(f"running/{owner}", json.dumps(dead).encode(), replaces=beat.version)
        records.write(name, json.dumps({"run_id": run_id}).encode(), replaces=found.version if found else None)
        return None

    return when_unchanged(take)


def release(records: Records, run_id: str, keys: Iterable[str]) -> None:
    """Give claims back before the run ends; those that are not the run's stay."""
    for key in keys:
        name = f"claims/{key}"
        found = records.read(name)
        if found is not None and _owner(found) == run_id:
            with contextlib.suppress(PreconditionFailed):
                records.write(name, json.dumps({"run_id": ""}).encode(), replaces=found.version)


def sweep(records: Records, *, older_than_s: float) -> int:
    """Remove old claims and signs of life that are no living run's; return how many.

    Each is removed only as it was read: who claims a key meanwhile keeps it, and an owner that wakes up finds out.
    """

    def remove_if_dead(name: str) -> bool:
        found = records.read(name)
        owner = _owner(found)
        beat = found if name == f"running/{owner}" else records.read(f"running/{owner}") if owner else None
        if found is None or _living(records, beat) is not None:
            return False
        try:
            records.remove(name, version=found.version)
        except PreconditionFailed:
            return False
        return True

    # Claims first: they say whose signs of life they need.
    names = [name for folder in ("claims", "running") for name in records.names(folder, older_than_s=older_than_s)]
    with ThreadPoolExecutor(max_workers=8) as pool:
        return sum(pool.map(remove_if_dead, names))


def _owner(record: Record | None) -> str:
    owner = str(_parsed(record).get("run_id", ""))
    return owner if is_plain_name(owner) else ""


def _living(records: Records, beat: Record | None) -> Holder | None:
    told = _parsed(beat)
    if beat is None or not told or told.get("dead") is True or records.age_s(beat) > STALE_AFTER_S:
        return None
    process = told.get("process") or {}
    # Of a process of this very process table it is known whether it lives; of others nobody here can know.
    is_here = bool(process.get("table")) and process["table"] == process_table()
    if is_here and start_ticks(process.get("id")) != process.get("started"):
        return None
    here = process["id"] if is_here else None
    return Holder(str(told.get("run_id")), str(told.get("machine")), str(told.get("host")), here)


def _parsed(record: Record | None) -> dict[str, Any]:
    try:
        content = json.loads(record.content) if record else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


@dataclass(frozen=True)
class RemoteRun:
    """A job of so many trainings, by its key on a host; the run that asked for it last, its folder here, when (UTC)."""

    host: str
    key: str
    run_id: str
    folder: str
    trainings: int
    started_at: str


def save_record(record: RemoteRun) -> None:
    """Write a record; an older one of the same job is replaced."""
    write_atomically(_path(record.host, record.key), json.dumps(dataclasses.asdict(record), indent=2) + "\n")


def remove_record(host: str, key: str) -> None:
    """Remove a record; silent if there is none."""
    _path(host, key).unlink(missing_ok=True)


def load_records() -> list[RemoteRun]:
    """Return all records, oldest first; what is none is passed over."""
    found = []
    for path in sorted((state_folder() / "runs").glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            found.append(RemoteRun(**json.loads(path.read_text("utf-8"))))
    return sorted(found, key=lambda record: record.started_at)


def _path(host: str, key: str) -> Path:
    return state_folder() / "runs" / f"{host}.{key}.json"
