"""Prefect's limits of rented machines, on a real server."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import partial

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.core.errors import BadRequest
from tasks.execution.prefect_tasks import limit_names, machines_admitted
from tasks.provisioning.offers import RentalRequest
from tests.helpers.processes import wait_until
from tests.helpers.servers import PrefectServer, ask

pytestmark = pytest.mark.system

L4 = RentalRequest(gpu=("NVIDIA L4",))


LIMITS = {"provider-runpod": 3, "gpu-nvidia-l4": 2}


@pytest.fixture
def server(prefect_server: PrefectServer) -> Iterator[PrefectServer]:
    for name, limit in LIMITS.items():
        wait_until(partial(is_set, prefect_server, name, limit), 300)
    with temporary_settings({PREFECT_API_URL: prefect_server.url}):
        yield prefect_server
    for name in LIMITS:
        wait_until(partial(is_gone, prefect_server, name), 300)


def is_set(server: PrefectServer, name: str, limit: int) -> bool:
    """Set a limit, whether an installation that another test has deployed has it or not; False: ask again."""
    body = {"name": name, "limit": limit, "active": True, "active_slots": 0}
    return status_of(server, "PATCH", name, body) == httpx.codes.NO_CONTENT or (
        status_of(server, "POST", "", body) == httpx.codes.CREATED
    )


def is_gone(server: PrefectServer, name: str) -> bool:
    """Remove a limit; False: ask again."""
    return status_of(server, "DELETE", name) in {httpx.codes.NO_CONTENT, httpx.codes.NOT_FOUND}


def status_of(server: PrefectServer, method: str, name: str, body: object = None) -> int | None:
    """Return the status; None: a busy server has not answered in time, and may do it yet."""
    with contextlib.suppress(httpx.TimeoutException):
        return httpx.request(method, f"{server.url}/v2/concurrency_limits/{name}", json=body, timeout=60).status_code
    return None


def test_machines_count_against_their_provider_and_their_gpu(server: PrefectServer) -> None:
    assert limit_names("runpod", L4) == ["provider-runpod", "gpu-nvidia-l4"]

    def slots() -> list[int]:
        found = [ask("GET", f"{server.url}/v2/concurrency_limits/{name}") for name in limit_names("runpod", L4)]
        return [limit.json()["active_slots"] for limit in found]

    admitted = threading.Event()

    def second() -> None:
        with temporary_settings({PREFECT_API_URL: server.url}), machines_admitted("runpod", L4, 1):
            admitted.set()

    with machines_admitted("runpod", L4, 2):
        assert slots() == [2, 2]
        waiting = threading.Thread(target=second, daemon=True)
        waiting.start()
        assert not admitted.wait(1.0)
    assert admitted.wait(200)
    waiting.join(200)
    assert slots() == [0, 0]


def test_more_than_a_limit_ever_admits_is_refused_at_once(server: PrefectServer) -> None:
    with pytest.raises(BadRequest, match="gpu-nvidia-l4 of Prefect admits, 2"), machines_admitted("runpod", L4, 3):
        pass
    with machines_admitted("static", RentalRequest(), 99), machines_admitted(None, L4, 0):
        pass  # nobody has made a limit for these
