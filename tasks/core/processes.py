"""What tells a process from every other one, also from a later one with the same number."""

from __future__ import annotations

from pathlib import Path


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
