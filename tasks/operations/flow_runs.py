"""How our flows behave as runs of Prefect: their names, what ends them, and what their last state says.

`prefect_run` makes a function's run

* end as Cancelled, without tracebacks, when somebody asked for its end: Cancel in the UI, `jade runs stop` here or for
  its jobs on other hosts, Ctrl-C, or a worker that is stopped; and stop at once when it is suspended;
* notice by its own questions that it is to end: after an outage of the server, Prefect's observer has given up;
* outlive the server: its process waits for one that is away when it begins, and its place under a concurrency limit is
  renewed for as long as the run goes on;
* say its outcome in the message of its last state, and an error of ours in its own words: without the way there through
  the code, unless Prefect's log level is DEBUG.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec, TypeVar, cast
from uuid import UUID

import coolname.data
import httpx
from prefect import flow_engine
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound, Pause, TerminationSignal
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Running

from jade_model.core.errors import JadeError
from tasks.core.errors import TaskError
from tasks.operations.events import events_delivered
from tasks.settings.prefect import has_lasting_server

ASK_EVERY_S = 10.0
"""Between a run's questions whether it is to end."""
RENEW_EVERY_S = 120.0
RENEW_AGAIN_S = 5.0
"""After a failed renewal: a lease that ran out while the server was away is taken back within seconds of its start."""

BEGIN_LIMIT_S = 1200.0
"""How long the process of a run waits for a server that is away before the run has begun."""

LOGGERS = ("prefect.flow_runs", "prefect.task_runs")

P = ParamSpec("P")
R = TypeVar("R")

_stopping = threading.Event()
_asked: list[State[Any]] = []
"""The state on the server that made this process stop its run, if one did."""
_outcome: ContextVar[tuple[str, str] | None] = ContextVar("outcome", default=None)

NOTHING_DUE = "Nothing due"
"""Name of the last state of a run that found nothing to do."""
NEW_DATA = "new-data"
"""A tag of runs that the flow `watch` starts, and starts again."""


def run_name(flow: str) -> str:
    """Return what this run of a flow is called: the user's name, or `compare-btcusd-2026-11-23-0200-3f2a`.

    Args:
        flow: Its name.
    """
    name, start = str(flow_run.name or ""), flow_run.scheduled_start_time
    return telling_name(flow, flow_run.parameters, start, str(flow_run.id)) if is_made_up(name) else name


def telling_name(flow: str, parameters: dict[str, Any], start: datetime, run_id: str) -> str:
    """Return the name of a run that nobody gave a name: flow, data, when it is due, and the end of its id."""
    sources = parameters["data"]
    named = Path(sources[0]).stem.strip("*") or "data"
    more = f"-and-{len(sources) - 1}" if len(sources) > 1 else ""
    return f"{flow}-{named}{more}-{start:%Y-%m-%d-%H%M}-{run_id[-4:]}"


def is_stopping() -> bool:
    """Whether this process was asked to end: what then fails, fails because of that."""
    return _stopping.is_set()


def stopped_state() -> State[Any]:
    """Return what a task ends as that was given up because the run ends."""
    return Cancelled(message="Given up, because the run was stopped.")


def conclude(message: str, *, is_quiet: bool = False) -> None:
    """Set what the current run's last state says, should it end well; also the last line of its log.

    Args:
        message: One sentence.
        is_quiet: Nothing was due; see `forget_quiet_runs`.
    """
    _outcome.set((message, NOTHING_DUE if is_quiet else "Completed"))


def prefect_run(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate the function of a flow, below `@flow`: Prefect gets the run's last state, a caller what it returned."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> Any:
        _begin()
        try:
            with _supervised(), events_delivered():
                result = function(*args, **kwargs)
        except (TerminationSignal, KeyboardInterrupt) as error:
            raise _stopped(error) from None
        except TaskError as error:
            if error.was_asked_for:
                raise _stopped(error) from None
            raise
        outcome = _concluded()
        if outcome is None:
            return result
        message, name = outcome
        get_run_logger().info("%s", message)
        return Completed(message=message, name=name, data=result)

    # Prefect reads the parameters' types off the function, and would look for their names in this module.
    run.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
    run.__annotations__ = inspect.get_annotations(function, eval_str=True)
    return cast("Callable[P, R]", run)


# Where a task runs elsewhere, Prefect sends the flow along by value, with all globals that its function names:
# functions of a module go by their names, and what they use stays here.
def _begin() -> None:
    _outcome.set(None)
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_leave_out_traceback)


def _leave_out_traceback(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, TaskError | JadeError) and not logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
        record.exc_info = None
    return True


def _concluded() -> tuple[str, str] | None:
    return _outcome.get()


class RunStopped(Pause):
    """Somebody asked for the run's end. Not an error to Prefect: the run's state is set already."""

    exit_code = 1


def _stopped(error: BaseException) -> BaseException:
    """Set the last state of a run that was asked to end, unless Prefect itself does; return what is to be raised."""
    from prefect._internal.control_listener import get_intent

    if get_intent() is not None:
        # Prefect's own observer asked, and says how the run ended.
        return error
    if _asked and _asked[0].is_paused():
        return RunStopped("suspended", state=_asked[0])
    match error:
        case TaskError():
            first_line, *_ = str(error).split("\n")
            why = f"where it trains ({first_line.rstrip('.')})"
        case KeyboardInterrupt():
            why = "by Ctrl-C or `jade runs stop`"
        case _:
            why = "by its worker or by Cancel"
    state: State[Any] = Cancelled(message=f"The run was asked to end {why}; what it had rented or started is released.")
    context = FlowRunContext.get()
    for hook in (context.flow.on_cancellation_hooks if context and context.flow else None) or []:
        hook(context.flow, context.flow_run, state)  # type: ignore[union-attr, arg-type]
    try:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(UUID(flow_run.id), state, force=True)
    except httpx.HTTPError as away:
        get_run_logger().warning("Prefect's server could not be told that the run was stopped: %s", away)
    return RunStopped(str(error) if isinstance(error, TaskError) else "interrupted", state=state)


