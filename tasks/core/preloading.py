"""Modules that are imported while something else is waited for."""

from __future__ import annotations

import threading
from contextlib import suppress
from importlib import import_module


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
