"""A second process that draws figures beside this one: drawing holds Python's lock, so threads would not help.

It is started while something else is waited for, since importing matplotlib takes about as long as its share of the
drawing. It reads one request from its standard input, and ends with that: it can't outlive the process that started it.
"""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from jade_model.report.facts import Facts
from jade_model.report.markup import FigureFile

logger = logging.getLogger(__name__)


class DrawingProcess:
    """Draws once; a context that leaves no process."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", "from jade_model.report.beside import main; main()"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="drawing")

    def draw(self, facts: Facts, names: Sequence[str]) -> Future[dict[str, list[FigureFile]] | None]:
        """Begin to draw.

        Args:
            facts: Of the report.
            names: Of drawers, see `figures.DRAWERS`.

        Returns:
            Figures by drawer; None if the process died, which the log tells.
        """
        return self._thread.submit(self._drawn, pickle.dumps((facts, tuple(names))))

    def _drawn(self, request: bytes) -> dict[str, list[FigureFile]] | None:
        answer, _ = self._process.communicate(request)
        if self._process.returncode:
            logger.warning("the process that draws figures ended with %d: drawing here", self._process.returncode)
            return None
        found: dict[str, list[FigureFile]] = pickle.loads(answer)  # noqa: S301 - from a process of our own
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Whatever was asked of it has been fetched by now, or is not wanted any more.
        self._process.kill()
        self._thread.shutdown()
        with self._process:  # closes its pipes and waits
            pass


def main() -> None:
    """Draw what standard input asks for."""
    from jade_model.report.figures import draw_some

    request = sys.stdin.buffer.read()
    if request:
        facts, names = pickle.loads(request)  # noqa: S301 - from the process that started this one
        sys.stdout.buffer.write(pickle.dumps(draw_some(facts, names)))
