"""Numbers as people read them: one place, so that a value looks the same wherever it stands."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeGuard

ABSENT = "n/a"


def is_number(value: float | None) -> TypeGuard[float]:
    """Whether the value is there and finite."""
    return value is not None and math.isfinite(value)


def number(value: float | None, digits: int = 3) -> str:
    """Return a fixed number of decimals, never `-0.000`."""
    if not is_number(value):
        return ABSENT
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def signed(value: float | None, digits: int = 3) -> str:
    """Return a number with its sign."""
    text = number(value, digits)
    return text if text == ABSENT or text.startswith("-") or float(text) == 0 else f"+{text}"


def percent(value: float | None, digits: int = 1) -> str:
    """Return a fraction of 1 as per cent."""
    return ABSENT if not is_number(value) else f"{number(100 * value, digits)} %"


def interval(bounds: Sequence[float | None] | None, digits: int = 3, *, with_sign: bool = False) -> str:
    """Return `[low, high]`, or `unknown` where it leaves everything open: there was too little of something."""
    if bounds is None or len(bounds) != 2 or not all(is_number(bound) for bound in bounds):
        return ABSENT
    if (bounds[0] or 0.0) <= (-1.0 if with_sign else 0.0) and (bounds[1] or 0.0) >= 1.0:
        return "unknown"
    show = signed if with_sign else number
    return f"[{show(bounds[0], digits)}, {show(bounds[1], digits)}]"


def with_interval(value: float | None, bounds: Sequence[float | None] | None, *, with_sign: bool = False) -> str:
    """Return the value, and its interval where there is one."""
    shown = signed(value) if with_sign else number(value)
    limits = interval(bounds, with_sign=with_sign)
    return shown if limits == ABSENT else f"{shown} (interval unknown)" if limits == "unknown" else f"{shown} {limits}"


def p_value(value: float | None) -> str:
    """Return a p-value, as an inequality where digits would be noise."""
    if not is_number(value):
        return ABSENT
    return "< 0.001" if value < 0.001 else number(value)


def duration(seconds: float | None) -> str:
    """Return a time: `0.42 s`, `12.3 s`, `2 min 5 s`, `1 h 3 min`."""
    if not is_number(seconds):
        return ABSENT
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(num_bytes: int) -> str:
    """Return a file size in decimal units."""
    value = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def count(value: float | None) -> str:
    """Return a whole number with thousands separated."""
    return ABSENT if not is_number(value) else f"{round(value):,}"


def moment(text: str) -> str:
    """Return an ISO 8601 time as `2026-11-22 17:50 UTC`; other text as it is."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if time.tzinfo else time.strftime("%Y-%m-%d %H:%M")


def join(items: Sequence[str], last: str = "and") -> str:
    """Return `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}" if items else ""


def plural(amount: int, noun: str) -> str:
    """Return `1 seed`, `3 seeds`."""
    return f"{count(amount)} {noun}" if amount == 1 else f"{count(amount)} {noun}s"


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of what is there, or None."""
    there = [value for value in values if is_number(value)]
    return sum(there) / len(there) if there else None


def median(values: Sequence[float | None]) -> float | None:
    """Return the median of what is there, or None."""
    there = [value for value in values if is_number(value)]
    return statistics.median(there) if there else None
