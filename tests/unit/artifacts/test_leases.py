"""Who trains what: claims hold as long as their run lives, and are taken over only from the dead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.artifacts import leases
from tasks.artifacts.backend import Record, Records
from tasks.artifacts.errors import StoreUnavailable
from tasks.artifacts.leases import Heartbeat, claim, release, running, sweep
from tasks.artifacts.local import LocalBackend
from tasks.core.errors import LeaseLost
from tests.helpers.processes import wait_until

KEY = "ab" * 32


class Cuttable(Records):
    """Records that do not answer while `is_cut`, and that only who holds `asleep` can write."""

    is_cut, num_cuts = False, 0
    cut: Exception = StoreUnavailable("the artifacts", "writing", "the cable is out")

    def __init__(self, backend: LocalBackend) -> None:
        super().__init__(backend)
        self.asleep = threading.RLock()

    def write(self, name: str, content: bytes, *, replaces: str | None) -> str:
        if self.is_cut:
            self.num_cuts += 1
            raise self.cut
        with self.asleep:
            return super().write(name, content, replaces=replaces)


@pytest.fixture
def records(tmp_path: Path) -> Cuttable:
    return Cuttable(LocalBackend(tmp_path))


@pytest.fixture
def beating(records: Records) -> Iterator[Heartbeat]:
    heartbeat = Heartbeat(records, "first")
    heartbeat.start()
    yield heartbeat
    heartbeat.stop()


def age(tmp_path: Path, run_id: str, by_s: float) -> None:
    path = tmp_path / ".store" / "records" / "running" / run_id
    os.utime(path, (path.stat().st_mtime - by_s, path.stat().st_mtime - by_s))


def elsewhere(records: Records, run_id: str) -> None:
    """Let a run look as if its flow were on another machine."""
    found = records.read(f"running/{run_id}")
    assert found is not None
    told = {**json.loads(found.content), "process": None, "machine": "elsewhere"}
    records.write(f"running/{run_id}", json.dumps(told).encode(), replaces=found.version)


def version(records: Records) -> str | None:
    found = records.read("running/first")
    return found and found.version


def test_a_run_key_is_one_living_runs(records: Records, beating: Heartbeat) -> None:
    assert claim(records, "first", KEY) is None
    assert claim(records, "first", KEY) is None
    holder = claim(records, "second", KEY)
    assert holder is not None
    assert holder.run_id == "first"
    assert running(records, "first") == holder


def test_a_claim_ends_with_its_run_or_when_it_is_given_back(records: Records, beating: Heartbeat) -> None:
    assert claim(records, "first", KEY) is None
    release(records, "second", [KEY])
    assert claim(records, "second", KEY) is not None
    release(records, "first", [KEY])
    assert claim(records, "second", KEY) is None
    assert claim(records, "first", KEY) is None  # second has no heartbeat
    beating.stop()
    assert running(records, "first") is None
    assert claim(records, "second", KEY) is None


def test_a_killed_flow_of_this_machine_is_known_to_be_dead_at_once(records: Records, tmp_path: Path) -> None:
    program = f"""
