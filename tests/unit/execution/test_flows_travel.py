"""What Prefect sends along with a task that runs elsewhere: the flow by value, and nothing that lives here."""

from __future__ import annotations

import threading
from typing import Any

import cloudpickle
import pytest

import tasks.execution.prefect_tasks
import tasks.experiments.sweep_tasks
from flows.compare import compare
from flows.retrain import retrain
from flows.sweep import sweep


@pytest.mark.parametrize("flow", [compare, retrain, sweep], ids=lambda flow: flow.name)
def test_a_flow_is_sent_without_the_jobs_and_sweeps_that_it_follows(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = len(cloudpickle.dumps(flow))
    # Neither can be pickled, as a job with its threads cannot, nor may it be.
    monkeypatch.setitem(tasks.execution.prefect_tasks._followed, "run", threading.RLock())
    monkeypatch.setitem(tasks.experiments.sweep_tasks._open, "run", threading.RLock())
    assert len(cloudpickle.dumps(flow)) == alone
