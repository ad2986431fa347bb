"""Lines that are no events: every one to the terminal, bounded records with the count of the rest to a slow log."""

from __future__ import annotations

import errno

import pytest

from tasks.artifacts.training_cache import say
from tasks.execution.progress import RECORD_LINE_CHARACTERS, RECORD_LINES, SaidLines


def test_the_terminal_gets_every_line_once() -> None:
    said = SaidLines()
    expected = [f"line {number}" for number in range(100_000)]
    shown = ""
    for number, line in enumerate(expected):
        said.add(line)
        if number % 777 == 0:
            shown += said.take_for_terminal()
    shown += said.take_for_terminal()
    assert shown.splitlines() == expected
    assert said.take_for_terminal() == ""


def test_a_slow_log_gets_the_newest_and_the_number_of_the_others() -> None:
    said = SaidLines()
    assert said.take_for_log() == ""
    for number in range(RECORD_LINES + 3):
        said.add(f"line {number}")
    first, *rest = said.take_for_log().splitlines()
    assert first == "(3 lines left out here; the run's log file has them all)"
    assert rest == [f"line {number}" for number in range(3, RECORD_LINES + 3)]
    said.add("one more")
    assert said.take_for_log() == "one more"
    assert said.take_for_log() == ""


def test_a_record_is_bounded_whatever_a_line_is() -> None:
    said = SaidLines()
    said.add("x" * 10**6)
    assert len(said.take_for_log()) == RECORD_LINE_CHARACTERS
    assert len(said.take_for_terminal()) == 10**6 + 1


def test_a_terminal_that_has_gone_stops_nobody_who_tells_something(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, _: str) -> None:
            raise BrokenPipeError(errno.EPIPE, "nobody reads it")

    monkeypatch.setattr("sys.stderr", Gone())
    say("a machine is freed")
    monkeypatch.setattr("sys.stderr", None)
    say("a machine is freed")
