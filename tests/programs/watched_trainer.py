"""`python -m jade_model`, which keeps its events, and waits after a checkpoint.

    python tests/programs/watched_trainer.py FOLDER train job.json ...

Each event is added to FOLDER/events.jsonl; while FOLDER/wait exists, a training goes no further than its checkpoint.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from jade_model.__main__ import main


class WatchedOutput:
    """Standard output, one event a line."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._output = folder, sys.stdout

    def write(self, line: str) -> int:
        with (self._folder / "events.jsonl").open("a") as events:
            events.write(line)
        self._output.write(line)
        self._output.flush()
        while '"event": "checkpoint"' in line and (self._folder / "wait").exists():
            time.sleep(0.05)
        return len(line)

    def flush(self) -> None:
        self._output.flush()


if __name__ == "__main__":
    sys.stdout = WatchedOutput(Path(sys.argv[1]))  # type: ignore[assignment]
    sys.exit(main(sys.argv[2:]))
