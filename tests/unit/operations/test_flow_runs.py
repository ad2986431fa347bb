"""What runs are called, and what is said of their outcome."""

from __future__ import annotations

import inspect
import logging
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.utilities.names import generate_slug

from jade_model.core.errors import ConfigError
from tasks.core.errors import BadRequest
from tasks.experiments.publish import verdict_in_short
from tasks.operations import flow_runs
from tasks.operations.flow_runs import LOGGERS, prefect_run, run_name


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The current run, as Prefect tells of it."""
    run = SimpleNamespace(
        name="aloof-jerboa",
        id="01a2235b-ae7d-76fe-83d8-cf9ba9593f2a",
        parameters={"data": ["/data/btcusd*.parquet"]},
        scheduled_start_time=datetime(2026, 11, 28, 2, 5, tzinfo=UTC),
    )
    monkeypatch.setattr(flow_runs, "flow_run", run)
    return run


def test_a_name_tells_flow_data_time_and_which_run(run: SimpleNamespace) -> None:
    assert run_name("compare") == "compare-btcusd-2026-11-28-0205-3f2a"
    run.parameters = {"data": ["a.parquet", "b.parquet", "c.parquet"]}
    assert run_name("compare") == "compare-a-and-2-2026-11-28-0205-3f2a"
    run.parameters = {"data": ["sample"]}
    assert run_name("sweep") == "sweep-sample-2026-11-28-0205-3f2a"


def test_a_name_that_somebody_gave_stays(run: SimpleNamespace) -> None:
    for name in ("wider spans, 3 seeds", "before-the-merge", "compare-btcusd-2026-11-28-0205-3f2a"):
        run.name = name
        assert run_name("compare") == name


def test_every_name_that_prefect_makes_up_is_replaced(run: SimpleNamespace) -> None:
    for _ in range(200):
        run.name = generate_slug(2)
        assert run_name("compare").startswith("compare-btcusd-"), run.name


def test_prefect_sees_the_parameters_of_the_function_itself() -> None:
    def look(path: str, *, limit: float = 3.0) -> int:
        """Look."""
        return 0

    seen = prefect_run(look)
    parameters = inspect.signature(seen).parameters
    assert {name: item.annotation for name, item in parameters.items()} == {"path": str, "limit": float}
    assert seen.__doc__ == "Look."


VERDICT: dict[str, Any] = {
    "outcome": "winner",
    "first": "crf",
    "second": "single_span",
    "difference": -0.11,
    "confidence_interval": [-0.13, -0.08],
    "margin": 0.03,
    "reason": "only one arm",
}


def test_a_verdict_in_one_line_names_who_leads_and_by_how_much() -> None:
    assert verdict_in_short(VERDICT) == "single_span wins by 0.110 [0.080, 0.130] over crf"
    tied = VERDICT | {"outcome": "equivalent", "difference": 0.01, "confidence_interval": [-0.01, 0.02]}
    expected = "crf and single_span are equally good: crf leads by 0.010 [-0.010, 0.020], within 0.03"
    assert verdict_in_short(tied) == expected
    unsure = tied | {"outcome": "undecided", "confidence_interval": [-0.2, 0.3]}
    assert verdict_in_short(unsure) == "undecided: crf leads single_span by 0.010 [-0.200, 0.300]"
    assert verdict_in_short(VERDICT | {"difference": None}) == "only one arm"


@pytest.mark.parametrize(
    ("error", "level", "has_traceback"),
    [
        (BadRequest("no such host"), "INFO", False),
        (ConfigError("no such recipe"), "INFO", False),
        (ValueError("a defect"), "INFO", True),
        (BadRequest("no such host"), "DEBUG", True),
    ],
)
def test_an_error_of_ours_is_logged_in_its_own_words(
    error: Exception, level: str, has_traceback: bool, caplog: pytest.LogCaptureFixture
) -> None:
    prefect_run(lambda: None)()  # what holds from a process's first run on
    logger = logging.getLogger(LOGGERS[1])
    with caplog.at_level(level, LOGGERS[1]):
        logger.addHandler(caplog.handler)
        logger.error("Encountered exception: %r", error, exc_info=error)
        logger.removeHandler(caplog.handler)
    assert repr(error) in caplog.text
    assert (f"{type(error).__name__}: {error}" in caplog.text) == has_traceback
