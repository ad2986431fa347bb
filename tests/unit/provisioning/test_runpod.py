"""RunPod, against a server on loopback that keeps its contract and has its bad days."""

from __future__ import annotations

import base64
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from pydantic import SecretStr

from tasks.provisioning.errors import (
    ApiKeyMissing,
    NoCapacity,
    NothingDone,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
)
from tasks.provisioning.provisioner import CallLimits, InstanceState, Offer, create_instance
from tasks.provisioning.runpod import Pod, RunPodProvisioner
from tasks.provisioning.runpod_api import RunPodApi
from tests.fakes.provisioner_contract import ServiceContract, created, ended, in_haste, new_request, ours, texts_of
from tests.fakes.runpod_server import Fault
from tests.fakes.runpod_world import QUICK, RunPodWorld, runpod_world


@pytest.fixture
def world() -> Iterator[RunPodWorld]:
    with runpod_world() as world:
        yield world
        assert world.server.violations == []
        assert world.others_untouched()


class TestContract(ServiceContract):
    @pytest.fixture
    def world(self) -> Iterator[RunPodWorld]:
        with runpod_world() as world:
            yield world
            assert world.server.violations == []


@pytest.fixture
def offer(world: RunPodWorld) -> Offer:
    return next(offer for offer in world.provisioner.offers() if offer.kind == "NVIDIA L4")


def refuse(world: RunPodWorld, method: str, status: int, times: int = 1, **what: object) -> None:
    world.server.faults.append(Fault("answer", method, times=times, status=status, **what))  # type: ignore[arg-type]


# -- offers


def test_offers_are_the_catalogue_with_prices_cheapest_first(world: RunPodWorld) -> None:
    offers = world.provisioner.offers()
    assert [offer.price_usd_per_hour for offer in offers] == sorted(offer.price_usd_per_hour for offer in offers)
    shown = {
        offer.kind: (offer.title, offer.gpu_memory_gib, offer.price_usd_per_hour, offer.available) for offer in offers
    }
    assert shown["NVIDIA L4"] == ("L4", 24, 0.39, True)
    assert shown["NVIDIA RTX A4000"] == ("RTX A4000", 16, 0.25, False)


def test_the_community_has_prices_of_its_own(world: RunPodWorld) -> None:
    world.provisioner = world.connect(cloud="COMMUNITY")
    prices = {offer.kind: offer.price_usd_per_hour for offer in world.provisioner.offers()}
    assert prices["NVIDIA L4"] == 0.29
    machine = created(world, new_request(world.provisioner.offers()[-1]))
    assert machine.price_usd_per_hour == 2.39


def test_availability_is_that_of_the_data_centers_asked_for(world: RunPodWorld) -> None:
    offers = world.connect(data_centers=("EU-RO-1",)).offers()
    assert {offer.available for offer in offers} == {False}
    assert {offer.region for offer in offers} == {"EU-RO-1"}


def test_gpus_without_a_price_are_no_offers(world: RunPodWorld) -> None:
    world.server.gpus[1]["price"]["secure"] = 0.0
    world.server.gpus[2]["secure"] = False
    assert {offer.kind for offer in world.provisioner.offers()} == {"NVIDIA GeForce RTX 4090", "NVIDIA RTX A4000"}


# -- what is asked for


def test_a_pod_is_asked_for_with_our_keys_and_no_more_than_ssh_open(world: RunPodWorld, offer: Offer) -> None:
    request = new_request(offer)
    created(world, request)
    (body,) = world.server.bodies
    assert body["name"] == request.name
    assert body["gpu"] == {"id": "NVIDIA L4", "count": 1, "minCudaVersion": "12.8"}
    assert body["ports"] == ["22/tcp"]
    assert body["env"]["PUBLIC_KEY"] == request.public_key
    assert base64.b64decode(body["env"]["JADE_HOST_KEY"]).decode() == request.host_private_key
    assert int(body["env"]["JADE_ENDS_AT"]) == pytest.approx(time.time() + request.max_age_s, abs=30)


def test_image_disk_and_place_are_settings(world: RunPodWorld, offer: Offer) -> None:
    provisioner = world.connect(image="ours:1", disk_gb=77, data_centers=("US-KS-2",), min_cuda="")
    created(world, new_request(offer), provisioner)
    (body,) = world.server.bodies
    assert (body["image"], body["disk"], body["dataCenterIds"]) == ("ours:1", 77, ["US-KS-2"])
    assert "minCudaVersion" not in body["gpu"]


# -- statuses


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, NoCapacity),
        (401, ProviderRefused),
        (402, ProviderRefused),
        (403, NoCapacity),
        (404, ProviderRefused),
        (418, ProviderRefused),
        (301, ProviderRefused),
    ],
)
def test_a_refusal_to_create_is_not_tried_again_and_quotes_the_service(
    world: RunPodWorld, offer: Offer, status: int, error: type[ProviderError]
) -> None:
    refuse(world, "POST", status, times=9, detail="because of\x1b[31m this")
    with pytest.raises(error, match=rf"create a pod with NVIDIA L4: .*\({status}\).*because of \[31m this") as caught:
        created(world, new_request(offer))
    assert type(caught.value) is error
    assert world.server.count("POST") == 1
    assert world.costing() == 0