import sys, time
from pathlib import Path
from tasks.artifacts.leases import Heartbeat, claim
from tasks.artifacts.local import LocalBackend
from tasks.artifacts.backend import Records
records = Records(LocalBackend(Path({str(tmp_path)!r})))
Heartbeat(records, "killed").start()
claim(records, "killed", {KEY!r})
print("claimed", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        assert claim(records, "second", KEY) is not None
        process.kill()
        process.wait()
    assert claim(records, "second", KEY) is None


def test_a_run_of_another_machine_is_dead_once_its_beat_is_old_by_the_stores_clock(
    records: Records, tmp_path: Path
) -> None:
    Heartbeat(records, "first").start()
    claim(records, "first", KEY)
    elsewhere(records, "first")
    age(tmp_path, "first", leases.STALE_AFTER_S - 60)
    assert claim(records, "second", KEY) is not None
    age(tmp_path, "first", 120)
    assert claim(records, "second", KEY) is None


def test_an_owner_that_was_only_asleep_learns_that_it_was_taken_for_dead(records: Cuttable, tmp_path: Path) -> None:
    heartbeat = Heartbeat(records, "asleep", beat_every_s=0.02)
    heartbeat.start()
    claim(records, "asleep", KEY)
    lost: list[LeaseLost] = []
    heartbeat.when_lost(lost.append)
    with records.asleep:
        elsewhere(records, "asleep")
        age(tmp_path, "asleep", leases.STALE_AFTER_S + 1)
        assert claim(records, "second", KEY) is None
    wait_until(lambda: bool(lost))
    assert "took it for dead" in str(lost[0])
    assert running(records, "asleep") is None
    late: list[LeaseLost] = []
    heartbeat.when_lost(late.append)
    assert late == lost


@pytest.mark.parametrize("cut", [Cuttable.cut, RuntimeError("no new thread: the cable is out")])
def test_an_owner_that_reaches_nobody_gives_up_by_its_own_clock(
    cut: Exception, records: Cuttable, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.cut = cut
    assert leases.LOST_AFTER_S < leases.STALE_AFTER_S
    monkeypatch.setattr(leases, "LOST_AFTER_S", 0.3)
    heartbeat = Heartbeat(records, "first", beat_every_s=0.05)
    heartbeat.start()
    lost: list[LeaseLost] = []
    heartbeat.when_lost(lost.append)
    records.is_cut = True
    wait_until(lambda: bool(lost))
    assert "the cable is out" in str(lost[0])


def test_a_short_outage_costs_nothing(records: Cuttable) -> None:
    heartbeat = Heartbeat(records, "first", beat_every_s=0.02)
    heartbeat.start()
    lost: list[LeaseLost] = []
    heartbeat.when_lost(lost.append)
    records.is_cut = True
    wait_until(lambda: records.num_cuts > 2)
    records.is_cut = False
    before = version(records)
    wait_until(lambda: version(records) != before)
    assert not lost
    heartbeat.stop()


def test_a_sweep_removes_what_dead_runs_left_and_nothing_else(
    records: Records, beating: Heartbeat, tmp_path: Path
) -> None:
    assert claim(records, "first", "of the living") is None
    dead = Heartbeat(records, "dead")
    dead.start()
    assert claim(records, "dead", "of the dead") is None
    assert claim(records, "dead", "given back") is None
    release(records, "dead", ["given back"])
    elsewhere(records, "dead")
    assert sweep(records, older_than_s=-60) == 1, "the dead one's beat is still fresh: only what was given back goes"
    age(tmp_path, "dead", leases.STALE_AFTER_S + 60)
    assert sweep(records, older_than_s=3600) == 0
    assert sweep(records, older_than_s=-60) == 2
    assert records.names("claims", older_than_s=-60) == ("claims/of the living",)
    assert records.names("running", older_than_s=-60) == ("running/first",)


def test_a_claim_that_is_taken_while_it_is_swept_stays(
    records: Records, beating: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.write(f"claims/{KEY}", b'{"run_id": "gone"}', replaces=None)
    remove = records.remove

    def take_first(name: str, *, version: str | None = None) -> None:
        assert claim(records, "first", KEY) is None
        remove(name, version=version)

    monkeypatch.setattr(records, "remove", take_first)
    assert sweep(records, older_than_s=-60) == 0
    assert claim(records, "second", KEY) is not None


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"run_id": "gone"}', b'{"run_id": "../up"}'])
def test_a_claim_that_names_no_living_run_is_free(records: Records, content: bytes) -> None:
    records.write(f"claims/{KEY}", content, replaces=None)
    assert claim(records, "second", KEY) is None
    found = records.read(f"claims/{KEY}")
    assert isinstance(found, Record)
    assert json.loads(found.content) == {"run_id": "second"}


def test_a_beat_whose_answer_was_lost_is_not_taken_for_another_run(records: Cuttable) -> None:
    heartbeat = Heartbeat(records, "first", beat_every_s=0.02)
    heartbeat.start()
    lost: list[LeaseLost] = []
    heartbeat.when_lost(lost.append)
    write = records.write

    def lose_the_answer(name: str, content: bytes, *, replaces: str | None) -> str:
        write(name, content, replaces=replaces)
        records.write = write  # type: ignore[method-assign]
        raise StoreUnavailable("the artifacts", "writing", "the answer was lost")

    records.write = lose_the_answer  # type: ignore[method-assign]
    wait_until(lambda: records.write == write)
    before = version(records)
    wait_until(lambda: version(records) != before)
    assert not lost
    assert running(records, "first") is not None
    heartbeat.stop()
