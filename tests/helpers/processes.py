"""What runs on this machine, read from /proc."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def unique_sleep() -> str:
    """Return a `sleep` that is known from every other one on this machine, whatever runs beside this test.

    As its words stand in /proc/*/cmdline once they are split: `words_of(unique_sleep())`.
    """
    return f"sleep 9876.{secrets.randbelow(10**12):012}"


def words_of(command: str) -> str:
    """Return simple words as they stand in /proc/*/cmdline."""
    return command.replace(" ", "\0")


def processes_of_group(group: int) -> list[int]:
    """Return the living processes of a group."""
    found = []
    for process, folder in _processes():
        try:
            if os.getpgid(process) == group:
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                found += [] if state == "Z" else [process]
        except (ProcessLookupError, FileNotFoundError):
            continue
    return found


def children_of(parent: int) -> list[tuple[int, str]]:
    """Return process id and name of what a process started and what has not been reaped."""
    found = []
    for process, folder in _processes():
        try:
            text = (folder / "stat").read_text()
        except (ProcessLookupError, FileNotFoundError):
            continue
        if int(text.rpartition(")")[2].split()[1]) == parent:
            found.append((process, text[text.index("(") + 1 : text.rindex(")")]))
    return found


def processes_with(*texts: str) -> list[int]:
    """Return the living processes whose command line holds all of the texts; not the caller."""
    return [process for process, line in _command_lines() if all(text in line for text in texts)]


def processes_in(folder: Path) -> list[int]:
    """Return the processes that work in a folder or below it."""
    found = []
    for process, entry in _processes():
        with suppress(OSError):
            if (entry / "cwd").readlink().is_relative_to(folder):
                found.append(process)
    return found


def leaders_named(*texts: str) -> list[int]:
    """Return those of `processes_with` that lead a group."""
    found = []
    for process in processes_with(*texts):
        try:
            found += [process] if os.getpgid(process) == process else []
        except ProcessLookupError:
            continue
    return found


def wait_until(holds: Callable[[], bool], limit_s: float = 60.0, evidence: Callable[[], str] = str) -> None:
    """Return as soon as something holds, asking less and less often; fail with the evidence when the time is up."""
    deadline, pause_s = time.monotonic() + limit_s, 0.02
    while not holds():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s\n{evidence()}"
        time.sleep(pause_s)
        pause_s = min(1.3 * pause_s, 0.5)


def wait_until_none(text: str, limit_s: float = 60.0) -> list[int]:
    """Return what is left of `processes_with` after some time; empty as soon as none are."""
    deadline = time.monotonic() + limit_s
    while (left := processes_with(text)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def heed_interrupts() -> None:
    """Run in a child before its program: what a shell starts in the background is told to ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _processes() -> Iterator[tuple[int, Path]]:
    for folder in Path("/proc").glob("[0-9]*"):
        yield int(folder.name), folder


def _command_lines() -> Iterator[tuple[int, str]]:
    for process, folder in _processes():
        if process != os.getpid():
            try:
                line = (folder / "cmdline").read_bytes().decode(errors="replace")
            except (ProcessLookupError, FileNotFoundError):
                continue
            yield process, line


@contextmanager
def command_lines_seen(pause_s: float = 0.1) -> Iterator[set[str]]:
    """Collect every command line that stands in the process list while the block lasts, as `ps` would show it."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(pause_s):
            seen.update(line for _, line in _command_lines())

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()
