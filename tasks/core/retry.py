"""Trying again, where the error itself says that it can help."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
LONGEST_PAUSE_S = 60.0


def retry_transient(
    action: Callable[[], T],
    *,
    attempts: int = 5,
    pause_s: float = 1.0,
    on_retry: Callable[[Any, int], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Call `action` until it succeeds, fails for good, or was tried often enough.

    Args:
        action: Must be safe to repeat. An error of its that has a true `is_transient` is tried again.
        attempts: At most, the first included.
        pause_s: Before the second attempt; doubled each time, up to a minute, and jittered.
        on_retry: Told the error and the number of the attempt that failed, before each pause.
        sleep: Waits.

    Raises:
        Exception: The last one, as soon as it is not transient or no attempt is left.
    """
    for attempt in range(1, attempts + 1):
        try:
            return action()
        except Exception as error:
            if not getattr(error, "is_transient", False) or attempt == attempts:
                raise
            if on_retry is not None:
                on_retry(error, attempt)
        sleep(min(pause_s * 2 ** (attempt - 1), LONGEST_PAUSE_S) * random.uniform(0.5, 1.0))  # noqa: S311 -- jitter
    raise ValueError(f"attempts must be at least 1, not {attempts}")
