"""What people read when a provider says no, and what survives a trip between processes."""

from __future__ import annotations

import pickle

import pytest

from tasks.hosts.errors import HostError
from tasks.provisioning.errors import (
    ApiKeyMissing,
    InstanceLost,
    NoCapacity,
    NothingDone,
    ProviderRefused,
    ProviderUnavailable,
)

ERRORS = [
    NoCapacity("runpod", "create pod", "There are no instances available", status=400),
    ApiKeyMissing("runpod", "list offers", setting="RUNPOD_API_KEY"),
    ProviderRefused("runpod", "list offers", "invalid key", status=401),
    ProviderRefused("ec2", "run instance", "vCPU limit", status="VcpuLimitExceeded"),
    ProviderUnavailable("runpod", "create pod", "read timed out", retry_after_s=3.0),
    NothingDone("runpod", "create pod", "slow down", status=429, retry_after_s=1.5),
    InstanceLost("runpod", "machine pod1", "terminated"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling_with_its_evidence(error: HostError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__


def test_messages_name_the_provider_what_was_asked_and_what_it_said() -> None:
    assert str(ERRORS[0]) == "runpod: create pod: none to be had now: (400) There are no instances available"
    assert "Set RUNPOD_API_KEY" in str(ERRORS[1])
    assert "pod1" in str(ERRORS[-1])


def test_only_what_may_get_better_by_itself_is_transient() -> None:
    assert [type(error).__name__ for error in ERRORS if error.is_transient] == [
        "ProviderUnavailable",
        "NothingDone",
    ]
    assert {type(error).__name__ for error in ERRORS if error.exit_code == 2} == {
        "ApiKeyMissing",
        "ProviderRefused",
    }
