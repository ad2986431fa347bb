"""Lets everything happen that somebody may be told of, by our own functions, by flows and by what is left undone.

It goes on until it is killed.

PYTHONPATH=.:tests python tests/programs/occasions.py FOLDER
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from helpers.rentals import REQUEST, renter_of
from prefect import flow, tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.states import Scheduled

from jade_model.statistics.trend import Band, Regression
from tasks.artifacts.repository import open_place
from tasks.artifacts.transfer import publish_run
from tasks.experiments.promote import roll_back_champion, settle
from tasks.experiments.trend import tell_regressions
from tasks.operations.events import events_delivered
from tasks.operations.installation import POOL
from tasks.provisioning.ledger import Ledger, Purpose
from tasks.provisioning.rental_record import save_rental
from tests.fakes.machines import OFFERS, LocalMachines

HOUR_S = 3600.0
# Prefect handles two events at a time and knows no order between a sign of life and an end: a run that ends within the
# time that the former takes would count as silent, now and then and for one of several triggers.
A_WHILE_S = 5.0


@flow(flow_run_name="fails")
def fails() -> None:
    """Ends with an error whose message is no plain text for JSON, HTML or Slack."""
    with events_delivered():
        time.sleep(A_WHILE_S)
        raise ValueError('expected <"a" & \\b>')


@flow(flow_run_name="crashes")
def crashes() -> None:
    """Its process ends in the middle."""
    with events_delivered():
        time.sleep(A_WHILE_S)
        sys.exit(1)


@flow(flow_run_name="ends-well")
def ends_well() -> None:
    """Nobody is told of it, though it ends soon after its only sign of life."""
    with events_delivered():
        time.sleep(A_WHILE_S)


@flow(flow_run_name="theirs")
def theirs() -> None:
    """A flow that is none of Jade's."""
    raise ValueError("theirs")


@flow(flow_run_name="hangs")
def hangs() -> None:
    """Gives one sign of life, and no other."""
    print("hangs", flush=True)
    while True:
        time.sleep(60)


def change_champions(folder: Path) -> None:
    """Two promotions, one refusal, and the way back."""
    place = open_place(folder)
    for name in ("first", "second", "third"):
        (folder / name).mkdir(parents=True)
        (folder / name / "card.json").write_text("{}")
        publish_run(place.store, folder / name, name)
    better, worse = {"promote": True, "reason": "better"}, {"promote": False, "reason": "worse"}
    settle(place, {"run_id": "first", "champion": None, "decision": better}, may_promote=True)
    settle(place, {"run_id": "second", "champion": "first", "decision": better}, may_promote=True)
    settle(place, {"run_id": "third", "champion": "second", "decision": worse}, may_promote=True)
    roll_back_champion(place)


def spend(folder: Path) -> None:
    """Rent for 85 % of a budget, look at what it cost twice, and go beyond."""
    now = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()
    ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}", clock=lambda: now)
    request = REQUEST.model_copy(update={"budget": 1.0})
    renter = renter_of(ledger, LocalMachines(folder / "machines"), folder, [], request=request)
    offer = dataclasses.replace(OFFERS[0], price_usd_per_hour=0.5)
    ledger.request(offer, Purpose("run"), claim=renter.claim, max_hours=2.0, orphan_grace_s=900, budget_usd=1.0)
    for _ in range(5):
        save_rental(folder, [renter])
        now += 0.425 * HOUR_S


def leave_work_undone() -> None:
    """Let the only worker give its last sign of life, and a run of a deployment be due since a minute."""
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"), overwrite=True)
        client.send_worker_heartbeat(POOL, "gone", heartbeat_interval_seconds=1)
        deployment = client.create_deployment(client.create_flow(ends_well), "due", work_pool_name=POOL, tags=["jade"])
        due = datetime.now(UTC) - timedelta(minutes=1)
        client.create_flow_run_from_deployment(deployment, name="waits", state=Scheduled(scheduled_time=due))


def hang() -> None:
    with tags("jade"):
        hangs()


def main(folder: Path) -> None:
    threading.Thread(target=hang, daemon=True).start()
    leave_work_undone()
    change_champions(folder / "runs")
    spend(folder)
    tell_regressions("a-run", [Regression("crf", 0.5, Band("crf", 0.8, 0.7, 5))])
    with contextlib.suppress(ValueError):
        theirs()
    with tags("jade"):
        ends_well()
        with contextlib.suppress(ValueError):
            fails()
        with contextlib.suppress(SystemExit):
            crashes()
    time.sleep(3600)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
