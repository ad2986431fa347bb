"""Trainings on one host or several over SSH: each lane has a thread that asks the queue, and a detached job a batch.

A lane has a host of the settings, or a machine that is rented for it and replaced when it is lost (see lanes.py). Jobs
that an earlier process of the same run has left on a host are found by their run keys and gone on with.

What a host brings is gathered in a folder of its own below the run's and moved to its place file by file, the manifest
last, by whoever is first: two hosts that do the same training never write to the same files, and a host that is silent
holds up nobody.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from jade_model.core.job import Job, Training
from tasks.artifacts.leases import load_records
from tasks.artifacts.training_cache import Note, say
from tasks.core.errors import RentingCancelled
from tasks.execution.base import Event, split_done
from tasks.execution.found_jobs import find_ours, remove_all
from tasks.execution.lanes import Lane
from tasks.execution.queue import QueueRules, UnitQueue
from tasks.execution.remote import LANES_NAME
from tasks.execution.shift import Board, Shift
from tasks.hosts.errors import HostError

POLL_S = 1.0
ASK_WITHIN_S = 10.0
"""So long hosts wait for others to say which trainings they have from before."""
STOP_WITHIN_S = 60.0
"""A host that is out of reach is left after so long; what it may still do is said."""
STOP_DOUBTFUL_WITHIN_S = 5.0
"""One that was out of reach when it was asked last."""


class FleetExecutor:
    """An `Executor` on hosts that each do a part.

    Args:
        folder: The run's.
        job: What the run trains.
        lanes: The hosts.
        rules: Of the queue.
        note: Told what a person should know.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        folder: Path,
        job: Job,
        lanes: Sequence[Lane],
        *,
        rules: QueueRules | None = None,
        note: Note = say,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._job, self._lanes = folder, job, tuple(lanes)
        self._rules, self._note, self._clock = rules, note, clock
        self._reason: Exception | None = None
        self._round: _Round | None = None

    def run(self, trainings: Sequence[Training]) -> Iterator[Event]:
        """Give trainings out to the lanes as these ask for more; tell what each of them tells."""
        kept, pending = split_done(trainings, self._folder)
        yield from kept
        if pending and self._reason is None:
            # A host that has not answered since the last time sits out.
            stuck = self._round.stuck if self._round is not None else frozenset()
            lanes = [lane for lane in self._lanes if lane.name not in stuck]
            board = Board(self._folder, self._job, UnitQueue(pending, self._rules), self._note, self._clock)
            self._round = _Round(board, lanes)
            yield from self._round.events()
            self._reason = self._reason or board.reason
        elif not pending:
            self._clear_remains()
        if self._reason is not None:
            raise self._reason

    def stop(self, reason: Exception | None = None) -> None:
        """End what runs, and free machines that are rented; jobs are left alone where a reason is given."""
        self._reason = self._reason or reason
        if self._round is not None:
            self._round.halt(leave_jobs=reason is not None)
        # Side by side: each may take as long as a provider needs to end a machine.
        closing = [threading.Thread(target=lane.close, name=f"close-{lane.name}") for lane in self._lanes]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()

    def _clear_remains(self) -> None:
        """Remove what a process has left on a host that was killed once all results were here."""
        hosts = {record.host for record in load_records()}
        for lane in self._lanes:
            if lane.name not in hosts:
                continue
            try:
                station = lane.open()
                for found in find_ours(station, self._job):
                    remove_all(station, found.handle, self._note, may_run=not found.status.is_over)
            except HostError as error:
                self._note(f"{lane.name}: what an earlier process has left could not be removed there: {error}")
            finally:
                lane.rest(is_over=True)


