"""One flow of the fault soak, as a process of its own: what every flow goes through, without Prefect."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import tasks.execution.remote
from jade_model.data.sample import sample_windows
from tasks.artifacts.repository import open_place
from tasks.artifacts.training_cache import KeptTrainings
from tasks.execution.placement import Placement
from tasks.execution.run import trainings_of
from tasks.experiments.plan import Plan, write_job
from tasks.runs.record import recorded_run
from tests.soak.cheap_trainer import EPOCHS

PLAN = Plan({"soft_span": "seed_soft_span"}, EPOCHS, seeds=1, folds=2, split="grouped", ensemble=1)


def run_flow(environment: dict[str, str], address: str, log: str) -> None:
    """Train on the host `soak` and keep the run at an address; ends with exit code 1 if that fails."""
    os.environ.update(environment)
    with Path(log).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # What is minutes in a long training is moments here; and the stand-in's host needs no torch.
    tasks.execution.remote.MIRROR_EVERY_S = 0.0
    tasks.execution.remote.POLL_S = 0.1
    tasks.execution.remote.check_ready = lambda host, place, **_: None  # type: ignore[assignment]
    KeptTrainings.every_s = 0.3
    with recorded_run(open_place(address), "train", {"soak": True}, host="soak") as run:
        write_job(run.layout, [sample_windows(num_bases=20)], PLAN)
        with trainings_of(run, Placement(host="soak", device="cpu", workers=1)) as training:
            training.start()
            training.progress.wait_for_end()
            training.raise_if_failed()
    sys.stdout.flush()
