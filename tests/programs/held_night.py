"""The flow `compare` as deployments know it, held at one side of one step of its rental.

In the file that JADE_TEST_HOLD names stands which: `provisioning ready before`, with `-` for what is before the first
state. Whoever takes that step writes the same to the file's name with `.held`, and waits there for its end.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Literal

from flows.compare import compare
from tasks.provisioning import registry
from tasks.provisioning.entries import LeaseState
from tests.fakes.watched_ledger import WatchedLedger

__all__ = ["compare"]


def hold(old: str, new: LeaseState, when: Literal["before", "after"]) -> None:
    """Wait for ever if this is the step."""
    wanted = Path(os.environ["JADE_TEST_HOLD"])
    told = f"{old} {new} {when}"
    if wanted.is_file() and wanted.read_text() == told:
        wanted.with_name(f"{wanted.name}.held").write_text(told)
        while True:
            time.sleep(3600)


WatchedLedger.watch = staticmethod(hold)
registry.Ledger = WatchedLedger  # type: ignore[misc]
