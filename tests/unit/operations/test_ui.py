"""What is shown reaches the server, later if need be, and never disturbs who shows it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Self, cast

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient

from tasks.operations.ui import Outbox, Parcel

LOGGER = logging.getLogger("tests.ui")


class Server:
    """Stands in for a client of Prefect's: away, or keeping what is sent."""

    def __init__(self) -> None:
        self.is_away, self.connects = False, 0
        self.arrived: list[str] = []
        self.held = threading.Event()
        self.held.set()

    def connect(self) -> SyncPrefectClient:
        self.connects += 1
        return cast("SyncPrefectClient", self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def take(self, text: str) -> None:
        self.held.wait(60)
        if self.is_away:
            raise httpx.ConnectError("nobody listens")
        self.arrived.append(text)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def outbox(server: Server) -> Outbox:
    return Outbox(server.connect, pauses_s=(0.02,), every_s=0.0)


def parcel(text: str, send: Callable[[Any], None] | None = None) -> Parcel:
    return Parcel(text, send or (lambda server: server.take(text)), LOGGER)


def test_what_is_put_arrives_in_order(server: Server, outbox: Outbox) -> None:
    for text in ("one", "two", "three"):
        outbox.put(text, parcel(text))
    assert outbox.flush(60)
    assert server.arrived == ["one", "two", "three"]


def test_while_the_server_is_away_the_newest_waits_and_arrives_when_it_is_back(
    server: Server, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    server.is_away = True
    with caplog.at_level(logging.INFO, LOGGER.name):
        for percent in range(10):
            outbox.put("bar", parcel(f"{percent} %"))
        outbox.put("event", parcel("event"))
        assert not outbox.flush(0.3)
        server.is_away = False
        assert outbox.flush(60)
    assert sorted(server.arrived) == ["9 %", "event"]
    told = [record.getMessage() for record in caplog.records]
    assert len([line for line in told if "does not answer" in line]) == 1
    assert "nobody listens" in told[0]
    assert told[-1] == "Prefect's server answers again"


def test_putting_does_not_wait_for_a_server_that_hangs(server: Server, outbox: Outbox) -> None:
    server.held.clear()
    for number in range(100):
        outbox.put(number, parcel(str(number)))
    assert server.arrived == []
    server.held.set()
    assert outbox.flush(60)
    assert len(server.arrived) == 100


def test_what_the_server_refuses_is_told_of_once_and_dropped(
    server: Server, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(_: Any) -> None:
        request = httpx.Request("POST", "http://server/artifacts/")
        raise httpx.HTTPStatusError("422 no such key", request=request, response=httpx.Response(422, request=request))

    outbox.put("bad", parcel("artifact Bad", refused))
    outbox.put("good", parcel("good"))
    assert outbox.flush(60)
    assert server.arrived == ["good"]
    (told,) = [record.getMessage() for record in caplog.records]
    assert told == "not shown in Prefect: artifact Bad: HTTPStatusError: 422 no such key"


def test_one_artifact_is_written_no_more_often_than_asked_for(server: Server) -> None:
    outbox = Outbox(server.connect, every_s=0.2)
    sent_at: list[float] = []
    while len(sent_at) < 3:
        outbox.put("bar", parcel("bar", lambda _: sent_at.append(time.monotonic())))
        time.sleep(0.005)
    assert min(later - earlier for earlier, later in pairwise(sent_at)) > 0.19