def test_a_field_that_the_service_does_not_know_is_named(world: RunPodWorld, offer: Offer) -> None:
    with pytest.raises(ProviderRefused, match=r"422.*disk"):
        created(world, new_request(offer), world.connect(disk_gb=0))
    assert world.server.count("POST") == 1
    world.server.violations.clear()


def test_too_many_calls_wait_as_long_as_the_service_says(world: RunPodWorld, offer: Offer) -> None:
    refuse(world, "POST", 429, times=2, headers={"Retry-After": "1"})
    waited: list[float] = []
    create_instance(world.provisioner, new_request(offer), world.timing, sleep=waited.append)
    assert [pause for pause in waited if pause >= 1] == waited
    assert len(waited) == 2
    assert world.server.count("POST") == 3
    assert world.costing() == 1


@pytest.mark.parametrize(
    "headers",
    [
        lambda: {"Retry-After": "900"},
        lambda: {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=900), usegmt=True)},
        lambda: {"RateLimit": '"minute";r=0;t=12, "hour";r=0;t=900, "day";r=5;t=90000'},
    ],
    ids=["seconds", "date", "windows"],
)
def test_a_wait_that_is_too_long_is_told_instead(
    world: RunPodWorld, offer: Offer, headers: Callable[[], dict[str, str]]
) -> None:
    refuse(world, "POST", 429, times=9, headers=headers())
    with pytest.raises(NothingDone) as caught:
        created(world, new_request(offer))
    assert caught.value.retry_after_s == pytest.approx(900, abs=60)
    assert world.server.count("POST") == 1


def test_a_server_error_at_creation_is_looked_into_and_not_posted_again(world: RunPodWorld, offer: Offer) -> None:
    refuse(world, "POST", 500)
    in_haste(world)
    with pytest.raises(ProviderUnavailable, match=r"no machine called jade-.* was seen"):
        created(world, new_request(offer))
    assert world.server.count("POST") == 1


def test_nothing_listens_there(world: RunPodWorld, offer: Offer) -> None:
    api = RunPodApi(SecretStr("rpa_0123456789"), "http://127.0.0.1:9/v2", CallLimits(pause_s=0.001, attempts=2))
    provisioner = RunPodProvisioner(api)
    with pytest.raises(NothingDone, match="out of reach"):
        created(world, new_request(offer), provisioner)


# -- keys


def test_no_key_says_where_it_is_looked_for() -> None:
    with pytest.raises(ApiKeyMissing, match="RUNPOD_API_KEY"):
        RunPodApi(SecretStr(""))


def test_a_key_with_a_line_end_is_refused_without_being_shown() -> None:
    with pytest.raises(ProviderRefused) as caught:
        RunPodApi(SecretStr("rpa_secret\n"))
    assert "rpa_secret" not in texts_of(caught.value)


def test_a_key_is_never_sent_in_the_clear_across_a_network() -> None:
    with pytest.raises(ValueError, match="https"):
        RunPodApi(SecretStr("rpa_0123456789"), "http://api.runpod.io/v2")


def test_secrets_that_the_service_quotes_are_masked(world: RunPodWorld, offer: Offer) -> None:
    request = new_request(offer)
    key = base64.b64encode(request.host_private_key.encode()).decode()
    refuse(world, "POST", 422, detail=f"no {key} and no {request.host_private_key} with {world.server.api_key}")
    with pytest.raises(ProviderRefused, match=r"no \*\*\* and no \*\*\* with \*\*\*"):
        created(world, request)


