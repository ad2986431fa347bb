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
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic

from jade_model.core.job import Job, Training
from tasks.artifacts.leases import load_records
from tasks.artifacts.training_cache import Note, say
from tasks.execution.base import Event, Executor
from tasks.execution.found_jobs import find_ours, remove_all
from tasks.execution.lanes import Lane
from tasks.execution.queue import QueueRules, UnitQueue
from tasks.execution.remote import LANES_NAME
from tasks.execution.shift import Board, Shift
from tasks.hosts.errors import HostError

POLL_S = 1.0
STOP_WITHIN_S = 60.0
"""A host that is out of reach is left after so long; what it may still do is said."""
STOP_DOUBTFUL_WITHIN_S = 5.0
"""One that was out of reach when it was asked last."""


class FleetExecutor(Executor):
    """An `Executor` on hosts that each do a part.

    Args:
        folder, job: As of every executor.
        lanes: The hosts.
        rules: Of the queue.
        note: Told what a person should know.
    """

    def __init__(
        self, folder: Path, job: Job, lanes: Sequence[Lane], *, rules: QueueRules | None = None, note: Note = say
    ) -> None:
        super().__init__(folder, job)
        self._lanes, self._rules, self._note = tuple(lanes), rules, note
        self._board: Board | None = None
        self._shifts: list[Shift] = []

    def _train(self, pending: dict[str, Training]) -> Iterator[Event]:
        """Serve the lanes; tell what happens until every training has ended."""
        if not pending:
            self._clear_remains()
            return
        # A host that has not answered since the last time sits out.
        stuck = [shift for shift in self._shifts if shift.is_alive()]
        lanes = [lane for lane in self._lanes if all(lane is not shift.lane for shift in stuck)]
        queue = UnitQueue(pending, self._rules, num_expected=len(lanes))
        board = Board(self._folder, self._job, queue, self._note)
        if load_records():
            board.unasked = {lane.name for lane in lanes}
        shifts = [Shift(lane, board) for lane in lanes]
        self._shifts, self._board = [*stuck, *shifts], board
        if self._is_stopped:  # just now, when there was nothing to halt
            return
        try:
            for shift in shifts:
                shift.start()
            if not lanes:
                queue.give_up_if_alone()
            yield from _events(board, shifts)
        finally:
            self._halt(board)
        # What was written while they ended.
        yield from board.heard()
        self._reason = self._reason or board.reason

    def _end(self) -> None:
        """End what runs, and free machines that are rented; jobs are left alone where a reason is given."""
        if self._board is not None:
            self._halt(self._board, leave_jobs=self._reason is not None)
        # Side by side: each may take as long as a provider needs to end a machine.
        closing = [threading.Thread(target=lane.close, name=f"close-{lane.name}") for lane in self._lanes]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()

    def _halt(self, board: Board, *, leave_jobs: bool = False) -> None:
        """Let the lanes end; returns once they have, or says which host does not answer.

        Args:
            board: What they share.
            leave_jobs: Stop no job on a host.
        """
        with board.changed:
            board.is_stopping, board.leaves_jobs = True, board.leaves_jobs or leave_jobs
            board.wake()
        began = monotonic()
        for shift in self._shifts:
            if shift.ident is None or shift.was_left:
                continue
            within_s = STOP_DOUBTFUL_WITHIN_S if shift.is_silent or shift.is_doubtful else STOP_WITHIN_S
            shift.join(max(0.0, began + within_s - monotonic()))
            if shift.is_alive():
                shift.was_left = True
                board.note(
                    f"{shift.lane.name} does not answer: its job may run on until its time limit; `jade runs` shows "
                    "it, `jade runs stop` stops it"
                )
        shutil.rmtree(board.folder / LANES_NAME, ignore_errors=True)

    def _clear_remains(self) -> None:
        """Remove what a process has left on a host that was killed once all results were here."""
        hosts = {record.host for record in load_records()}
        for lane in self._lanes:
            if lane.name not in hosts:
                continue
            try:
                station = lane.open(lambda: self._is_stopped)
                for found in find_ours(station, self._job):
                    remove_all(station, found.handle, self._note, may_run=not found.status.is_over)
            except HostError as error:
                self._note(f"{lane.name}: what an earlier process has left could not be removed there: {error}")
            finally:
                lane.rest("what was left there is removed", is_over=True)


def _events(board: Board, shifts: Sequence[Shift]) -> Iterator[Event]:
    is_last = False
    while not is_last:
        board.news.wait(POLL_S)
        board.news.clear()
        with board.changed:
            for shift in shifts:
                shift.share_if_silent()
            # Asked before the events are taken, so that what came last is not passed over.
            is_last = board.is_done
            ended = board.queue.drain()
            # Where there is one host alone, its error says more than that no other was left.
            error = next(iter(board.errors.values()), None) if len(shifts) == 1 else None
        yield from board.heard()
        for event in ended:
            if event.kind == "failed" and error is not None and not event.data["is_own_fault"]:
                yield replace(event, data={**event.data, "reason": str(error), "error": error})
            else:
                yield event
