"""This process from its beginning, and what tells a process from every other one, also from a later one of its number.

Imported before anything heavy, so that a run can say what its start took.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path

PROCESS_STARTED = time.monotonic()


def boot_id() -> str | None:
    """Return what tells this boot of this machine from all others; None on systems that do not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return None


def process_table() -> str | None:
    """Return what tells this machine's boot and process table from all others; None where that cannot be told."""
    try:
        return f"{boot_id()} {Path('/proc/self/ns/pid').readlink()}" if boot_id() else None
    except OSError:
        return None


def start_ticks(process_id: object) -> str | None:
    """Return when a process started, in ticks of this boot; None if there is none, or only what is left of it.

    Unlike a time of day, as psutil tells, this stays the same when the clock is set.
    """
    try:
        fields = Path(f"/proc/{int(str(process_id))}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if fields[0] in {"Z", "X", "x"} else fields[19]


def import_meanwhile(*names: str) -> threading.Thread:
    """Import modules in a thread, which is returned; what fails there fails again, and is told, where they are used."""
    # No daemon: at the end of a process a thread that is cut off inside a library's start-up can take it down.
    thread = threading.Thread(target=_import_all, args=(names,), name="import-meanwhile")
    thread.start()
    return thread


def _import_all(names: tuple[str, ...]) -> None:
    for name in names:
        with suppress(ImportError):
            import_module(name)