def test_no_log_line_holds_a_secret(world: RunPodWorld, offer: Offer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    request = new_request(offer)
    world.lose_answer_to_create()
    ended(world, created(world, request).instance_id)
    assert "HTTP Request" in caplog.text
    key = base64.b64encode(request.host_private_key.encode()).decode()
    for secret in (world.server.api_key, key):
        assert secret not in caplog.text


# -- lost replies, late lists, twins


def test_a_list_that_lags_behind_is_waited_for(world: RunPodWorld, offer: Offer) -> None:
    world.server.list_lag = 4
    world.lose_answer_to_create()
    request = new_request(offer)
    machine = created(world, request)
    assert machine.name == request.name
    assert world.server.count("POST") == 1


def test_a_pod_that_shows_up_after_we_gave_up_is_found_by_the_next_attempt(world: RunPodWorld, offer: Offer) -> None:
    world.server.list_lag = 12
    world.lose_answer_to_create()
    in_haste(world)
    request = new_request(offer)
    with pytest.raises(ProviderUnavailable):
        created(world, request)
    for pod in world.server.costing:
        pod.hidden_lists = 0
    assert created(world, request).name == request.name
    assert world.server.count("POST") == 1


def test_an_answer_that_makes_no_sense_is_a_lost_one(world: RunPodWorld, offer: Offer) -> None:
    for body in (b"<html>proxy</html>", b'{"id": 7}', b""):
        world.server.faults.append(Fault("garbage", "POST", body=body))
        created(world, new_request(offer))
    assert world.server.count("POST") == 3
    assert world.costing() == 3


def test_a_reply_that_never_comes_is_a_lost_one(world: RunPodWorld, offer: Offer) -> None:
    world.server.faults.append(Fault("stall", "POST", seconds=30))
    limits = dataclasses.replace(QUICK, read_timeout_s=0.5)
    provisioner = RunPodProvisioner(RunPodApi(SecretStr(world.server.api_key), world.server.url, limits))
    created(world, new_request(offer), provisioner)
    assert world.costing() == 1


def test_of_twins_the_oldest_stays(world: RunPodWorld, offer: Offer) -> None:
    world.server.copies = 2
    world.lose_answer_to_create()
    request = new_request(offer)
    machine = created(world, request)
    assert world.costing() == 1
    assert ours(world) == [machine.instance_id]
    assert created(world, request).instance_id == machine.instance_id


def test_a_pod_that_was_renamed_is_still_ours(world: RunPodWorld, offer: Offer) -> None:
    request = new_request(offer)
    machine = created(world, request)
    world.server.pod(machine.instance_id).name = "do not delete"
    assert ours(world) == [machine.instance_id]
    assert created(world, request).instance_id == machine.instance_id


def test_what_others_have_there_need_not_make_sense(world: RunPodWorld, offer: Offer) -> None:
    machine = created(world, new_request(offer))
    world.add_other("odd", disk=-1, env=None, dataCenterIds=[7])
    assert ours(world) == [machine.instance_id]
    world.server.violations.clear()


# -- states and addresses


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("PROVISIONING", InstanceState.STARTING),
        ("STARTING", InstanceState.STARTING),
        ("RUNNING", InstanceState.RUNNING),
        ("EXITED", InstanceState.STOPPED),
        ("TERMINATED", InstanceState.STOPPED),
        ("ERROR", InstanceState.FAILED),
        ("SOMETHING_NEW", InstanceState.STARTING),
    ],
)
def test_a_state_is_put_into_our_words(status: str, state: InstanceState) -> None:
    pod = Pod(id="p", name="n", status=status, cost=0.4)
    assert pod.instance().state is state


def test_an_address_comes_late_and_changes(world: RunPodWorld, offer: Offer) -> None:
    world.server.looks_to_address = 3
    machine = created(world, new_request(offer))
    seen = [world.provisioner.describe(machine.instance_id) for _ in range(3)]
    assert [found.state for found in seen] == [InstanceState.RUNNING] * 3
    assert seen[0].address is None
    assert str(seen[-1].address) == "root@127.0.0.1:22022"
    world.server.pod(machine.instance_id).port = 40022
    assert str(world.provisioner.describe(machine.instance_id).address) == "root@127.0.0.1:40022"


def test_an_address_that_makes_no_sense_is_none_and_is_told() -> None:
    pod = Pod.model_validate(
        {"id": "p", "name": "n", "status": "RUNNING", "cost": 0.4}
        | {"ssh": {"direct": {"host": "-oProxyCommand=x", "port": 1, "username": "root", "command": ""}}}
    )
    assert pod.instance().address is None
    assert "without a usable address" in pod.instance().detail


def test_a_pod_that_cannot_run_is_failed_and_can_be_released(world: RunPodWorld, offer: Offer) -> None:
    world.server.start_as = ["ERROR"]
    machine = created(world, new_request(offer))
    assert world.provisioner.describe(machine.instance_id).state is InstanceState.FAILED
    ended(world, machine.instance_id)
    assert world.costing() == 0


# -- release


def test_204_is_not_yet_a_proof(world: RunPodWorld, offer: Offer) -> None:
    world.server.looks_to_vanish = 3
    machine = created(world, new_request(offer))
    ended(world, machine.instance_id)
    assert world.costing() == 0
    assert world.server.count(f"GET /v2/pods/{machine.instance_id}") >= 2


def test_a_lost_reply_to_delete_does_not_matter(world: RunPodWorld, offer: Offer) -> None:
    machine = created(world, new_request(offer))
    world.server.faults.append(Fault("lose answer", "DELETE"))
    ended(world, machine.instance_id)
    assert world.costing() == 0


def test_a_locked_pod_is_not_released_and_the_service_is_quoted(world: RunPodWorld, offer: Offer) -> None:
    machine = created(world, new_request(offer))
    world.server.pod(machine.instance_id).locked = True
    patient = world.timing
    in_haste(world)
    with pytest.raises(ProviderUnavailable, match="pod is locked"):
        ended(world, machine.instance_id)
    world.server.pod(machine.instance_id).locked = False
    world.timing = patient
    ended(world, machine.instance_id)


def test_what_is_not_ours_is_not_released(world: RunPodWorld) -> None:
    (other, *_) = world.server.others
    with pytest.raises(ProviderRefused, match="no machine of ours"):
        ended(world, other.id)
    assert world.server.count("DELETE") == 0


def test_a_machine_id_never_leads_elsewhere(world: RunPodWorld, offer: Offer) -> None:
    created(world, new_request(offer))
    ended(world, "../pods")
    assert world.server.requests[-1] == "GET /v2/pods/..%2Fpods"
    assert ours(world) != []
