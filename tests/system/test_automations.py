"""Whoever asked to be told is told: a real server, our automations; a webhook, Slack and a mail server on loopback."""

from __future__ import annotations

import html
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from helpers.deployments import inbox
from helpers.processes import wait_until
from helpers.servers import ROOT, PrefectServer, kill_group

from tasks.core.errors import BadRequest
from tasks.operations.notifications import add_target
from tasks.operations.notify_targets import Kind, Target
from tests.fakes.mail_server import running_mail_server
from tests.fakes.slack_server import SlackServer

pytestmark = pytest.mark.system

PROGRAM = Path(__file__).parents[1] / "programs" / "occasions.py"
# On a busy machine a trigger hears of a run's end half a minute later: what ended well before would count as silent.
SILENT_AFTER_S = 45.0
DELIVERY_S = 30.0

# Occasion -> how each message begins that the program gives rise to.
EXPECTED = {
    "failed": ['fails: Failed. Flow run encountered an exception: ValueError: expected <"a" & \\b> http://127.0.0.1:'],
    "crashed": ["crashes: Crashed. Execution was aborted by Python system exit call. http://127.0.0.1:"],
    "silent": ["hangs: Running. "],
    "worker-gone": ["No worker of the work pool jade gives a sign of life: nothing that is due will start."],
    "late": ["waits: Late. "],
    "regression": [
        "crf fell to an F1 of 0.500; 5 earlier comparisons make 0.800 expected, and nothing under 0.700. Run a-run."
    ],
    "promoted": ["first is champion again.", "first is champion: better.", "second is champion: better."],
    "budget": ["0.85 of 1.00 USD of the month's budget are spent; what would exceed it is refused."],
}

Messages = dict[str, list[str]]
"""Occasion -> what was told of it, by the alphabet; the same twice counts once: a notification may come twice."""


@pytest.fixture(scope="module")
def told(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PrefectServer, slack: SlackServer
) -> Iterator[dict[str, Messages]]:
    """Let everybody be told of everything, and everything happen; way -> what came by it."""
    folder = tmp_path_factory.mktemp("automations")
    # What an attempt before this one left there.
    slack.received.clear()
    with inbox() as webhook, running_mail_server() as mail:
        # Both turn the first one away: it is sent again.
        slack.refuses = mail.refuses = 1
        addresses = {
            "webhook": webhook.url,
            "slack": slack.address,
            "email": f"mailto://{mail.user}:{mail.password}@127.0.0.1:{mail.port}"
            "?from=jade@example.com&to=on-call@example.com",
        }

        def received() -> dict[str, Messages]:
            attachments = [attachment for item in slack.received for attachment in item["attachments"]]
            return {
                "webhook": sorted_out([(item["subject"], item["message"]) for item in webhook.received]),
                "slack": sorted_out([(item["title"], html.unescape(item["text"])) for item in attachments]),
                "email": sorted_out([(item["Subject"], item.get_content()) for item in mail.received]),
            }

        def all_is_told() -> bool:
            return all(
                len(messages[occasion]) >= len(expected)
                for messages in received().values()
                for occasion, expected in EXPECTED.items()
            )

        def evidence() -> str:
            return json.dumps(received(), indent=1)

        with notified(postgres_server, folder, addresses):
            program = subprocess.Popen(
                [sys.executable, str(PROGRAM), str(folder / "work")],
                env=postgres_server.env | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
                start_new_session=True,
            )
            try:
                wait_until(lambda: program.poll() is not None or all_is_told(), 300, evidence)
                assert program.poll() is None, "the program ended before its time"
            finally:
                kill_group(program)
        runs = {str(run["name"]): float(str(run["total_run_time"])) for run in postgres_server.read("flow_runs")}
        # Where all is slow, others are as silent as the one that hangs, and so it is told.
        slow = tuple(name for name in ("fails", "crashes", "ends-well") if runs[name] > SILENT_AFTER_S - DELIVERY_S)
        told = received()
        for messages in told.values():
            messages["silent"] = [text for text in messages["silent"] if not text.startswith(slow)]
        yield told


@contextmanager
def notified(server: PrefectServer, folder: Path, addresses: dict[str, str]) -> Iterator[None]:
    """Tell somebody of everything, by each kind of address: `jade notify apply`, and in the end `remove`."""
    entries = [
        {"name": f"by-{kind}", "kind": kind, "secret_env": f"ADDRESS_{kind}", "silent_after_s": SILENT_AFTER_S}
        for kind in addresses
    ]
    file = folder / "notifications.yaml"
    file.write_text(yaml.safe_dump({"notifications": entries}))
    env = server.env | {f"ADDRESS_{kind}": address for kind, address in addresses.items()}

    def notify(*arguments: str) -> None:
        command = [sys.executable, "-m", "flows.cli", "notify", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr

    notify("apply", str(file))
    try:
        yield
    finally:
        for kind in addresses:
            notify("remove", f"by-{kind}")


def sorted_out(messages: list[tuple[str, str]]) -> Messages:
    found: dict[str, set[str]] = defaultdict(set)
    for subject, message in messages:
        found[subject.removeprefix("Jade: ")].add(message.strip())
    return defaultdict(list, {occasion: sorted(texts) for occasion, texts in found.items()})


@pytest.mark.parametrize("way", ["webhook", "slack", "email"])
@pytest.mark.parametrize("occasion", EXPECTED)
def test_what_happened_is_told_and_nothing_else(told: dict[str, Messages], way: str, occasion: str) -> None:
    messages = told[way][occasion]
    assert len(messages) == len(EXPECTED[occasion]), messages
    for message, start in zip(messages, EXPECTED[occasion], strict=True):
        assert message.startswith(start)


def test_every_way_tells_the_same(told: dict[str, Messages]) -> None:
    assert told["slack"] == told["email"] == told["webhook"]
    assert set(told["webhook"]) == set(EXPECTED)


@pytest.mark.parametrize(("kind", "address"), [("slack", "https://example.com/secret"), ("email", "mailto://secret")])
def test_an_address_that_nothing_can_be_sent_to_is_refused_and_not_repeated(kind: Kind, address: str) -> None:
    with pytest.raises(BadRequest, match=f"no address for {kind}; expected") as refused:
        add_target(Target("team", kind), address)
    assert "secret" not in str(refused.value)
