"""Trying again, where the error itself says that it can help; and not waiting for ever."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

T = TypeVar("T")
LONGEST_PAUSE_S = 60.0


def retry_transient(
    action: Callable[[], T],
    *,
    attempts: int | None = 5,
    limit_s: float = math.inf,
    pause_s: float = 1.0,
    longest_pause_s: float | None = None,
    only: type[Exception] = Exception,
    on_retry: Callable[[Any, int], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Call `action` until it succeeds, fails for good, or was tried often or long enough.

    Args:
        action: Must be safe to repeat. An error of its that has a true `is_transient` is tried again.
        attempts: At most, the first included; None: as many as the time admits, and two at least.
        limit_s: Past this no further attempt begins.
        pause_s: Before the second attempt; doubled each time, and jittered. What an error asks for
            (`retry_after_s`) comes on top.
        longest_pause_s: More is not waited; an error that asks for more is raised at once. None: `LONGEST_PAUSE_S`.
        only: Transient errors of this kind alone; others are raised.
        on_retry: Told the error and the number of the attempt that failed, before each pause.
        sleep: Waits.
        clock: Seconds.

    Raises:
        Exception: The last one, as soon as it is not transient or no attempt is left.
    """
    began, attempt = clock(), 1
    most_s = LONGEST_PAUSE_S if longest_pause_s is None else longest_pause_s
    while True:
        try:
            return action()
        except only as error:
            asked_s: float = getattr(error, "retry_after_s", None) or 0.0
            # Those who were told the same time must not come back all at once.
            jittered_s = min(pause_s * 2.0 ** min(attempt - 1, 64), most_s) * random.uniform(0.5, 1.0)  # noqa: S311
            is_late = clock() - began + asked_s + jittered_s > limit_s and not (attempts is None and attempt < 2)
            if (
                not getattr(error, "is_transient", False)
                or (attempts is not None and attempt >= attempts)
                or is_late
                or asked_s > most_s
            ):
                raise
            if on_retry is not None:
                on_retry(error, attempt)
        sleep(asked_s + jittered_s)
        attempt += 1


class TookTooLong(Exception):
    """What was called did not come back in time; it is left behind on its thread."""


def within(limit_s: float, action: Callable[[], T]) -> T:
    """Call what may hang, on a thread of its own.

    Raises:
        TookTooLong: It did not come back in time.
    """
    outcome: Future[T] = Future()

    def work() -> None:
        try:
            outcome.set_result(action())
        except Exception as error:  # the caller's, whatever it is
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    if not wait([outcome], limit_s).done:
        raise TookTooLong
    return outcome.result()
