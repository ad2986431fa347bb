"""What everybody who lends machines must do: subclasses give a `world`, a provisioner with its provider behind it."""

from __future__ import annotations

import pickle
import subprocess
import uuid
from dataclasses import replace
from typing import Protocol

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tasks.provisioning.errors import (
    NoCapacity,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
)
from tasks.provisioning.provisioner import (
    Instance,
    InstanceRequest,
    InstanceState,
    Offer,
    Provisioner,
    Timing,
    create_instance,
    terminate_instance,
)

OWNER = "c0ffee00c0ffee00c0ffee00c0ffee00"
OTHER_OWNER = "beefbeefbeefbeefbeefbeefbeefbeef"


class World(Protocol):
    """A provisioner, and its provider from the other side.

    Attributes:
        provisioner: What is tested.
        timing: How long is waited for it.
        secrets: What must never show, besides the host key of requests.
    """

    provisioner: Provisioner
    timing: Timing
    secrets: tuple[str, ...]

    def costing(self) -> int:
        """How many machines of ours cost the account something now."""
        ...


class ServiceWorld(World, Protocol):
    """With a service's bad days; each of them lasts for one call of the service that it can happen to."""

    def lose_answer_to_create(self) -> None:
        """The machine is made, and nobody is told."""
        ...

    def lose_create(self) -> None:
        """No machine is made, and nobody is told."""
        ...

    def sell_out(self, kind: str) -> None:
        """There are none of this kind, from now on."""
        ...

    def refuse_key(self) -> None:
        """The key is not valid, from now on."""
        ...

    def go_down(self) -> None:
        """Nothing works, from now on."""
        ...

    def come_back(self) -> None:
        """All works again."""
        ...

    def stumble(self, times: int) -> None:
        """The next calls that only look fail, each at its first attempts."""
        ...

    def delay_end(self) -> None:
        """The next machine that is released does not end for longer than a release waits."""
        ...

    def hurry_end(self) -> None:
        """What was delayed ends now."""
        ...

    def others_untouched(self) -> bool:
        """Whether machines of other people, which there are from the start, are as they were."""
        ...


def new_host_key() -> str:
    """A private key as OpenSSH writes it."""
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    ).decode()


def new_public_key() -> str:
    """A line of authorized_keys; nobody has the private key."""
    key = Ed25519PrivateKey.generate().public_key()
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode() + " test"


def new_request(
    offer: Offer, *, owner: str = OWNER, public_key: str | None = None, max_age_s: float = 3600.0
) -> InstanceRequest:
    request_id = uuid.uuid4().hex
    return InstanceRequest(
        request_id=request_id,
        owner=owner,
        offer=offer,
        public_key=public_key or new_public_key(),
        host_private_key=new_host_key(),
        max_age_s=max_age_s,
    )


def in_haste(world: World) -> None:
    """Let what follows give up soon, where giving up is what is tested."""
    world.timing = replace(world.timing, settle_s=0.3, release_s=0.3)


def created(world: World, request: InstanceRequest, provisioner: Provisioner | None = None) -> Instance:
    """As leases create a machine: asked for once, and looked for after a lost reply."""
    return create_instance(provisioner or world.provisioner, request, world.timing)


def ended(world: World, instance_id: str, provisioner: Provisioner | None = None) -> None:
    """As leases end a machine: until its provider shows that it costs no more."""
    terminate_instance(provisioner or world.provisioner, instance_id, world.timing)


def ours(world: World, owner: str = OWNER) -> list[str]:
    return sorted(machine.instance_id for machine in world.provisioner.list(owner))


def texts_of(error: BaseException) -> str:
    """All that is told of an error and of what caused it."""
    told, each = "", error
    while True:
        told += f"{each!r} {each} {vars(each)} "
        following = each.__cause__ or each.__context__
        if following is None:
            return told
        each = following


