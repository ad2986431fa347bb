"""The contract by which RunPod's fake judges: as written by hand, it is as strict as the service's own file."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.fakes.runpod_contract import OPENAPI, Contract, OpenApiContract, WrittenContract
from tests.fakes.runpod_server import RunPodServer

BODY: dict[str, Any] = {
    "name": "jade-abcd-01234567",
    "image": "runpod/pytorch:1",
    "args": "bash",
    "gpu": {"id": "NVIDIA L4", "count": 1, "minCudaVersion": "12.8"},
    "cloud": "SECURE",
    "disk": 20,
    "ports": ["22/tcp"],
    "env": {"A": "b"},
    "dataCenterIds": ["US-KS-2"],
}

CONTRACTS: list[Contract] = [WrittenContract()]
if OPENAPI.is_file():
    CONTRACTS.append(OpenApiContract(OPENAPI))


@pytest.fixture(params=CONTRACTS, ids=lambda contract: type(contract).__name__)
def contract(request: pytest.FixtureRequest) -> Contract:
    found: Contract = request.param
    return found


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"gpu": {"id": "x"}},
        {"registry": None},
        {"mounts": {"persistent": {"size": 10, "path": "/w"}}},
        {"mounts": {"network": [{"volumeId": "v", "path": "/w"}]}},
        {"startSsh": True, "globalNetworking": False, "templateId": "t"},
        {"cpu": {"id": "cpu5c", "vcpuCount": 2}},
    ],
)
def test_what_the_service_takes_is_taken(contract: Contract, change: dict[str, Any]) -> None:
    assert contract.request_problems("POST", "/v2/pods", "", BODY | change) == []


@pytest.mark.parametrize(
    "change",
    [
        {"bogus": 1},
        {"terminateAfter": "2026-01-01"},
        {"name": ""},
        {"name": 7},
        {"disk": 0},
        {"disk": "20"},
        {"env": {"A": 1}},
        {"env": ["A=b"]},
        {"ports": "22/tcp"},
        {"cloud": "secure"},
        {"gpu": {}},
        {"gpu": {"id": "x", "count": 0}},
        {"gpu": {"id": "x", "bogus": 1}},
        {"gpu": {"id": "x", "minCudaVersion": "12"}},
        {"gpu": {"id": "x", "minCudaVersion": 12.8}},
        {"cpu": {"id": "cpu5c", "vcpuCount": 1}},
        {"mounts": {"persistent": {"size": 9, "path": "/w"}}},
        {"mounts": {"bogus": {}}},
        {"startSsh": "yes"},
    ],
)
def test_what_the_service_refuses_is_refused(contract: Contract, change: dict[str, Any]) -> None:
    assert contract.request_problems("POST", "/v2/pods", "", BODY | change) != []


@pytest.mark.parametrize("missing", ["name", "image"])
def test_what_must_be_there_is_missed(contract: Contract, missing: str) -> None:
    body = copy.copy(BODY)
    del body[missing]
    assert contract.request_problems("POST", "/v2/pods", "", body) != []


@pytest.mark.parametrize(
    ("path", "query", "is_fine"),
    [
        ("/v2/catalog/gpus", "include=AVAILABILITY&product=POD&count=1&cloud=SECURE", True),
        ("/v2/catalog/gpus", "include=EVERYTHING", False),
        ("/v2/catalog/gpus", "count=0", False),
        ("/v2/catalog/gpus", "bogus=1", False),
        ("/v2/pods", "includeClusterPods=true", True),
        ("/v2/pods", "owner=us", False),
        ("/v2/pods/p1", "", True),
        ("/v2/machines", "", False),
        ("/v1/pods", "", False),
    ],
)
def test_paths_and_queries_are_judged(contract: Contract, path: str, query: str, *, is_fine: bool) -> None:
    assert (contract.request_problems("GET", path, query, None) == []) is is_fine


def test_what_the_fake_answers_is_what_the_service_promises(contract: Contract) -> None:
    server = RunPodServer(contract=contract)
    try:
        status, made = server.answer("POST", "/v2/pods", "", BODY, server.api_key)
        assert (status, contract.answer_problems("POST", "/v2/pods", status, made)) == (201, [])
        path = f"/v2/pods/{made['id']}"
        for method, where, query in (
            ("GET", path, ""),
            ("GET", path, ""),
            ("GET", "/v2/pods", ""),
            ("GET", "/v2/catalog/gpus", "include=AVAILABILITY"),
            ("DELETE", path, ""),
            ("GET", path, ""),
        ):
            status, answer = server.answer(method, where, query, None, server.api_key)
            assert contract.answer_problems(method, where, status, answer) == []
        assert status == 404
        broken = {**made, "status": "ASLEEP"}
        assert contract.answer_problems("GET", path, 200, broken) != []
        assert contract.answer_problems("GET", path, 404, {"detail": "no title"}) != []
    finally:
        server.close()
