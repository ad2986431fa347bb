"""What a flow shows in Prefect: artifacts and events, sent from a thread of its own.

Showing something neither fails nor delays what is shown: while the server is away, the newest content of each artifact
and every event wait here, and reach it when it is back. `shown` waits for that at the end of a flow.
"""

from __future__ import annotations

import atexit
import contextvars
import json
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.context import SettingsContext
from prefect.events.schemas.events import Event
from prefect.exceptions import MissingContextError, ObjectNotFound
from prefect.logging import get_run_logger
from prefect.utilities.context import get_task_and_flow_run_ids

from tasks.settings.prefect import has_lasting_server

OUTAGE_LIMIT_S = 1200.0
"""How long a flow that is over waits for a server that is away, before it ends without showing the rest."""
EXIT_LIMIT_S = 10.0
RETRY_PAUSES_S = (2.0, 5.0, 15.0, 30.0)
"""Between attempts while the server is away; the last one again and again."""
UPDATE_EVERY_S = 2.0
"""One artifact is written no more often: each time is a request to the server."""

_PASSING_STATUS = {408, 425, 429}
_LOGGER = logging.getLogger("prefect.jade")


def show_progress(key: str, percent: float, description: str) -> None:
    """Show a progress bar among the artifacts of the current run, or move it.

    Args:
        key: Lower-case letters, digits and dashes; what is shown again under the same key in the same run replaces it.
        percent: 0 to 100.
        description: One line above it.
    """
    _show("progress", key, max(0.0, min(percent, 100.0)), description)


def show_table(key: str, rows: Sequence[dict[str, Any]], description: str) -> None:
    """Show a table; see `show_progress` for key and description. What is no number in JSON (NaN) becomes empty."""
    numbers = json.loads(json.dumps(list(rows)), parse_constant=lambda _: None)
    _show("table", key, json.dumps(numbers), description)


def show_markdown(key: str, text: str, description: str) -> None:
    """Show Markdown; see `show_progress` for key and description."""
    _show("markdown", key, text, description)


def show_link(key: str, address: str, text: str, description: str) -> None:
    """Show a link; see `show_progress` for key and description."""
    _show("markdown", key, f"[{text}]({address})", description)


def show_image(key: str, address: str, description: str) -> None:
    """Show an image: an `http` address or a `data:` URL; see `show_progress` for key and description."""
    _show("image", key, address, description)


def run_link(run_id: str, flow_run_id: str | None) -> str:
    """Return a run's name as Markdown for an artifact: a link to its page, where its run in Prefect is known.

    The link names no host, so that it holds under whatever address a browser reaches the UI.
    """
    return f"[{run_id}](/runs/flow-run/{flow_run_id})" if flow_run_id else run_id


def send_event(event: str, resource: dict[str, str], payload: dict[str, Any]) -> None:
    """Send an event; nothing is sent where no Prefect server is set, for nobody could hear of it.

    Args:
        event: Its name.
        resource: What it is about.
        payload: Plain JSON values.
    """
    if not has_lasting_server():
        # Prefect would start a server for a minute, only to forget the event with it.
        return
    _, flow_run_id = get_task_and_flow_run_ids()
    related = []
    if flow_run_id is not None:
        related = [{"prefect.resource.id": f"prefect.flow-run.{flow_run_id}", "prefect.resource.role": "flow-run"}]
    made = Event.model_validate({"event": event, "resource": resource, "payload": payload, "related": related})
    body = [made.model_dump(mode="json")]

    def send(client: SyncPrefectClient) -> None:
        client.request("POST", "/events", json=body)

    _outbox().put(made.id, Parcel(f"event {event}", send, run_logger()))


@contextmanager
def shown() -> Iterator[None]:
    """Leave the block only when what was shown in it has reached the server, or the server is away for too long."""
    try:
        yield
    finally:
        if _made:
            # A temporary server ends with this process: nothing of it comes back.
            _made[0].flush(OUTAGE_LIMIT_S if has_lasting_server() else EXIT_LIMIT_S)


@dataclass(frozen=True)
class Parcel:
    """Something that is to reach the server.

    Attributes:
        what: In words, for the log.
        send: Sends it.
        logger: Of the run that shows it.
    """

    what: str
    send: Callable[[SyncPrefectClient], None]
    logger: logging.Logger | logging.LoggerAdapter[logging.Logger]