@contextmanager
def _supervised() -> Iterator[None]:
    """Note signals that ask for the end, and ask the server whether the run is to end, while the block lasts."""
    _stopping.clear()
    _asked.clear()
    with ExitStack() as undo:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main:
            for number in (signal.SIGTERM, signal.SIGINT):
                undo.callback(signal.signal, number, _noting(number))
        if is_main and flow_run.id and has_lasting_server():
            over = threading.Event()
            watch = threading.Thread(target=_watch, args=(UUID(flow_run.id), over), name="jade-cancel", daemon=True)
            watch.start()
            undo.callback(watch.join, 2.0)
            undo.callback(over.set)
        yield


def _noting(number: signal.Signals) -> Any:
    """Have a signal noted before it is handled as before; return its handler until now."""
    before = signal.getsignal(number)

    def note(received: int, frame: FrameType | None) -> None:
        _stopping.set()
        if callable(before):
            before(received, frame)
        else:
            raise TerminationSignal(received)

    if before != signal.SIG_IGN:
        signal.signal(number, note)
    return before


def _watch(run_id: UUID, over: threading.Event) -> None:
    """End this process's run when the server says so, and Prefect itself has not within one more question."""
    asked_before = False
    with ExitStack() as opened:
        client: SyncPrefectClient | None = None
        while not over.wait(ASK_EVERY_S) and not _stopping.is_set():
            try:
                client = client or opened.enter_context(get_client(sync_client=True))
                state = client.read_flow_run(run_id).state
                if state is not None and state.type == StateType.CRASHED:
                    # Whoever said so had no sign of life, as while the server was away.
                    message = "It goes on, and was only not heard of."
                    client.set_flow_run_state(run_id, Running(message=message), force=True)
                    continue
            except ObjectNotFound:
                return
            except (httpx.HTTPError, OSError, RuntimeError):
                continue
            is_asked = state is not None and (
                state.is_cancelling() or state.is_final() or (state.is_paused() and state.name == "Suspended")
            )
            if state is not None and is_asked and asked_before and not over.is_set():
                _asked[:] = [state]
                os.kill(os.getpid(), signal.SIGTERM)
                return
            asked_before = is_asked


@contextmanager
def _keep_place(lease_id: UUID, lease_duration: float, **_: Any) -> Iterator[None]:
    """Renew a run's place under its deployment's concurrency limit while the block lasts; a lost one ends no run.

    In the place of Prefect's own, which ends the run when three renewals fail. Without its place the next run of the
    deployment may begin early: two runs never train the same at once, for each training is claimed where artifacts are.
    """
    over = threading.Event()
    thread = threading.Thread(target=_renew, args=(lease_id, lease_duration, over), name="jade-place", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(2.0)


def _renew(lease_id: UUID, lease_duration: float, over: threading.Event) -> None:
    with ExitStack() as opened:
        client: SyncPrefectClient | None = None
        pause_s = 0.0
        while not over.wait(pause_s):
            try:
                client = client or opened.enter_context(get_client(sync_client=True))
                client.renew_concurrency_lease(lease_id=lease_id, lease_duration=lease_duration)
                pause_s = RENEW_EVERY_S
            except httpx.HTTPStatusError as error:
                if error.response.status_code == httpx.codes.GONE:
                    return
                pause_s = RENEW_AGAIN_S
            except (httpx.HTTPError, OSError, RuntimeError):
                pause_s = RENEW_AGAIN_S


def _patient(check: Callable[[SyncPrefectClient], None]) -> Callable[[SyncPrefectClient], None]:
    """Have a client's first question to the server wait for it, in a process that a worker has started for a run.

    Prefect waits for a server that it has reached before, and gives up at once on one that it has not: then a run whose
    server is started again while the run's process starts would crash before it begins.
    """

    @functools.wraps(check)
    def wait_and_check(client: SyncPrefectClient) -> None:
        deadline = time.monotonic() + BEGIN_LIMIT_S
        while True:
            try:
                return check(client)
            except RuntimeError as error:
                is_away = isinstance(error.__cause__, httpx.TransportError)
                if not is_away or "PREFECT__FLOW_RUN_ID" not in os.environ or time.monotonic() > deadline:
                    raise
            time.sleep(RENEW_AGAIN_S)

    return wait_and_check


def is_made_up(name: str) -> bool:
    """Whether Prefect made a name up, such as `aloof-jerboa`, because nobody gave one."""
    return not name or set(name.split("-")) <= _made_up_words()


@functools.cache
def _made_up_words() -> frozenset[str]:
    parts = cast("dict[str, dict[str, Any]]", coolname.data.config)
    return frozenset(word for part in parts.values() for word in part.get("words", []))


# Prefect has no settings for these. The version is pinned, and a test on a real server shows what happens.
flow_engine.maintain_concurrency_lease = _keep_place  # type: ignore[attr-defined, assignment]
SyncPrefectClient.raise_for_api_version_mismatch_once = _patient(  # type: ignore[method-assign, assignment]
    SyncPrefectClient.raise_for_api_version_mismatch_once
)
