"""Renting, over a lender whose machines are real SSH servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tasks.artifacts.leases import RemoteRun, load_records, save_record
from tasks.artifacts.repository import open_place
from tasks.hosts.job import JobSpec, start_job
from tasks.provisioning import deadman
from tasks.provisioning.entries import LeaseState
from tasks.provisioning.ledger import Ledger, Purpose
from tasks.provisioning.reaper import Deed, Reaper
from tasks.provisioning.registry import open_registry
from tasks.runs.active import find_runs, stop_run
from tasks.settings.load import load_settings
from tests.fakes.machines import LocalMachines, lent_machines
from tests.fakes.sshd import SSHD
from tests.helpers.rentals import REQUEST, provider_of, renter_of

pytestmark = [pytest.mark.system, pytest.mark.skipif(SSHD is None, reason="no sshd here")]


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[LocalMachines]:
    with lent_machines(tmp_path / "provider") as lender:
        yield lender


def test_a_machine_is_rented_looked_over_used_and_freed(
    machines: LocalMachines, ledger: Ledger, tmp_path: Path
) -> None:
    notes: list[str] = []
    renter = renter_of(ledger, machines, tmp_path, notes)
    rented = renter.rent()
    assert rented.entry.state is LeaseState.READY
    assert rented.run("echo $HOME", timeout_s=60).text.strip().startswith(str(tmp_path))
    assert deadman.beat(rented, rented.place.folder, rented.entry.request_id) is deadman.Switch.ARMED
    # The key that went in with the request is not the one that counts.
    assert rented.entry.fingerprint != renter.keys(rented.entry).first_fingerprint
    rented.close()
    assert renter.release(rented.entry, "done")
    assert machines.all() == []
    assert ledger.history(rented.entry.request_id) == [
        LeaseState.REQUESTED,
        LeaseState.PROVISIONING,
        LeaseState.READY,
        LeaseState.TERMINATING,
        LeaseState.TERMINATED,
    ]
    assert not renter.keys(rented.entry).exist()
    assert any("0.69 USD/h" in note for note in notes)


def test_the_reaper_frees_what_a_dead_renter_left_and_nothing_else(
    machines: LocalMachines, ledger: Ledger, tmp_path: Path
) -> None:
    rented = renter_of(ledger, machines, tmp_path, []).rent()
    other = renter_of(ledger, machines, tmp_path, [], owner="someoneelse").rent()
    reaper = Reaper(ledger, {"fake": machines}, tmp_path / "keys", ledger.owner)
    assert [item.deed for item in reaper.reap()] == [Deed.LEFT]
    ledger.let_go(rented.entry.request_id, rented.entry.claim)
    assert [item.deed for item in reaper.reap()] == [Deed.FREED]
    assert [item.instance_id for item in machines.all()] == [other.entry.instance_id]
    rented.close()
    other.close()


def test_what_trains_on_a_rented_machine_is_shown_and_stopped_by_whoever_has_its_key(
    machines: LocalMachines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JADE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("JADE_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setattr("tasks.provisioning.registry.FACTORIES", {"fake": lambda settings: provider_of(machines)})
    settings, place = load_settings(), open_place(tmp_path / "artifacts")
    with closing(open_registry(settings)) as registry:
        rented = registry.renter("fake", REQUEST, Purpose("run-1", "", ("k" * 64,)), note=lambda _: None).rent()
        # What a flow leaves that is killed while it trains.
        start_job(rented, rented.place.jobs, JobSpec("ab" * 20, ("sleep", "3600"), ".", 3600, stop_grace_s=1))
        save_record(RemoteRun(rented.name, "ab" * 20, "run-1", "/runs/x", 1, "2026-01-01T00:00:00+00:00"))
        rented.close()
        ((shown,), problems) = find_runs(settings, place)
        assert (shown.host, shown.run_id, shown.state, problems) == (rented.name, "run-1", "running", [])
        assert [stopped.state for stopped in stop_run(settings, place, "run-1")] == ["stopped"]
        ((left,), _) = find_runs(settings, place)
        assert (left.state, left.rental is not None) == ("stopped", True)
        save_record(RemoteRun(rented.name, "ab" * 20, "run-1", "/runs/x", 1, "2026-01-01T00:00:00+00:00"))
        keys = registry.keys_folder.rename(tmp_path / "away")
        ((elsewhere,), _) = find_runs(settings, place)
        assert (elsewhere.state, elsewhere.problem) == ("unreachable", "its key lies on the machine that rented it")
        keys.rename(registry.keys_folder)
        registry.ledger.let_go(rented.entry.request_id, rented.entry.claim)
        assert registry.reaper(None).reap()[0].deed is Deed.FREED
    assert find_runs(settings, place) == ([], [])
    assert load_records() == []
