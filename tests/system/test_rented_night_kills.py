"""SIGKILL of flow and worker together, wherever a rented night may be; the reaper, or the same run, comes after it.

A night is played once undisturbed, to learn its steps and its figures; then once for each moment, where whoever gets
there is held until it is killed. tests/system/test_rental_kills.py does the same without Prefect, in CI.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
from helpers.command_line import figures
from helpers.deployments import ENDED
from helpers.processes import wait_until
from helpers.servers import PrefectServer

from jade_model.core.job import load_job
from tasks.provisioning.ledger import Ledger
from tests.fakes.runpod_server import FakePod, Fault, Kind, RunPodServer, running_runpod
from tests.fakes.sshd import SSHD
from tests.helpers.rented_site import NIGHTLY, Site, of_runpod, processes_for, rented_site
from tests.helpers.waiting_trainer import watched_python

pytestmark = [pytest.mark.slow_system, pytest.mark.skipif(SSHD is None, reason="no sshd here")]

HELD_NIGHT = "tests/programs/held_night.py:compare"
# Two trainings, each with one checkpoint, after its tenth epoch.
NIGHT: dict[str, Any] = {"epochs": 12, "folds": 1}
STEPS = [
    "- requested",
    "requested provisioning",
    "provisioning ready",
    "ready busy",
    "busy terminating",
    "terminating terminated",
]
ORPHAN_GRACE_S, REAP_EVERY_S = 900.0, 600.0
GRACE_OVER_S = 20 * 60.0
LONG_S = 3600.0

After = tuple[Literal["the reaper", "the same run"], ...]
REAPER: After = ("the reaper",)
AGAIN: After = ("the same run",)


@dataclass
class Moment:
    """A moment of a night, and what comes after the kill.

    Attributes:
        title: For people.
        after: Who comes, in this order; once every grace is over, the reaper comes in any case.
        hold: Holds whoever gets there.
        is_held: Whether somebody is there.
        let_go: Called once whoever was there is dead.
        is_late: Whether that does what the provider was asked for; then it waits until the others have come.
    """

    title: str
    after: After
    hold: Callable[[], object]
    is_held: Callable[[], bool]
    let_go: Callable[[], object] = lambda: None
    is_late: bool = False


@dataclass
class Walk:
    """All kills of one site.

    Attributes:
        site: Where nights are played.
        server: That lends.
        nights: How many were begun; each has its own artifacts, so that none takes over what another has trained.
        figures: Of the undisturbed one.
        steps: That it took.
        told: A line for each kill.
    """

    site: Site
    server: RunPodServer
    nights: int = 0
    figures: Any = None
    steps: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    @property
    def artifacts(self) -> Path:
        return self.site.folder / f"artifacts-{self.nights}"

    # Moments.

    def at_step(self, step: str, side: str, after: After) -> Moment:
        """Just before, or just after, a step of the ledger is durable."""
        wanted, held = self.site.folder / "hold", self.site.folder / "hold.held"

        def let_go() -> None:
            wanted.unlink()
            held.unlink()

        return Moment(
            f"{side} {step.replace(' ', ' -> ')}",
            after,
            lambda: wanted.write_text(f"{step} {side}"),
            held.exists,
            let_go,
        )

    def at_request(self, title: str, kind: Kind, method: str, after: After) -> Moment:
        """While the provider keeps its answer back; if it is `late`, what it was asked for as well."""
        fault = Fault(kind, method, where="/v2/pods", seconds=LONG_S)

        def let_go() -> None:
            fault.is_due.set()
            assert kind != "late" or fault.is_done.wait(60)

        return Moment(
            title,
            after,
            lambda: self.server.faults.append(fault),
            lambda: fault.times == 0,
            let_go,
            is_late=kind == "late",
        )

    def at_session(self, title: str, text: str, after: After) -> Moment:
        """While a machine is about to do what it was told over SSH."""

        def is_held() -> bool:
            return any(pod.machine is not None and pod.machine.is_holding for pod in self.server.costing)

        return Moment(
            title,
            after,
            lambda: setattr(self.server, "hold_at", text),
            is_held,
            lambda: setattr(self.server, "hold_at", ""),
        )

    def at_checkpoint(self, after: After) -> Moment:
        """Once a checkpoint is published, of a training that goes on as soon as who followed it is dead."""
        wait = self.site.folder / "wait"
        return Moment(
            "training, a checkpoint published", after, wait.touch, lambda: bool(self.published()), wait.unlink
        )

    def moments(self, step: str) -> list[Moment]:
        """Both sides of a step and what comes until the next: each state meets the reaper, and the same run."""
        between: list[Moment] = []
        if step == "- requested":
            between = [
                self.at_request("asked for, not made yet", "late", "POST", REAPER),
                self.at_request("made, no answer yet", "stall", "POST", AGAIN),
            ]
        elif step == "ready busy":
            between = [
                self.at_session("windows are uploaded", "folder=.jade/runs/", REAPER),
                self.at_checkpoint((*REAPER, *AGAIN)),
                self.at_checkpoint(AGAIN),
                # Weights, the best ones, log and history: a checkpoint has fewer.
                self.at_session("results are collected", "send files (4)", REAPER),
                self.at_session("results are collected", "send files (4)", AGAIN),
            ]
        elif step == "busy terminating":
            between = [
                self.at_request("its end asked for, not begun yet", "late", "DELETE", REAPER),
                self.at_request("ended, no answer yet", "stall", "DELETE", AGAIN),
            ]
        return [self.at_step(step, "before", REAPER), self.at_step(step, "after", AGAIN), *between]

    # What is known of a night.

    def ledger(self) -> Ledger:
        return Ledger(f"sqlite:///{self.site.folder / 'state' / 'ledger.db'}")

    def events(self) -> list[dict[str, Any]]:
        """What trainings told on whatever machine, in order."""
        path = self.site.folder / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def published(self) -> dict[tuple[str, int], int]:
        """Up to which epoch trainings are published, by arm and fold."""
        found = {}
        index = self.artifacts / ".trainings"
        for path in self.artifacts.glob("*/job.json"):
            for training in load_job(path).trainings:
                for entry in (index / f"{training.run_key}.unfinished", index / training.run_key):
                    if entry.is_file():
                        manifest = self.artifacts / entry.read_text().strip() / "manifest.json"
                        found[training.arm, training.fold] = int(json.loads(manifest.read_text())["epoch"])
        return found

    def left_by(self, run: str) -> list[FakePod]:
        """The pods that cost, and that a flow run has asked for."""
        with closing(self.ledger()) as ledger:
            names = {rental.name for rental in ledger.entries() if rental.flow_run_id == run}
        return [pod for pod in self.server.costing if pod.name in names]

    # Nights.

    def start(self) -> str:
        return self.site.start(artifacts=str(self.artifacts), **NIGHT)

    def complete(self, run: str) -> Any:
        """Wait for the end of a night; return its figures."""
        self.site.deployments.completed(run)
        (found,) = self.artifacts.glob("*/comparison.json")
        return figures(json.loads(found.read_text()))

    def play_undisturbed(self) -> None:
        """Learn figures and steps."""
        self.figures = self.complete(self.start())
        with closing(self.ledger()) as ledger:
            (rental,) = ledger.entries()
            self.steps = [f"{old} {new}" for old, new in pairwise(["-", *ledger.history(rental.request_id)])]

    def kill_at(self, moment: Moment) -> None:
        """Play a night up to a moment, kill flow and worker, let others come, and see that all is as it should be."""
        site, deployments = self.site, self.site.deployments
        self.nights += 1
        moment.hold()
        run = self.start()

        def is_held() -> bool:
            assert deployments.run(run)["state_type"] not in ENDED, deployments.told(run)
            return moment.is_held()

        wait_until(is_held, 300, lambda: f"{moment.title}\n{deployments.told(run)}")
        published, seen = self.published(), len(self.events())
        site.kill_worker()
        site.kill_flow(run)
        since, num_left = time.monotonic(), len(self.left_by(run))
        released_s: float | None = None
        passed_s = 0.0

        def look() -> bool:
            """Note when nothing that the killed run has asked for costs any more."""
            nonlocal released_s
            if self.left_by(run):
                released_s = None
            elif released_s is None:
                released_s = time.monotonic() - since + passed_s
            return True

        def reap_when_grace_is_over() -> None:
            nonlocal passed_s
            site.let_time_pass(GRACE_OVER_S)
            passed_s += GRACE_OVER_S
            site.jade("reap")
            look()

        def begin_again() -> None:
            again = self.start()
            wait_until(lambda: look() and deployments.run(again)["state_type"] in ENDED, 400)
            assert self.complete(again) == self.figures, moment.title

        look()
        if not moment.is_late:
            moment.let_go()
        site.declare_over(run)
        site.start_worker()
        for who in moment.after:
            if who == "the reaper":
                site.jade("reap")
                look()
                reap_when_grace_is_over()
            else:
                begin_again()
        if moment.is_late:
            moment.let_go()
            look()
            if released_s is None:
                # It was made only now: what it costs is counted from here.
                since, passed_s = time.monotonic(), 0.0
        if moment.is_late or moment.after == AGAIN:
            reap_when_grace_is_over()
        assert released_s is not None, moment.title
        self.told.append(f"{moment.title:34}{' and '.join(moment.after):29}{num_left:4}{released_s:10.1f}")
        print(self.told[-1], f"{time.monotonic() - since:5.1f} s", flush=True)
        # What was published is trained again nowhere.
        again = [
            event
            for event in self.events()[seen:]
            if event["event"] == "epoch" and event["epoch"] <= published.get((event["arm"], event["fold"]), 0)
        ]
        assert not again, (moment.title, published, again)
        assert released_s < ORPHAN_GRACE_S + 2 * REAP_EVERY_S
        self.check_that_nothing_is_left(moment.title)

    def check_that_nothing_is_left(self, title: str) -> None:
        site, server = self.site, self.server
        assert server.costing == [], title
        assert site.provider.is_tidy(), (title, server.violations, server.touched_others)
        with closing(self.ledger()) as ledger:
            assert not ledger.entries(only_open=True), title
        marks = (str(server.machines), *site.started)
        wait_until(lambda: not processes_for(*marks), 60, lambda: f"{title}: {processes_for(*marks)}")
        assert not list((site.folder / "state" / "rentals").glob("*")), f"{title}: keys are left"


@pytest.fixture(scope="module")
def walk(deployed: PrefectServer, small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    folder = tmp_path_factory.mktemp("walk")
    environment = {"JADE_TEST_HOLD": str(folder / "hold"), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    with (
        running_runpod(folder / "machines") as server,
        rented_site(deployed, of_runpod(server), small_file, folder, **environment) as site,
    ):
        site.train_with(watched_python(folder / "watched-python", folder))
        entrypoint = site.deployments.find(NIGHTLY)["entrypoint"]
        site.deployments.change(NIGHTLY, entrypoint=HELD_NIGHT)
        found = Walk(site, server)
        try:
            found.play_undisturbed()
            yield found
        finally:
            site.deployments.change(NIGHTLY, entrypoint=entrypoint)
            print("\nkilled                            after it                     left   seconds to release")
            print(*found.told, sep="\n")


def test_an_undisturbed_night_takes_the_steps_at_which_it_is_killed(walk: Walk) -> None:
    assert walk.steps == STEPS


@pytest.mark.parametrize("step", STEPS)
def test_wherever_flow_and_worker_are_killed_nothing_is_left_and_the_same_run_completes(walk: Walk, step: str) -> None:
    for moment in walk.moments(step):
        walk.kill_at(moment)
