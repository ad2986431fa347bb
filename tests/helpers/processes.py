"""What runs on this machine, read from /proc."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def processes_of_group(group: int) -> list[int]:
    """Return the living processes of a group."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getpgid(int(entry.name)) == group:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                found += [] if state == "Z" else [int(entry.name)]
        except (ProcessLookupError, FileNotFoundError):
            continue
    return found


def leaders_named(*words: str) -> list[int]:
    """Return the processes whose command line holds all of the words and that lead a group."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace") if entry.name.isdigit() else ""
            if command and all(word in command for word in words) and os.getpgid(int(entry.name)) == int(entry.name):
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def heed_interrupts() -> None:
    """Run in a child before its program: what a shell starts in the background is told to ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
