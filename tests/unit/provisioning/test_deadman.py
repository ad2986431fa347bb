"""The switch of a rented machine: it ends it when nobody is heard of, or its time is up, and not before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.provisioning import deadman
from tests.fakes.local_host import LocalHost
from tests.helpers.processes import wait_until

REQUEST = "0123456789abcdef"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[LocalHost]:
    host = LocalHost(tmp_path, name="machine")
    yield host
    host.run(f"read -r pid rest < jade/deadman/{REQUEST}/watcher && kill -KILL -$pid", timeout_s=60, check=False)


def arm(host: LocalHost, *, max_age_s: float = 600, grace_s: float = 600) -> deadman.Switch:
    end = 'echo "ended" >> ../../../ended'
    return deadman.arm(host, "jade", "jade/jobs", REQUEST, end=end, max_age_s=max_age_s, grace_s=grace_s)


def test_armed_twice_is_armed_once_and_a_beat_says_so(host: LocalHost, tmp_path: Path) -> None:
    assert deadman.beat(host, "jade", REQUEST) is deadman.Switch.MISSING
    assert arm(host) is deadman.Switch.ARMED
    watcher = (tmp_path / "jade" / "deadman" / REQUEST / "watcher").read_text()
    assert arm(host) is deadman.Switch.ARMED
    assert (tmp_path / "jade" / "deadman" / REQUEST / "watcher").read_text() == watcher
    assert deadman.beat(host, "jade", REQUEST) is deadman.Switch.ARMED


def test_silence_stops_the_job_and_ends_the_machine(host: LocalHost, tmp_path: Path) -> None:
    attempt = tmp_path / "jade" / "jobs" / "key" / "attempt-1"
    attempt.mkdir(parents=True)
    arm(host, grace_s=2)
    wait_until((tmp_path / "ended").exists)
    assert (attempt / "stop").exists()
    assert deadman.beat(host, "jade", REQUEST) is deadman.Switch.ENDING


def test_age_ends_the_machine_whoever_is_heard_of(host: LocalHost, tmp_path: Path) -> None:
    arm(host, max_age_s=3, grace_s=20)
    wait_until((tmp_path / "ended").exists)
    assert (tmp_path / "jade" / "deadman" / REQUEST / "ending").read_text().strip() == "age"