class SeamContract:
    """Whatever lends machines."""

    @pytest.fixture
    def offer(self, world: World) -> Offer:
        return next(offer for offer in world.provisioner.offers() if offer.available is not False)

    @pytest.fixture
    def machine(self, world: World, offer: Offer) -> Instance:
        return created(world, new_request(offer))

    def test_offers_have_kind_title_and_price_and_rent_nothing(self, world: World) -> None:
        offers = world.provisioner.offers()
        assert offers
        for offer in offers:
            assert offer.provider == world.provisioner.provider
            assert offer.kind
            assert offer.title
            assert 0 <= offer.price_usd_per_hour < 1000
            assert offer.gpu_memory_gib is None or offer.gpu_memory_gib > 0
        assert world.costing() == 0

    def test_an_acquired_machine_tells_owner_and_name_and_is_found_and_listed(self, world: World, offer: Offer) -> None:
        request = new_request(offer)
        machine = created(world, request)
        assert (machine.provider, machine.owner) == (world.provisioner.provider, OWNER)
        assert machine.name == request.name
        assert machine.state in {InstanceState.STARTING, InstanceState.RUNNING}
        found = world.provisioner.describe(machine.instance_id)
        assert (found.instance_id, found.owner, found.name) == (machine.instance_id, OWNER, request.name)
        assert ours(world) == [machine.instance_id]
        assert world.costing() == 1

    def test_the_same_request_twice_is_one_machine(self, world: World, offer: Offer) -> None:
        request = new_request(offer)
        first, second = created(world, request), created(world, request)
        assert first.instance_id == second.instance_id
        assert world.costing() == 1

    def test_a_machine_gets_an_address(self, world: World, machine: Instance) -> None:
        looks = [world.provisioner.describe(machine.instance_id) for _ in range(20)]
        assert looks[-1].state is InstanceState.RUNNING
        assert looks[-1].address is not None

    def test_another_owner_sees_none_of_ours(self, world: World, machine: Instance) -> None:
        assert ours(world, OTHER_OWNER) == []
        assert ours(world, OWNER[:-1]) == []

    def test_a_released_machine_is_gone_and_listed_no_more(self, world: World, machine: Instance) -> None:
        ended(world, machine.instance_id)
        assert world.costing() == 0
        assert world.provisioner.describe(machine.instance_id).state is InstanceState.GONE
        assert ours(world) == []

    def test_releasing_twice_does_nothing(self, world: World, machine: Instance) -> None:
        ended(world, machine.instance_id)
        ended(world, machine.instance_id)
        assert world.costing() == 0

    def test_after_a_release_a_new_request_gets_a_machine(self, world: World, offer: Offer, machine: Instance) -> None:
        ended(world, machine.instance_id)
        again = created(world, new_request(offer))
        assert ours(world) == [again.instance_id]

    def test_no_secret_shows_in_what_is_printed(self, world: World, offer: Offer) -> None:
        request = new_request(offer)
        machine = created(world, request)
        shown = "".join(f"{each!r} {each}" for each in (request, machine, world.provisioner, vars(world.provisioner)))
        for secret in (*world.secrets, request.host_private_key.splitlines()[1]):
            assert secret not in shown

    def test_scripts_are_shell_and_hold_no_secret(self, world: World) -> None:
        scripts = world.provisioner.scripts
        for script in (scripts.end, scripts.renew_host_key):
            checked = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True, check=False)
            assert checked.stderr == ""
            assert not any(secret in script for secret in world.secrets)


