"""What RunPod's API answers, checked, and in the words of the seam."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from tasks.core.names import HostAddress
from tasks.provisioning.provider_errors import ProviderUnavailable
from tasks.provisioning.provisioner import Instance, InstanceState, Offer, owner_and_request
from tasks.provisioning.runpod_api import PROVIDER

MACHINE_VARIABLE = "JADE_MACHINE"
"""Holds the machine's name in its environment: people rename pods, and a renamed pod is still ours to pay for."""

# Ended is what the service denies knowing. A pod that it shows as terminated is not proved to have stopped costing.
_STATES = {
    "PROVISIONING": InstanceState.STARTING,
    "STARTING": InstanceState.STARTING,
    "RUNNING": InstanceState.RUNNING,
    "EXITED": InstanceState.STOPPED,
    "TERMINATED": InstanceState.STOPPED,
    "ERROR": InstanceState.FAILED,
}

T = TypeVar("T", bound=BaseModel)


class _Answer(BaseModel):
    # Services add fields without notice; and what a pod's environment holds must not show in an error.
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class _Endpoint(_Answer):
    host: str
    port: int
    username: str


class _Ssh(_Answer):
    direct: _Endpoint | None = None


class Pod(_Answer):
    """A pod as the service tells of it; of its many fields, those that count here."""

    id: str = Field(min_length=1)
    name: str
    status: str
    cost: float = Field(ge=0, allow_inf_nan=False)
    env: Mapping[str, str] = Field(default_factory=dict, repr=False)
    ssh: _Ssh = _Ssh()
    created_at: AwareDatetime | None = Field(None, alias="createdAt")
    data_center: str | None = Field(None, alias="dataCenterId")

    @property
    def instance_name(self) -> str | None:
        """What we called it; None if it is none of ours, whoever's."""
        for name in (self.name, self.env.get(MACHINE_VARIABLE, "")):
            if owner_and_request(name) is not None:
                return name
        return None

    @property
    def owner(self) -> str:
        """Tag of whoever pays; empty if it is none of ours."""
        told = owner_and_request(self.instance_name or "")
        return told[0] if told else ""

    @property
    def age_key(self) -> tuple[datetime, str]:
        """Sorts the oldest first."""
        return self.created_at or datetime.min.replace(tzinfo=UTC), self.id

    def machine(self) -> Instance:
        """Return it in the words of the seam; an address that makes no sense counts as none."""
        address, problem = None, ""
        if self.ssh.direct is not None:
            try:
                address = HostAddress(self.ssh.direct.host, self.ssh.direct.port, self.ssh.direct.username)
            except ValueError as error:
                problem = f", without a usable address: {error}"
        place = f" in {self.data_center}" if self.data_center else ""
        return Instance(
            provider=PROVIDER,
            instance_id=self.id,
            name=self.instance_name or self.name,
            owner=self.owner,
            # A state that is not known yet: wait and see, as long as one waits for a start.
            state=_STATES.get(self.status, InstanceState.STARTING),
            address=address,
            price_usd_per_hour=self.cost,
            started_at=self.created_at.astimezone(UTC) if self.created_at else None,
            detail=f"{self.status}{place}{problem}",
        )


class PodList(_Answer):
    """All pods of the account; each is looked at only once it is known to be ours."""

    pods: tuple[dict[str, Any], ...]


class _Prices(_Answer):
    secure: float = Field(ge=0, allow_inf_nan=False)
    community: float = Field(ge=0, allow_inf_nan=False)


class _Counts(_Answer):
    secure: int
    community: int


class _DataCenter(_Answer):
    id: str
    availability: str


class GpuType(_Answer):
    """A GPU of the catalogue."""

    id: str = Field(min_length=1)
    name: str
    memory: float
    secure: bool
    community: bool
    price: _Prices
    max_count: _Counts = Field(alias="maxCount")
    availability: str | None = None
    data_centers: tuple[_DataCenter, ...] = Field((), alias="dataCenters")

    def offer(self, *, cloud: str, data_centers: tuple[str, ...]) -> Offer | None:
        """Return it as an offer; None if this cloud does not have it, or tells no price.

        Args:
            cloud: `SECURE` or `COMMUNITY`.
            data_centers: Where it may be; empty if anywhere.
        """
        is_secure = cloud == "SECURE"
        is_there = self.secure if is_secure else self.community
        count = self.max_count.secure if is_secure else self.max_count.community
        price = self.price.secure if is_secure else self.price.community
        if not is_there or count < 1 or price <= 0:
            return None
        levels = [self.availability] if self.availability else []
        if data_centers:
            levels = [place.availability for place in self.data_centers if place.id in data_centers]
        available = any(level != "NONE" for level in levels) if levels or self.data_centers else None
        return Offer(
            provider=PROVIDER,
            kind=self.id,
            title=self.name,
            gpu_memory_gib=self.memory,
            price_usd_per_hour=price,
            region=", ".join(data_centers),
            available=available,
        )


class Catalogue(_Answer):
    """What GPUs there are."""

    gpus: tuple[GpuType, ...]


def read(kind: type[T], answer: Any, doing: str) -> T:
    """Return an answer of the service, checked.

    Raises:
        ProviderUnavailable: It is not what the API promises; the message says where, and quotes no values.
    """
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, found["loc"])) or "the whole"
        detail = f"an answer that makes no sense at {where}: {found['msg']}"
        raise ProviderUnavailable(PROVIDER, doing, detail) from error
