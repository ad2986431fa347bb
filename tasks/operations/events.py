"""What Jade tells Prefect's event system, and what automations may wait for: the one home of these names.

An event is about a resource, `jade.<kind>.<name>`, and carries plain facts for whoever is notified. No event carries a
secret. Where no Prefect server is set, nobody could hear of it, and nothing is emitted.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

REGRESSED = "jade.comparison.regressed"
PROMOTED = "jade.model.promoted"
ROLLED_BACK = "jade.model.rolled-back"
KEPT_AS_CHALLENGER = "jade.model.kept-as-challenger"
DATA_REFUSED = "jade.data.refused"
BUDGET_WARNING = "jade.budget.warning"
"""Spending has reached 80 % of a budget."""

DELIVERY_LIMIT_S = 10.0


def tell(event: str, kind: str, name: str, **facts: Any) -> None:
    """Emit an event.

    Args:
        event: One of the names above.
        kind: Of the resource: arm, model, data, budget.
        name: Of the resource; characters that identifiers lack become dashes.
        facts: Plain JSON values; `message`, one sentence for people, is what notifications show.
    """
    from tasks.operations.ui import send_event

    resource = f"jade.{kind}.{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}"
    send_event(
        event,
        {"prefect.resource.id": resource, "prefect.resource.name": name},
        {name: value for name, value in facts.items() if value is not None},
    )


@contextmanager
def events_delivered() -> Iterator[None]:
    """Leave the block only when what it shows and Prefect's own events, heartbeats among them, have reached the server.

    They go another way than the states of a run. A heartbeat that comes in after the end of a run that took a second
    would be its last sign of life: automations that wait for the next one would call a run silent that has ended.
    """
    from tasks.operations.ui import shown

    try:
        with shown():
            yield
    finally:
        _deliver()


def _deliver() -> None:
    from tasks.settings.prefect import has_lasting_server

    if not has_lasting_server():
        return
    from prefect.events.worker import EventsWorker

    # A server that does not answer must not keep the run from ending: waiting in Prefect knows no limit.
    waiting = threading.Thread(target=EventsWorker.instance().wait_until_empty, daemon=True)
    waiting.start()
    waiting.join(DELIVERY_LIMIT_S)