class ServiceContract(SeamContract):
    """A service across a network that costs money."""

    def test_two_requests_are_two_machines(self, world: ServiceWorld, offer: Offer) -> None:
        machines = {created(world, new_request(offer)).instance_id for _ in range(2)}
        assert ours(world) == sorted(machines)
        assert world.costing() == 2

    def test_a_machine_whose_reply_was_lost_is_found_and_not_made_again(
        self, world: ServiceWorld, offer: Offer
    ) -> None:
        world.lose_answer_to_create()
        machine = created(world, new_request(offer))
        assert ours(world) == [machine.instance_id]
        assert world.costing() == 1

    def test_a_request_that_was_lost_is_no_machine_and_may_be_asked_again(
        self, world: ServiceWorld, offer: Offer
    ) -> None:
        world.lose_create()
        in_haste(world)
        request = new_request(offer)
        with pytest.raises(ProviderUnavailable):
            created(world, request)
        assert world.costing() == 0
        assert created(world, request).name == request.name
        assert world.costing() == 1

    def test_none_of_a_kind_is_no_capacity_and_another_kind_can_be_had(self, world: ServiceWorld, offer: Offer) -> None:
        world.sell_out(offer.kind)
        with pytest.raises(NoCapacity):
            created(world, new_request(offer))
        assert world.costing() == 0
        other = next(
            each for each in world.provisioner.offers() if each.kind != offer.kind and each.available is not False
        )
        created(world, new_request(other))
        assert world.costing() == 1

    def test_a_wrong_key_is_refused_everywhere_and_does_not_show(
        self, world: ServiceWorld, offer: Offer, machine: Instance
    ) -> None:
        world.refuse_key()
        request = new_request(offer)
        for call in (
            world.provisioner.offers,
            lambda: created(world, request),
            lambda: world.provisioner.describe(machine.instance_id),
            lambda: world.provisioner.list(OWNER),
            lambda: ended(world, machine.instance_id),
        ):
            with pytest.raises(ProviderRefused) as caught:
                call()
            self._check_error(world, caught.value, request)
        world.come_back()
        assert world.costing() == 1

    def test_a_service_that_is_down_is_unavailable_everywhere(
        self, world: ServiceWorld, offer: Offer, machine: Instance
    ) -> None:
        world.go_down()
        patient = world.timing
        in_haste(world)
        request = new_request(offer)
        for call in (
            world.provisioner.offers,
            lambda: created(world, request),
            lambda: world.provisioner.describe(machine.instance_id),
            lambda: world.provisioner.list(OWNER),
        ):
            with pytest.raises(ProviderUnavailable) as caught:
                call()
            self._check_error(world, caught.value, request)
        with pytest.raises(ProviderUnavailable, match="may still cost") as unproven:
            ended(world, machine.instance_id)
        self._check_error(world, unproven.value, request)
        world.come_back()
        world.timing = patient
        assert world.costing() == 1
        ended(world, machine.instance_id)
        assert world.costing() == 0

    def test_what_only_looks_is_tried_again(self, world: ServiceWorld, machine: Instance) -> None:
        world.stumble(2)
        assert world.provisioner.describe(machine.instance_id).instance_id == machine.instance_id
        world.stumble(2)
        assert ours(world) == [machine.instance_id]

    def test_an_end_that_is_not_proved_is_said_and_may_be_asked_for_again(
        self, world: ServiceWorld, machine: Instance
    ) -> None:
        world.delay_end()
        patient = world.timing
        in_haste(world)
        with pytest.raises(ProviderUnavailable, match="may still cost") as caught:
            ended(world, machine.instance_id)
        assert machine.instance_id in str(caught.value)
        assert caught.value.is_transient
        world.hurry_end()
        world.timing = patient
        ended(world, machine.instance_id)
        assert world.provisioner.describe(machine.instance_id).state is InstanceState.GONE
        assert world.costing() == 0

    def test_machines_of_others_are_neither_listed_nor_touched(self, world: ServiceWorld, offer: Offer) -> None:
        first = created(world, new_request(offer))
        theirs = created(world, new_request(offer, owner=OTHER_OWNER))
        assert ours(world) == [first.instance_id]
        assert ours(world, OTHER_OWNER) == [theirs.instance_id]
        ended(world, first.instance_id)
        assert ours(world, OTHER_OWNER) == [theirs.instance_id]
        assert world.others_untouched()

    @staticmethod
    def _check_error(world: World, error: ProviderError, request: InstanceRequest) -> None:
        told = texts_of(error)
        for secret in (*world.secrets, request.host_private_key.splitlines()[1]):
            assert secret not in told
        copied = pickle.loads(pickle.dumps(error))  # noqa: S301 -- our own
        assert (type(copied), str(copied)) == (type(error), str(error))
