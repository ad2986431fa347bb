"""The page of a run that trains: what is done and left, where, at what cost; and that it disturbs nobody."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from jade_model.core.job import Training
from jade_model.core.windows import Windows
from tasks.core.layout import RunLayout
from tasks.execution import run_page
from tasks.execution.base import Event, done, failed
from tasks.execution.placement import Placement
from tasks.execution.progress import RunProgress
from tasks.execution.run_page import RunPage, sparkline
from tasks.experiments.plan import Plan, write_job

PLAN = Plan({"a": "seed_soft_span", "b": "seed_crf"}, 10, seeds=1, folds=3, split="grouped", ensemble=1)
START = datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()


class Clock:
    """Seconds since 1970, as the test says."""

    now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def trainings(small_windows: Windows, tmp_path: Path) -> tuple[Training, ...]:
    job = write_job(RunLayout(tmp_path), [small_windows], PLAN)
    return tuple(sorted(job.trainings, key=lambda item: item.arm))


def rows(page: RunPage) -> dict[str, list[str]]:
    """Cells of each row of the page's tables, by the first."""
    lines = [line.strip("| ").split(" | ") for line in page.markdown().splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def epoch(training: Training, number: int) -> Event:
    data = {"epoch": number, "train_loss": 5.0 - number, "validation_loss": 6.0 - number, "validation_f1": number / 10}
    return Event("epoch", training.run_key, "gpu1", data)


def test_the_page_counts_trainings_by_arm_and_guesses_the_time_left(
    trainings: tuple[Training, ...], tmp_path: Path, clock: Clock
) -> None:
    page = RunPage(tmp_path, Placement(host=("gpu1",), device="cuda"), now=clock)
    assert rows(page)["trainings"] == ["none begun yet"]
    page.progress = RunProgress()
    page.progress.expect(trainings, lambda item: item.arm)
    (first, second, third), (fourth, *_) = trainings[:3], trainings[3:]
    page.progress.take(done(first.run_key, "gpu1", 0.0))  # kept from an earlier run: says nothing of the pace
    assert rows(page)["time left"] == ["not known yet"]
    clock.now += 100
    for event in (epoch(second, 1), epoch(second, 2), epoch(fourth, 1), epoch(fourth, 2)):
        page.progress.take(event)
    page.progress.take(Event("line", "", "gpu1", {"text": None, "shown": None, "gpu": "NVIDIA L4"}))
    page.progress.take(failed(third.run_key, "gpu1", "diverged"))
    found = rows(page)
    assert found["trainings"] == ["1 done, 2 under way, 2 left, 1 given up, of 6"]
    assert found["epochs"] == ["14 of 60 (23 %)"]
    assert found["elapsed"] == ["100.0 s"]
    assert found["time left"] == ["about 15 min 0 s of training at the pace so far"]
    assert found["trains on"] == ["gpu1 (cuda) · gpu1 (NVIDIA L4): 2 under way"]
    assert found["folder"] == [f"`{tmp_path}`"]
    assert found[trainings[0].arm] == ["1 of 3", "1", "12 of 30", "3.0000 █▁", "4.0000 █▁", "0.2000 ▁█"]
    assert found[fourth.arm] == ["0 of 3", "1", "2 of 30", "3.0000 █▁", "4.0000 █▁", "0.2000 ▁█"]
    assert "machines" not in found


def test_what_is_rented_costs_on_between_two_entries_of_the_record(tmp_path: Path, clock: Clock) -> None:
    def machine(title: str, *, is_there: bool) -> dict[str, Any]:
        told = {"title": title, "spot": True, "price_usd_per_hour": 0.5, "hours": 1.0, "cost_usd": 0.5}
        at = datetime.fromtimestamp(START - 3600, UTC).isoformat()
        return told | {"rented_at": at, "ended_at": None if is_there else at}

    machines = [machine("old", is_there=False), machine("A|40", is_there=True)]
    (tmp_path / "rental.json").write_text(json.dumps({"machines": machines, "replaced": 1}))
    clock.now += 1800
    found = rows(RunPage(tmp_path, Placement(host=("runpod",)), now=clock))
    assert found["machines"] == [r"A\|40 (spot) at 0.50 USD/h · 2 so far, 1 replaced"]
    assert found["cost so far"] == ["1.25 USD"]


def test_a_page_that_cannot_be_made_or_shown_ends_nothing_and_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "rental.json").write_text("{}")
    monkeypatch.setattr(run_page, "show_markdown", lambda *_: pytest.fail("nothing to show"))
    page = RunPage(tmp_path, Placement())
    with page.kept():
        pass
    assert "the run's page was not brought up to date: KeyError" in caplog.text


def test_the_page_is_shown_again_and_again_and_once_more_when_all_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    is_shown_again = threading.Event()

    def show(key: str, text: str, _: str) -> None:
        shown.append(f"{key}\n{text}")
        if len(shown) == 3:
            is_shown_again.set()

    monkeypatch.setattr(run_page, "show_markdown", show)
    with RunPage(tmp_path, Placement()).kept(every_s=0.01):
        assert is_shown_again.wait(60)
    assert all(text.startswith("run\n") for text in shown)
    assert "time left" in shown[0]
    assert "time left" not in shown[-1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], ""), ([2.0], "2.0000 ▁"), ([1.0, 1.0], "1.0000 ▁▁"), ([3.0, 2.0, 1.0], "1.0000 █▅▁")],
)
def test_a_sparkline_begins_with_the_newest_value(values: list[float], expected: str) -> None:
    assert sparkline(values) == expected
    assert len(sparkline([float(number) for number in range(1000)])) == len("999.0000 ") + 8
