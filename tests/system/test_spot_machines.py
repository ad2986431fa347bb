"""A spot machine of EC2 that is announced to be taken away, and one that is attached to from another address."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.processes import wait_until

from jade_model.core.windows import Windows
from jade_model.core.worker import files_of
from tasks.artifacts.repository import open_place
from tasks.artifacts.training_cache import KeptTrainings, Mirror
from tasks.core.layout import RunLayout
from tasks.execution.base import Event
from tasks.execution.bundle import job_key
from tasks.execution.fetching import local_epoch, remote_epoch
from tasks.execution.fleet import FleetExecutor
from tasks.execution.placement import Where
from tasks.execution.rented_lanes import RentedLane
from tasks.execution.run import TrainingRun
from tasks.experiments.plan import Plan, write_job
from tasks.hosts.host import RemotePlace
from tasks.provisioning.connect import Provider
from tasks.provisioning.keys import open_rented
from tasks.provisioning.ledger import Ledger
from tasks.provisioning.offers import RentalRequest
from tasks.provisioning.provisioner import Timing
from tasks.provisioning.renter import Renter
from tests.fakes.ec2_world import Ec2World, ec2_world
from tests.fakes.sshd import SSHD
from tests.helpers.rentals import renter_of
from tests.helpers.waiting_trainer import waiting_python

pytestmark = [
    pytest.mark.system,
    pytest.mark.xdist_group("ec2"),
    pytest.mark.skipif(SSHD is None, reason="no sshd here"),
]
PLAN = Plan({"soft_span": "seed_soft_span"}, 5_000, seeds=1, folds=1, split="grouped", ensemble=1)
REQUEST = RentalRequest(gpu=("NVIDIA T4",), max_hours=1.0)
PLACE = RemotePlace(".jade", sys.executable, 3600, "ec2")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Ec2World]:
    with ec2_world(tmp_path / "machines", release_s=60.0) as found:
        yield found
        assert (found.costing(), found.groups()) == (0, [])
        assert found.others_untouched()


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunLayout:
    """A run's folder, with a state folder beside it; what a provider announces is soon noticed."""
    monkeypatch.setenv("JADE_STATE_DIR", str(tmp_path / "state"))
    found = RunLayout(tmp_path / "a" / "run")
    found.root.mkdir(parents=True)
    return found


def renter(
    world: Ec2World,
    ledger: Ledger,
    folder: Path,
    notes: list[str],
    *,
    spot: bool,
    place: RemotePlace = PLACE,
    **settings: str,
) -> Renter:
    provisioner = world.connect(release_s=60.0, **settings)
    timing = Timing(start_limit_s=120.0, look_s=0.1, notice_s=0.2)
    lender = Provider(provisioner, open_rented, lambda _: place, timing, admit=provisioner.admit)
    request = REQUEST.model_copy(update={"spot": spot})
    return renter_of(ledger, None, folder, notes, request=request, lender=lender)  # type: ignore[arg-type]


def starts(layout: RunLayout) -> list[dict[str, Any]]:
    """What was said of each start of a training."""
    lines = layout.remote_log.read_text().splitlines() if layout.remote_log.exists() else []
    events = [json.loads(line) for line in lines if line.startswith("{")]
    return [event for event in events if event["event"] == "training_started"]


def test_an_announced_end_brings_the_newest_checkpoint_here_and_the_run_goes_on_elsewhere_before_it_comes(
    world: Ec2World, ledger: Ledger, layout: RunLayout, small_windows: Windows, tmp_path: Path
) -> None:
    notes: list[str] = []
    job = write_job(layout, [small_windows], PLAN)
    (training,) = job.trainings
    published = KeptTrainings(open_place(tmp_path / "a"))
    mirror = Mirror(published, layout, notes.append)
    one = renter(world, ledger, tmp_path, notes, spot=True)
    lane = RentedLane("ec2-1", one, layout.root, Where(workers=1))
    going_on = TrainingRun(job, layout, FleetExecutor(layout.root, job, [lane], note=notes.append), mirror)
    going_on.start()
    try:
        wait_until(lambda: local_epoch(layout.root, training) > 0, 200, lambda: "\n".join(notes))
        # The next one would be brought after half a minute.
        brought, remote = local_epoch(layout.root, training), PLACE.run(job_key(job.trainings))
        host = lane.lease
        assert host is not None
        first = host.entry.machine
        wait_until(lambda: remote_epoch(host, remote, training) > brought, 100)
        seen = remote_epoch(host, remote, training)
        world.server.announce(first)
        wait_until(lambda: len(starts(layout)) == 2, 300, lambda: "\n".join(notes))
        (second,) = world.server.costing
        assert second.id != first
    finally:
        going_on.stop()
    mirror.close()
    _, resumed = starts(layout)
    assert resumed["first_epoch"] > seen
    assert published.take_over(training, RunLayout(tmp_path / "another"))
    assert json.loads(files_of(training, tmp_path / "another").manifest.read_text())["epoch"] >= seen
    assert any("it is about to be taken away" in note for note in notes)
    states = {rental.instance_id: rental for rental in ledger.entries()}
    assert "about to be taken away" in states[first].reason


def test_a_sweep_leaves_a_machine_that_is_announced_to_end_and_goes_on_on_another(
    world: Ec2World, ledger: Ledger, layout: RunLayout, small_windows: Windows, tmp_path: Path
) -> None:
    notes: list[str] = []
    job = write_job(layout, [small_windows], dataclasses.replace(PLAN, epochs=12, seeds=2, folds=3))
    python = waiting_python(tmp_path / "waiting-python", unit_s=2.0)
    place = dataclasses.replace(PLACE, python=str(python))
    one = renter(world, ledger, tmp_path, notes, spot=True, place=place)
    lane = RentedLane("ec2-1", one, layout.root, Where(workers=1))
    executor, outcomes, announced = FleetExecutor(layout.root, job, [lane], note=notes.append), list[Event](), ""
    try:
        for event in executor.run(job.trainings):
            if event.kind not in {"done", "failed"}:
                continue
            outcomes.append(event)
            if not announced:
                (machine,) = world.server.costing
                announced = machine.id
                world.server.announce(announced)
    finally:
        executor.stop()
    assert sorted(item.run_key for item in outcomes) == sorted(item.run_key for item in job.trainings)
    assert all(item.kind == "done" for item in outcomes), outcomes
    assert [rental.instance_id for rental in ledger.entries()].count(announced) == 1
    assert len(ledger.entries()) == 2
    assert any("about to be taken away" in note and note.startswith("ec2-1: ") for note in notes), notes


def test_whoever_attaches_from_another_address_is_admitted_first(
    world: Ec2World, ledger: Ledger, tmp_path: Path
) -> None:
    notes: list[str] = []
    first = renter(world, ledger, tmp_path, notes, spot=False).rent()
    first.close()
    ledger.let_go(first.entry.request_id, first.entry.claim)
    later = renter(world, ledger, tmp_path, notes, spot=False, admit="203.0.113.9")
    attached = later.attach()
    assert attached is not None
    assert attached.entry.instance_id == first.entry.instance_id
    group = world.ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [first.entry.name]}])
    admitted = {each["CidrIp"] for rule in group["SecurityGroups"][0]["IpPermissions"] for each in rule["IpRanges"]}
    assert admitted == {"127.0.0.1/32", "203.0.113.9/32"}
    attached.close()
    assert later.release(attached.entry, "done")
