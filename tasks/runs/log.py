"""What a run's flow and tasks say, as one JSON object a line in `log.jsonl` of its folder, secrets masked.

Everything said goes through Prefect's loggers of flow and task runs; there, secrets are masked for whoever else listens
too, such as the Prefect server.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Lock

from prefect.logging.handlers import PrefectConsoleHandler
from rich.console import Console

from tasks.operations.flow_runs import LOGGERS
from tasks.settings.environment import secret_values

LOG_NAME = "log.jsonl"
MASK = "********"

_IN_ADDRESS = re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")
_PART = re.compile(r"train-([a-z-]+)-seed(\d+)")


class Masking(logging.Filter):
    """Takes secrets out of what is said: values of secret environment variables, and passwords in addresses."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record through, masked."""
        said = record.getMessage()
        masked = mask(said)
        if masked != said:
            record.msg, record.args = masked, ()
        return True


def mask(text: str) -> str:
    """Return the text without secrets."""
    for value in secret_values():
        text = text.replace(value, MASK)
    return _IN_ADDRESS.sub(MASK, text)


class RunLog(logging.Handler):
    """Writes what is said in one run.

    Args:
        path: Where to; opened for each line, so that nothing is lost when the process is killed.
        run_id: Of the run.
    """

    def __init__(self, path: Path, run_id: str) -> None:
        super().__init__(logging.INFO)
        self._path, self._run_id, self._lock = path, run_id, Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line; a full disk must not end the run."""
        task = getattr(record, "task_run_name", None)
        part = _PART.fullmatch(task or "")
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "run": self._run_id,
            "task": task,
            "arm": part[1].replace("-", "_") if part else None,
            "seed": int(part[2]) if part else None,
            "message": mask(record.getMessage()),
        }
        text = json.dumps({name: value for name, value in line.items() if value is not None}, ensure_ascii=False)
        try:
            with self._lock, self._path.open("a", encoding="utf-8") as file:
                file.write(f"{text}\n")
        except OSError:
            self.handleError(record)


def outlive_reader() -> None:
    """Let the run go on when nobody reads its output any more, such as a worker that was killed.

    Prefect writes to its console by rich, which ends the process on a broken pipe. What is said still goes to the
    server and into the run's own log.
    """
    for name in ("", "prefect", *LOGGERS):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler):
                console = handler.console
                console.on_broken_pipe = partial(_be_quiet, console)  # type: ignore[method-assign]


def _be_quiet(console: Console) -> None:
    console.quiet = True


@contextmanager
def logged_to(folder: Path, run_id: str) -> Iterator[None]:
    """Keep what is said while the block lasts in the run's folder."""
    outlive_reader()
    handler, masking = RunLog(folder / LOG_NAME, run_id), Masking()
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addFilter(masking)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.removeFilter(masking)