@dataclass
class Outbox:
    """Sends what is put into it from a thread of its own, in order, and again until it arrives.

    Attributes:
        connect: Makes a client; called again after each failure.
        pauses_s: Between attempts while the server is away.
        every_s: Between two parcels under the same name.
    """

    connect: Callable[[], SyncPrefectClient]
    pauses_s: Sequence[float] = RETRY_PAUSES_S
    every_s: float = UPDATE_EVERY_S
    _waiting: dict[Hashable, Parcel] = field(default_factory=dict)
    _sent_at: dict[Hashable, float] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _is_sending: bool = False
    _is_flushed: bool = False
    _thread: threading.Thread | None = None

    def put(self, name: Hashable, parcel: Parcel) -> None:
        """Have a parcel sent; it takes the place of one under the same name that still waits."""
        with self._changed:
            self._waiting[name] = parcel
            if self._thread is None:
                # Threads start without settings of their own; of the caller's context they need no more than these.
                context = contextvars.Context()
                found = SettingsContext.get()
                if found is not None:
                    context.run(SettingsContext(profile=found.profile, settings=found.settings).__enter__)
                self._thread = threading.Thread(target=context.run, args=(self._work,), name="jade-ui", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, limit_s: float) -> bool:
        """Send what waits without pauses for politeness; return whether all of it has arrived within the time."""
        with self._changed:
            self._is_flushed = True
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: not self._waiting and not self._is_sending, limit_s)
            self._is_flushed = False
            if not done and self._waiting:
                parcel = next(iter(self._waiting.values()))
                parcel.logger.warning(
                    "Prefect's server is still away: %d artifacts and events were not shown", len(self._waiting)
                )
        return done

    def _work(self) -> None:
        failures = 0
        with ExitStack() as opened:
            client: SyncPrefectClient | None = None
            while True:
                name, parcel = self._next()
                try:
                    if client is None:
                        client = opened.enter_context(self.connect())
                    parcel.send(client)
                except Exception as error:
                    opened.close()
                    client = None
                    if _is_final(error):
                        parcel.logger.warning("not shown in Prefect: %s: %s", parcel.what, _in_short(error))
                        self._settle(name)
                        continue
                    if failures == 0:
                        parcel.logger.warning(
                            "Prefect's server does not answer (%s). This run goes on; what it shows follows when the "
                            "server is back",
                            _in_short(error),
                        )
                    self._put_back(name, parcel, self.pauses_s[min(failures, len(self.pauses_s) - 1)])
                    failures += 1
                    continue
                if failures:
                    parcel.logger.info("Prefect's server answers again")
                    failures = 0
                self._settle(name)

    def _next(self) -> tuple[Hashable, Parcel]:
        """Return the first parcel whose time has come."""
        with self._changed:
            while True:
                now = time.monotonic()
                due = [(self._due_at(name), name) for name in self._waiting]
                ready = [name for at, name in due if at <= now]
                if ready:
                    self._is_sending = True
                    return ready[0], self._waiting.pop(ready[0])
                self._changed.wait(min(at for at, _ in due) - now if due else None)

    def _due_at(self, name: Hashable) -> float:
        return 0.0 if self._is_flushed else self._sent_at.get(name, -self.every_s) + self.every_s

    def _settle(self, name: Hashable) -> None:
        with self._changed:
            self._sent_at[name] = time.monotonic()
            self._is_sending = False
            self._changed.notify_all()

    def _put_back(self, name: Hashable, parcel: Parcel, pause_s: float) -> None:
        """Let a parcel wait again, unless a newer one has taken its place, and pause."""
        with self._changed:
            self._waiting = {name: self._waiting.pop(name, parcel), **self._waiting}
            self._is_sending = False
        time.sleep(pause_s)


_made: list[Outbox] = []
_artifacts: dict[Hashable, UUID] = {}
"""Ids of what was created; touched by the outbox's thread alone."""
_lock = threading.Lock()


def _outbox() -> Outbox:
    with _lock:
        if not _made:
            _made.append(Outbox(lambda: get_client(sync_client=True)))
            # A command such as `jade promote` ends right after its event.
            atexit.register(_made[0].flush, EXIT_LIMIT_S)
        return _made[0]


def _show(kind: str, key: str, data: Any, description: str) -> None:
    task_run_id, flow_run_id = get_task_and_flow_run_ids()
    name = (flow_run_id, task_run_id, key)
    wanted = ArtifactCreate(
        type=kind, key=key, description=description, data=data, task_run_id=task_run_id, flow_run_id=flow_run_id
    )

    def send(client: SyncPrefectClient) -> None:
        if name in _artifacts:
            client.update_artifact(_artifacts[name], ArtifactUpdate(data=data, description=description))
        else:
            _artifacts[name] = client.create_artifact(wanted).id

    _outbox().put(name, Parcel(f"artifact {key}", send, run_logger()))


def run_logger() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    """Return the logger of the current run; outside of runs, the program's own."""
    try:
        return get_run_logger()
    except MissingContextError:
        return _LOGGER


def _is_final(error: Exception) -> bool:
    """Whether sending the same again would fail again: the server has answered, and refuses it."""
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        return 400 <= status < 500 and status not in _PASSING_STATUS
    # Anything but a failed connection is a mistake of the content.
    return isinstance(error, ObjectNotFound) or not isinstance(error, (httpx.HTTPError, OSError, RuntimeError))


def _in_short(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:300]
