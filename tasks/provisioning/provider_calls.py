"""How often a call of a provider's service is tried, and how long an answer is waited for."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from tasks.provisioning.provider_errors import NothingSent, ProviderUnavailable, RateLimited

T = TypeVar("T")
_LONGEST_PAUSE_S = 20.0
_LONGEST_LOOK_S = 10.0
# On a machine that is too busy, or at the end of a call that took long, one look may take all of the time.
_FEWEST_LOOKS = 3


@dataclass(frozen=True)
class CallLimits:
    """Bounds of every call.

    Attributes:
        connect_timeout_s: For the connection.
        read_timeout_s: For each part of an answer.
        call_timeout_s: For a call with all its attempts, but for the end of the last.
        attempts: The first included.
        pause_s: Before the second; doubled each time, and jittered.
        longest_wait_s: How long is waited where the service says for how long; if it asks for more, the call fails.
    """

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    call_timeout_s: float = 120.0
    attempts: int = 5
    pause_s: float = 1.0
    longest_wait_s: float = 60.0


def always(_: ProviderUnavailable) -> bool:
    """Say of a call that it may be repeated after any transient error: it looks, or does what cannot be done twice."""
    return True


def where_nothing_happened(error: ProviderUnavailable) -> bool:
    """Say of a call that it may be repeated only if the service says, or the network proves, that nothing happened."""
    return isinstance(error, NothingSent | RateLimited)


def repeat(
    action: Callable[[], T],
    limits: CallLimits,
    *,
    may_repeat: Callable[[ProviderUnavailable], bool] = always,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Call `action` until it succeeds, fails for good, or the limits are reached; wait as long as the service says.

    Raises:
        ProviderError: The last one.
    """
    started, attempt = time.monotonic(), 1
    while True:
        try:
            return action()
        except ProviderUnavailable as error:
            longest = min(limits.pause_s * 2.0 ** (attempt - 1), _LONGEST_PAUSE_S)
            # Those who were told the same time must not come back all at once.
            pause_s = (error.retry_after_s or 0.0) + longest * random.uniform(0.5, 1.0)  # noqa: S311 -- jitter
            is_late = time.monotonic() - started + pause_s > limits.call_timeout_s
            asks_too_long = (error.retry_after_s or 0.0) > limits.longest_wait_s
            if not may_repeat(error) or attempt >= limits.attempts or is_late or asks_too_long:
                raise
        sleep(pause_s)
        attempt += 1


def looks(limit_s: float, pause_s: float, sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Yield at once, and then after longer and longer pauses, until the time is up; but a few times at least."""
    deadline, done = time.monotonic() + limit_s, 0
    while True:
        yield
        done += 1
        if done >= _FEWEST_LOOKS and time.monotonic() + pause_s > deadline:
            return
        sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_LOOK_S)