class _Round:
    """One call of `run`: the threads that serve its lanes, and what they tell.

    Args:
        board: What they share.
        lanes: Which.
    """

    def __init__(self, board: Board, lanes: Sequence[Lane]) -> None:
        self._board, self._lanes = board, lanes
        board.queue.num_expected = len(lanes)
        # Where jobs may be left from before, none of their trainings is given out before every host has been asked.
        board.unasked = {lane.name for lane in lanes} if load_records() else set()
        board.ask_until = board.clock() + ASK_WITHIN_S
        self._shifts: dict[str, Shift] = {}
        self._left: set[str] = set()
        self._threads = {
            lane.name: threading.Thread(target=self._serve, args=(lane,), daemon=True, name=f"lane-{lane.name}")
            for lane in lanes
        }

    @property
    def stuck(self) -> frozenset[str]:
        """Lanes whose thread still waits for a host."""
        return frozenset(name for name, thread in self._threads.items() if thread.is_alive())

    def events(self) -> Iterator[Event]:
        """Serve the lanes; tell what happens until every training has ended."""
        try:
            for thread in self._threads.values():
                thread.start()
            if not self._threads:
                self._board.queue.give_up_if_alone()
            yield from self._events()
        finally:
            self.halt()
        # What was written while they ended.
        yield from self._heard()

    def halt(self, *, leave_jobs: bool = False) -> None:
        """Let the lanes end; returns once they have, or says which host does not answer.

        Args:
            leave_jobs: Stop no job on a host.
        """
        board = self._board
        with board.changed:
            board.is_stopping, board.leaves_jobs = True, board.leaves_jobs or leave_jobs
            board.wake()
        for lane in self._lanes:
            lane.cancel()
        began = board.clock()
        for name, thread in self._threads.items():
            if thread.ident is None or name in self._left:
                continue
            shift = self._shifts.get(name)
            is_doubtful = shift is not None and (shift.is_silent or shift.is_doubtful)
            within_s = STOP_DOUBTFUL_WITHIN_S if is_doubtful else STOP_WITHIN_S
            thread.join(max(0.0, began + within_s - board.clock()))
            if thread.is_alive():
                self._left.add(name)
                board.note(
                    f"{name} does not answer: its job may run on until its time limit; `jade runs` shows it, "
                    "`jade runs stop` stops it"
                )
        shutil.rmtree(board.folder / LANES_NAME, ignore_errors=True)

    def _events(self) -> Iterator[Event]:
        board, is_last = self._board, False
        while not is_last:
            board.news.wait(POLL_S)
            board.news.clear()
            with board.changed:
                for shift in self._shifts.values():
                    shift.share_if_silent()
                # Asked before the events are taken, so that what came last is not passed over.
                is_last = board.is_done
                ended = [self._ended(item) for item in board.queue.drain()]
            yield from self._heard()
            yield from ended

    def _heard(self) -> Iterator[Event]:
        while self._board.told:
            yield self._board.told.popleft()

    def _ended(self, event: Event) -> Event:
        error = next(iter(self._board.errors.values()), None)
        if event.kind == "done" or event.data["is_own_fault"] or error is None or len(self._lanes) > 1:
            return event
        # Where there is one host alone, its error says more than that no other was left.
        return replace(event, data={**event.data, "reason": str(error), "error": error})

    def _serve(self, lane: Lane) -> None:
        """Serve a lane, one host after the other, until there is nothing more for it."""
        board, is_expected, is_over, reason = self._board, True, False, "it is done"
        try:
            while True:
                shift = Shift(lane, board)
                with board.changed:
                    self._shifts[lane.name] = shift
                    board.queue.num_expected -= 1
                    is_expected = False
                given_up = shift.work()
                if given_up is None:
                    break
                reason = given_up
                with board.changed:
                    # Counted first: while another host may come, nothing is given up for want of one.
                    board.queue.num_expected += 1
                    is_expected = True
                    board.queue.leave(lane.name, reason)
                    board.wake()
                if not lane.retire(reason, has_worked=shift.has_worked) or board.is_done:
                    break
        except RentingCancelled:
            reason = "the run is over"
        except Exception as error:  # whatever it is, the run must not wait for this host for ever
            reason = str(error) or type(error).__name__
            board.errors[lane.name] = error
            board.note(f"{lane.name} does not take part: {reason}")
        finally:
            with board.changed:
                board.queue.num_expected -= is_expected
                board.unasked.discard(lane.name)
                board.queue.leave(lane.name, reason)
                self._shifts.pop(lane.name, None)
                board.wake()
                is_over = board.is_done
            lane.rest(is_over=is_over)
