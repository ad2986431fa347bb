"""What a run says is kept by line, with run and arm, and without secrets."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest
from prefect.logging.handlers import PrefectConsoleHandler

from tasks.operations.flow_runs import LOGGERS
from tasks.runs.log import MASK, logged_to, mask


def test_lines_name_run_task_and_arm(tmp_path: Path) -> None:
    task = logging.getLogger(LOGGERS[1])
    with logged_to(tmp_path, "run-1"):
        logging.getLogger(LOGGERS[0]).warning("begun")
        task.warning("fold %d: done", 2, extra={"task_run_name": "train-soft-span-seed3"})
    task.warning("after the run")
    first, second = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert (first["run"], first["message"], first["level"]) == ("run-1", "begun", "warning")
    assert (second["arm"], second["seed"], second["message"]) == ("soft_span", 3, "fold 2: done")


def test_secrets_are_masked_for_every_listener(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_0123456789")
    with logged_to(tmp_path, "run-1"):
        logger = logging.getLogger(LOGGERS[0])
        logger.propagate, before = True, logger.propagate
        logger.warning("asked with %s", "rpa_0123456789")
        logger.propagate = before
    assert "rpa_" not in (tmp_path / "log.jsonl").read_text()
    assert "rpa_" not in caplog.text


def test_passwords_in_addresses_are_masked() -> None:
    assert mask("postgresql://jade:pa55@db:5432/x failed") == f"postgresql://{MASK}@db:5432/x failed"
    assert mask("http://127.0.0.1:4200/api") == "http://127.0.0.1:4200/api"


def test_a_run_goes_on_when_the_reader_of_its_output_is_gone(tmp_path: Path) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    handler = PrefectConsoleHandler(stream=Closed())
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with logged_to(tmp_path, "run-1"):
            for said in ("first", "second"):
                logging.getLogger(LOGGERS[0]).warning(said)
    finally:
        root.removeHandler(handler)
    assert [json.loads(line)["message"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [
        "first",
        "second",
    ]
