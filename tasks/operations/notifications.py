"""Who is told of what: Prefect blocks that hold the addresses, and one automation for each thing that may happen.

An address (a Slack URL, a webhook, a mail account) is a secret: it stands in a block of the Prefect server, never in a
parameter, a log or a command line. Everything here may be done again: what is there is brought up to date.
"""

from __future__ import annotations

from datetime import timedelta
from typing import assert_never
from uuid import UUID

from apprise import Apprise  # Prefect sends by it, and so brings it
from prefect.blocks.notifications import SlackWebhook
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.actions import CallWebhook, SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from pydantic import SecretStr

from tasks.core.errors import BadRequest
from tasks.operations.events import BUDGET_WARNING, PROMOTED, REGRESSED, ROLLED_BACK
from tasks.operations.installation import POOL
from tasks.operations.notify_targets import OCCASIONS, Kind, Occasion, Target

TAG = "jade"
"""Every deployment of prefect.yaml carries it: other flows of the same server are none of our business."""

_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDS = tuple(f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Crashed", "Cancelled", "Cancelling"))
_RUN_TEXT = "{{ flow_run.name }}: {{ flow_run.state.name }}. {{ flow_run.state.message or '' }} {{ flow_run|ui_url }}"
_EVENT_TEXT = "{{ event.payload.message }}"
_POOL_TEXT = "No worker of the work pool {{ work_pool.name }} gives a sign of life: nothing that is due will start."
_PAYLOAD = (
    "{% set message %}TEXT{% endset %}"
    '{"subject": "SUBJECT", "occasion": "OCCASION", "message": {{ message|tojson }}, '
    '"event": {{ event.event|tojson }}, "occurred": {{ event.occurred|string|tojson }}}'
)
_TRIED_AGAIN = "retry=4&wait=15"
"""What Apprise is to do about a message that was refused: four more attempts, so many seconds apart."""
_EXPECTED_ADDRESS = {
    "slack": "https://hooks.slack.com/services/...",
    "email": "mailtos://USER:PASSWORD@SMTP-HOST?to=WHOM (Apprise writes addresses so)",
    "webhook": "https://...",
}


def add_target(target: Target, address: str) -> list[str]:
    """Save the address, and make or update the target's automations; those of other occasions go.

    Args:
        target: Who, and of what.
        address: The secret: a Slack or webhook URL, or Apprise's `mailtos://`.

    Returns:
        Names of the automations.

    Raises:
        BadRequest: The address is none of that kind.
    """
    block_id = _save_block(target, address.strip())
    with get_client(sync_client=True) as client:
        known = {item.name: item for item in _automations(client)}
        for occasion in target.occasions:
            wanted = _automation(target, occasion, block_id)
            if wanted.name in known:
                client.update_automation(known[wanted.name].id, wanted)
            else:
                client.create_automation(wanted)
        for occasion in set(OCCASIONS) - set(target.occasions):
            if target.automation(occasion) in known:
                client.delete_automation(known[target.automation(occasion)].id)
    return [target.automation(occasion) for occasion in target.occasions]


def list_targets() -> list[tuple[str, list[str]]]:
    """Return who is told of what: name, occasions."""
    found: dict[str, list[str]] = {}
    with get_client(sync_client=True) as client:
        for automation in _automations(client):
            occasion, _, name = automation.name.removeprefix("jade ").partition(": tell ")
            found.setdefault(name, []).append(occasion)
    return [(name, [item for item in OCCASIONS if item in told]) for name, told in sorted(found.items())]


def remove_target(name: str) -> None:
    """Take a target's automations and its address away.

    Raises:
        BadRequest: There is none of that name.
    """
    ending = f": tell {name}"
    with get_client(sync_client=True) as client:
        mine = [item for item in _automations(client) if item.name.endswith(ending)]
        if not mine:
            known = ", ".join(item for item, _ in list_targets()) or "none"
            raise BadRequest(f"nobody called {name!r} is notified; known: {known}")
        for automation in mine:
            client.delete_automation(automation.id)
        for document in client.read_block_documents(limit=200):
            if document.name == f"jade-{name}":
                client.delete_block_document(document.id)


def _automations(client: SyncPrefectClient) -> list[Automation]:
    return [item for item in client.read_automations() if item.name.startswith("jade ") and ": tell " in item.name]


def _save_block(target: Target, address: str) -> UUID:
    _check_address(target.kind, address)
    block: SlackWebhook | Webhook
    match target.kind:
        case "slack":
            block = SlackWebhook(url=SecretStr(_with(_TRIED_AGAIN, address)))
        case "email":
            # The server loads only blocks that Prefect brings, and none of those is for mail. This one hands what is no
            # address of Slack's to Apprise, which sends mail. Of HTML, Apprise's default, nobody would see a "<".
            block = SlackWebhook(url=SecretStr(_with(f"format=text&{_TRIED_AGAIN}", address)))
        case "webhook":
            block = Webhook(method="POST", url=SecretStr(address))
        case _:
            assert_never(target.kind)
    saved: UUID = block.save(target.block, overwrite=True)  # type: ignore[assignment]
    return saved


def _with(options: str, address: str) -> str:
    return f"{address}{'&' if '?' in address else '?'}{options}"


def _check_address(kind: Kind, address: str) -> None:
    schemes = ("mailto://", "mailtos://") if kind == "email" else ("https://", "http://")
    is_known = address.startswith(schemes) and not any(char.isspace() for char in address)
    # What Apprise does not understand, Prefect keeps, and sends nothing to.
    if not is_known or (kind != "webhook" and not Apprise().add(address)):
        # The address itself is a secret: the message does not repeat it.
        raise BadRequest(f"that is no address for {kind}; expected {_EXPECTED_ADDRESS[kind]}")


def _automation(target: Target, occasion: Occasion, block_id: UUID) -> AutomationCore:
    text = _text(occasion)
    subject = f"Jade: {occasion}"
    action: CallWebhook | SendNotification
    if target.kind == "webhook":
        payload = _PAYLOAD.replace("TEXT", text).replace("SUBJECT", subject).replace("OCCASION", occasion)
        action = CallWebhook(block_document_id=block_id, payload=payload)
    else:
        action = SendNotification(block_document_id=block_id, subject=subject, body=text)
    return AutomationCore(
        name=target.automation(occasion),
        description=f"Made by `jade notify add {target.kind} {target.name}`.",
        trigger=_trigger(occasion, target.silent_after_s),
        actions=[action],
    )


def _text(occasion: Occasion) -> str:
    match occasion:
        case "failed" | "crashed" | "silent" | "late":
            return _RUN_TEXT
        case "worker-gone":
            return _POOL_TEXT
        case _:
            return _EVENT_TEXT


def _trigger(occasion: Occasion, silent_after_s: float) -> EventTrigger:
    match occasion:
        case "failed" | "crashed" | "late":
            return _as_soon_as(
                _any_of("prefect.flow-run.*"), f"prefect.flow-run.{occasion.title()}", related=_of_ours()
            )
        case "silent":
            return EventTrigger(
                match=_any_of("prefect.flow-run.*"),
                match_related=_of_ours(),
                after={_HEARTBEAT},
                expect={_HEARTBEAT, *_ENDS},
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=timedelta(seconds=silent_after_s),
            )
        case "worker-gone":
            return _as_soon_as(
                ResourceSpecification.model_validate(
                    {"prefect.resource.id": "prefect.work-pool.*", "prefect.resource.name": POOL}
                ),
                "prefect.work-pool.not-ready",
            )
        case "regression":
            return _as_soon_as(_any_of("jade.*"), REGRESSED)
        case "promoted":
            return _as_soon_as(_any_of("jade.*"), PROMOTED, ROLLED_BACK)
        case "budget":
            return _as_soon_as(_any_of("jade.*"), BUDGET_WARNING)
        case _:
            assert_never(occasion)


def _as_soon_as(
    match: ResourceSpecification, *events: str, related: ResourceSpecification | None = None
) -> EventTrigger:
    return EventTrigger(
        match=match,
        match_related=related or ResourceSpecification.model_validate({}),
        expect=set(events),
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )


def _any_of(pattern: str) -> ResourceSpecification:
    return ResourceSpecification.model_validate({"prefect.resource.id": pattern})


def _of_ours() -> ResourceSpecification:
    return ResourceSpecification.model_validate(
        {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"}
    )
