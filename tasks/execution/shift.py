"""A lane at work: one host after the other, batch after batch, and first of all what an earlier process has left."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic

from jade_model.core.job import Job
from tasks.artifacts.training_cache import Note
from tasks.core.errors import RentingCancelled, RunError
from tasks.core.retry import retry_transient
from tasks.execution.base import Event
from tasks.execution.found_jobs import FoundJob, find_ours, remove_all
from tasks.execution.lanes import Lane, Station
from tasks.execution.queue import UnitQueue
from tasks.execution.remote import RemoteBatch
from tasks.hosts.errors import HostError, JobStopped

PLACES_ON_GPU = 4
ASK_WITHIN_S = 10.0
"""So long hosts wait for others to say which trainings they have from before."""
_CALL_S = 60.0


@dataclass
class Board:
    """What the lanes of one call of `run` share.

    Attributes:
        folder: The run's.
        job: What the run trains.
        queue: Of its trainings; touched with the lock held, as all that follows but `news` and `told`.
        note: Told what a person should know.
        unasked: Lanes whose host has not said yet what it has from before. None of that is given out before all have,
            or the time `ask_until` has come.
        errors: What went wrong with each lane's host, unless it has begun something since.
        is_stopping: Whether all is to end.
        leaves_jobs: Whether no job on a host is to be stopped then.
        reason: Why it may not go on, if somebody has stopped its job on a host.
        told: Events that nobody has taken yet.
        changed: The lock; notified when the queue has changed.
        news: Set when there may be an event. Lines come by the thousand: they wake no lane.
    """

    folder: Path
    job: Job
    queue: UnitQueue
    note: Note
    unasked: set[str] = field(default_factory=set)
    ask_until: float = field(default_factory=lambda: monotonic() + ASK_WITHIN_S)
    errors: dict[str, Exception] = field(default_factory=dict)
    is_stopping: bool = False
    leaves_jobs: bool = False
    reason: Exception | None = None
    told: deque[Event] = field(default_factory=deque)
    changed: threading.Condition = field(default_factory=threading.Condition)
    news: threading.Event = field(default_factory=threading.Event)

    @property
    def is_done(self) -> bool:
        """Whether there is nothing more to do."""
        return self.is_stopping or self.queue.num_open == 0

    def wake(self) -> None:
        """Let lanes and whoever tells events look again. The lock is held."""
        self.changed.notify_all()
        self.news.set()

    def heard(self) -> Iterator[Event]:
        """Give out what was told since the last time."""
        while self.told:
            yield self.told.popleft()

    def is_wanted(self, units: Iterable[str]) -> bool:
        """Whether any of the trainings is neither done nor given up."""
        with self.changed:
            return any(self.queue.is_open(unit) for unit in units)


class Shift(threading.Thread):
    """Serves a lane for one call of `run`, until there is nothing more for it; the queue expects its host.

    Args:
        lane: Where.
        board: What it shares with others.

    Attributes:
        is_doubtful: Whether something went wrong with its host last, and it has begun nothing since.
        was_left: Whether nobody waits for its end any more.
    """

    def __init__(self, lane: Lane, board: Board) -> None:
        super().__init__(daemon=True, name=f"lane-{lane.name}")
        self.lane, self.board = lane, board
        self.is_doubtful = self.was_left = False
        self._is_expected, self._was_silent = True, False
        self._batch: RemoteBatch | None = None
        # Of the host that it has now:
        self._station: Station
        self._found = deque[FoundJob]()
        self._is_ready = self._is_gone = self._has_worked = False

    @property
    def is_silent(self) -> bool:
        """Whether its host does not answer."""
        batch = self._batch
        return batch is not None and batch.is_silent

    def share_if_silent(self) -> None:
        """Give others what its host has if that does not answer; what it brings later counts if it is first."""
        if self.is_silent and not self._was_silent:
            self.board.queue.drop(self.lane.name)
            self.board.wake()
        self._was_silent = self.is_silent

    def run(self) -> None:
        """Serve one host after the other; whatever goes wrong, the others must not wait for this one for ever."""
        board, lane, reason, is_over = self.board, self.lane, "there is nothing more for it", False
        try:
            while True:
                self._station = lane.open(lambda: board.is_stopping)
                given_up = self._begin() or self._work()
                if given_up is None:
                    break
                reason = given_up
                with board.changed:
                    # Counted first: while another host may come, nothing is given up for want of one.
                    board.queue.num_expected += not self._is_expected
                    self._is_expected = True
                    board.queue.leave(lane.name, reason)
                    board.wake()
                if not lane.retire(reason, has_worked=self._has_worked) or board.is_done:
                    break
        except RentingCancelled:
            reason = "the run is over"
        except Exception as error:
            reason = str(error) or type(error).__name__
            board.errors[lane.name] = error
            board.note(f"{lane.name} does not take part: {reason}")
        finally:
            with board.changed:
                board.queue.num_expected -= self._is_expected
                board.unasked.discard(lane.name)
                board.queue.leave(lane.name, reason)
                board.wake()
                is_over = board.is_done
            lane.rest(reason, is_over=is_over)

    def _begin(self) -> str | None:
        """See what a new host has from before; return why it is lost, if it is.

        Raises:
            HostError: It does not answer, but may later.
        """
        board, station = self.board, self._station
        self._is_ready = station.is_rented
        self._is_gone = self._has_worked = self.is_doubtful = False
        try:
            places = retry_transient(lambda: _places(station))
            self._found = deque(find_ours(station, board.job))
        except HostError as error:
            if not self.lane.is_lost(error):
                raise
            return str(error)
        with board.changed:
            board.queue.join(self.lane.name, monotonic(), places=places, costs=station.costs)
            board.queue.num_expected -= 1
            self._is_expected = False
            self._asked()
        return None

    def _work(self) -> str | None:
        """Do what there is for the host; return why it was given up, or None once there is nothing more for it."""
        board, lane, problem, idle_since = self.board, self.lane, "", 0.0
        while True:
            if self._found and not board.is_stopping:
                error = self._go_on(self._found.popleft())
            else:
                with board.changed:
                    if board.is_stopping:
                        return None
                    now = monotonic()
                    if board.unasked and now < board.ask_until:
                        board.changed.wait(board.ask_until - now)
                        continue
                    answer = board.queue.take(lane.name, now)
                    # Nobody is told: hosts that wait must not wake each other in turns.
                    if answer.wait_s is not None:
                        board.changed.wait(answer.wait_s)
                        continue
                    if not answer.batch:
                        if board.queue.is_quarantined(lane.name):
                            return problem
                        idle_since = idle_since or now
                        left_s = idle_since + lane.idle_s - now
                        if left_s > 0 and not board.is_done:
                            board.changed.wait(left_s)
                            continue
                        return None
                    idle_since = 0.0
                error = self._do(answer.batch)
            if error is not None:
                problem = str(error)
                if self._is_gone:
                    return problem

    def _asked(self) -> None:
        """The queue knows all that the host has from before. The lock is held."""
        if not self._found:
            self.board.unasked.discard(self.lane.name)
            self.board.wake()

    def _go_on(self, found: FoundJob) -> Exception | None:
        """Take over a job that an earlier process of this run has left; return what went wrong with the host."""
        board = self.board
        with board.changed:
            units = board.queue.assign(self.lane.name, found.run_keys, monotonic())
            self._asked()
        batch = self._new_batch(found.run_keys, pending=units)
        if units and found.may_be_followed:
            return self._follow(batch, units, lambda: batch.adopt(found))
        try:
            if units:
                for event in batch.salvage(found):
                    self._take(event)
            else:
                remove_all(self._station, found.handle, board.note, may_run=not found.status.is_over)
        except HostError as error:
            return self._lost(batch, error)
        self._drop()
        return None

    def _do(self, units: Sequence[str]) -> Exception | None:
        """Do a batch; return what went wrong with the host, if anything did."""
        batch = self._new_batch(units)
        return self._follow(batch, units, lambda: batch.start(is_ready=self._is_ready))

    def _new_batch(self, units: Iterable[str], pending: Sequence[str] | None = None) -> RemoteBatch:
        board, wanted = self.board, set(units)
        return RemoteBatch(
            self._station,
            replace(board.job, trainings=tuple(item for item in board.job.trainings if item.run_key in wanted)),
            board.folder,
            note=board.note,
            lock=board.changed,
            pending=pending,
        )

    def _follow(self, batch: RemoteBatch, units: Sequence[str], begin: Callable[[], None]) -> Exception | None:
        board = self.board
        try:
            begin()
            self._batch, self._is_ready, self.is_doubtful = batch, True, False
            with board.changed:
                board.errors.pop(self.lane.name, None)
            for event in batch.follow():
                if event is not None:
                    self._take(event)
                elif self._is_over(units, batch):
                    break
                elif (going := self._station.must_leave()) is not None:
                    for brought in batch.bring_newest():
                        self._take(brought)
                    raise going
            if batch.is_over:
                batch.tidy()
            elif board.leaves_jobs:
                batch.abandon()
            else:
                batch.stop()
                if not board.is_wanted(units):
                    batch.tidy()
        except (HostError, RunError) as error:
            return self._lost(batch, error)
        finally:
            self._batch = None
        self._drop()
        return None

    def _is_over(self, units: Sequence[str], batch: RemoteBatch) -> bool:
        """Whether nobody waits for what a batch does; one whose results are all here is given time to end by itself."""
        if batch.is_over:
            return self.board.is_stopping and self.board.queue.num_open > 0
        return self.board.is_stopping or not self.board.is_wanted(units)

    def _lost(self, batch: RemoteBatch, error: HostError | RunError) -> Exception:
        """A batch ended with an error: its trainings go to others, and the host pauses."""
        board, name = self.board, self.lane.name
        board.note(f"{name}: {error}")
        self.is_doubtful = True
        with board.changed:
            board.errors[name] = error
            board.queue.lost(name, monotonic(), str(error))
            board.wake()
        self._is_gone = self.lane.is_lost(error)
        if isinstance(error, JobStopped) and not self._is_gone:
            # Somebody stopped it on purpose: it must not begin anew elsewhere.
            with board.changed:
                board.reason, board.is_stopping = board.reason or error, True
                board.wake()
        if self._is_gone:
            batch.forget()
        elif board.leaves_jobs:
            batch.abandon()
        else:
            batch.leave(error)
        return error

    def _drop(self) -> None:
        """Nothing of the batch is under way any more; what of it is not done goes to others."""
        with self.board.changed:
            self.board.queue.drop(self.lane.name)
            self.board.wake()

    def _take(self, event: Event) -> None:
        board, name = self.board, self.lane.name
        if event.kind in {"checkpoint", "done"}:
            self._has_worked = True
        if event.kind not in {"done", "failed"}:
            if event.kind == "checkpoint":
                with board.changed:
                    board.queue.progressed(name, event.run_key)
            board.told.append(event)
            board.news.set()
            return
        with board.changed:
            if event.kind == "done":
                board.queue.finished(name, event.run_key, monotonic(), seconds=event.data["seconds"])
            else:
                reason, is_own_fault = event.data["reason"], event.data["is_own_fault"]
                board.queue.failed(name, event.run_key, reason, is_own_fault=is_own_fault)
            board.wake()


def _places(station: Station) -> int:
    if isinstance(station.place.workers, int):
        return station.place.workers
    if station.place.device != "cpu":
        return PLACES_ON_GPU
    cores = station.host.run("# jade: count the cores\ngetconf _NPROCESSORS_ONLN", timeout_s=_CALL_S).text.strip()
    return int(cores) if cores.isdigit() else 1
