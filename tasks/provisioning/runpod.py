"""GPUs by the hour from RunPod, over version 2 of its REST API.

Creating a pod has no idempotency key there, and names are not unique: a machine's name carries owner and request, and
it is looked for by that name. The end of a pod is proved by 404 alone.
"""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasPath, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from tasks.core.names import HostAddress
from tasks.provisioning.errors import NotFound, ProviderRefused, ProviderUnavailable
from tasks.provisioning.provisioner import (
    Instance,
    InstanceRequest,
    InstanceScripts,
    InstanceState,
    Offer,
    gone,
    owner_and_request,
)
from tasks.provisioning.runpod_api import API_URL, PROVIDER, RunPodApi

MACHINE_VARIABLE = "JADE_MACHINE"
"""Holds the machine's name in its environment: people rename pods, and a renamed pod is still ours to pay for."""
ARGUMENTS = """bash -c 'eval "$JADE_START"'"""
"""The container's command. The script itself travels in the environment, where nothing takes its quotes apart."""
END = 'mkdir -p "$HOME/.jade" && : > "$HOME/.jade/end-machine"'
"""Asks the pod's first process to end the pod; it does so within seconds."""
RENEW_HOST_KEY = 'sh "$HOME/.jade/renew-host-key"'
"""Makes a new host key and prints its public line."""
_START = Path(__file__).with_name("runpod_start.sh")
_LOOK_S = 2

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


@dataclass(frozen=True)
class RunPodSettings:
    """What a pod shall be, and how long to wait for the service.

    Attributes:
        image: Container image with Python 3.11+, torch, numpy and an SSH server.
        min_cuda: Of the driver, such as `12.8`: what the image's torch needs; empty if anything will do.
        disk_gb: Container disk.
        cloud: `SECURE` data centres, or machines of the `COMMUNITY`.
        data_centers: Where it may be, such as `EU-RO-1`; empty if anywhere.
        start_command: What the image starts by itself; it admits `PUBLIC_KEY` and starts the SSH server.
        host_key_folder: Where the image's SSH server has its keys.
        pid_file: Where it writes its process id.
        pod_may_delete_itself: Whether the key that the service puts into each pod may delete that pod. The service
            does not promise it: say so only for an account where it was seen to work.
        api_url: Base of the service's API.
    """

    image: str = "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404"
    min_cuda: str = "12.8"
    disk_gb: int = 20
    cloud: Literal["SECURE", "COMMUNITY"] = "SECURE"
    data_centers: tuple[str, ...] = ()
    start_command: str = "/start.sh"
    host_key_folder: str = "/etc/ssh"
    pid_file: str = "/run/sshd.pid"
    pod_may_delete_itself: bool = False
    api_url: str = API_URL


class _Answer(BaseModel):
    # Services add fields without notice; and what a pod's environment holds must not show in an error.
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class Pod(_Answer):
    """A pod as the service tells of it; of its many fields, those that count here."""

    id: str = Field(min_length=1)
    name: str
    status: str
    cost: float = Field(ge=0, allow_inf_nan=False)
    env: Mapping[str, str] = Field(default_factory=dict, repr=False)
    host: str | None = Field(None, validation_alias=AliasPath("ssh", "direct", "host"))
    port: int | None = Field(None, validation_alias=AliasPath("ssh", "direct", "port"))
    user: str | None = Field(None, validation_alias=AliasPath("ssh", "direct", "username"))
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

    def instance(self) -> Instance:
        """Return it in the words of the seam; an address that makes no sense counts as none."""
        address, problem = None, ""
        if self.host is not None and self.port is not None and self.user is not None:
            try:
                address = HostAddress(self.host, self.port, self.user)
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
    price: Mapping[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    max_count: Mapping[str, int] = Field(alias="maxCount")
    availability: str | None = None
    data_centers: tuple[_DataCenter, ...] = Field((), alias="dataCenters")

    def offer(self, *, cloud: str, data_centers: tuple[str, ...]) -> Offer | None:
        """Return it as an offer; None if this cloud does not have it, or tells no price.

        Args:
            cloud: `SECURE` or `COMMUNITY`.
            data_centers: Where it may be; empty if anywhere.
        """
        is_there, name = self.secure if cloud == "SECURE" else self.community, cloud.lower()
        price = self.price.get(name, 0.0)
        if not is_there or self.max_count.get(name, 0) < 1 or price <= 0:
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


class RunPodProvisioner:
    """RunPod as a `Provisioner`.

    Args:
        api: The service.
        settings: What pods shall be.
        now: Seconds since 1970: what a machine's age is counted from.
    """

    provider = PROVIDER

    def __init__(
        self,
        api: RunPodApi,
        settings: RunPodSettings | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._api, self._settings, self._now = api, settings or RunPodSettings(), now
        self.scripts = InstanceScripts(END, self._settings.pod_may_delete_itself, RENEW_HOST_KEY)

    def offers(self) -> Sequence[Offer]:
        """Return what can be had. GPUs without a price, and those that the chosen cloud never has, are left out."""
        settings, doing = self._settings, "list GPUs"
        params = {"include": "AVAILABILITY", "product": "POD", "count": "1", "cloud": settings.cloud}
        catalogue = _read(Catalogue, self._api.get("catalog", "gpus", doing=doing, params=params), doing)
        offers = (gpu.offer(cloud=settings.cloud, data_centers=settings.data_centers) for gpu in catalogue.gpus)
        return sorted((offer for offer in offers if offer is not None), key=lambda offer: offer.price_usd_per_hour)

    def create(self, request: InstanceRequest) -> Instance:
        """Ask for one pod."""
        doing = f"create a pod with {request.offer.kind}"
        body, secrets = self._pod_body(request)
        return _read(Pod, self._api.create("pods", doing=doing, body=body, secrets=secrets), doing).instance()

    def describe(self, instance_id: str) -> Instance:
        """Return how a pod stands."""
        doing = f"look at pod {instance_id}"
        try:
            return _read(Pod, self._api.get("pods", instance_id, doing=doing), doing).instance()
        except NotFound:
            return gone(PROVIDER, instance_id)

    def list(self, owner: str) -> Sequence[Instance]:
        """Return the owner's pods. One that was renamed is known by its environment."""
        doing = "list pods"
        listed = _read(PodList, self._api.get("pods", doing=doing), doing)
        # What others have there need not make sense to us.
        pods = [_read(Pod, told, doing) for told in listed.pods if _may_be_ours(told)]
        return [pod.instance() for pod in pods if pod.owner == owner]

    def terminate(self, instance_id: str) -> Instance:
        """Delete a pod, unless it is gone."""
        found = self.describe(instance_id)
        if found.state is InstanceState.GONE:
            return found
        if not found.owner:
            raise ProviderRefused(PROVIDER, f"end machine {instance_id}", f"{found.name!r} is no machine of ours")
        with contextlib.suppress(NotFound):
            self._api.delete("pods", instance_id, doing=f"delete pod {instance_id}")
        return found

    def _pod_body(self, request: InstanceRequest) -> tuple[dict[str, Any], tuple[str, ...]]:
        """What is posted, and what of it must not show."""
        settings = self._settings
        ours = {
            MACHINE_VARIABLE: request.name,
            "PUBLIC_KEY": request.public_key.strip(),
            "JADE_HOST_KEY": base64.b64encode(request.host_private_key.encode()).decode(),
            "JADE_ENDS_AT": str(int(self._now() + request.max_age_s)),
            "JADE_API": self._api.url,
            "JADE_START": self._start_script(),
        }
        body: dict[str, Any] = {
            "name": request.name,
            "image": settings.image,
            "args": ARGUMENTS,
            "gpu": {"id": request.offer.kind, "count": 1},
            "cloud": settings.cloud,
            "disk": settings.disk_gb,
            "ports": ["22/tcp"],
            "env": ours,
        }
        if settings.min_cuda:
            body["gpu"]["minCudaVersion"] = settings.min_cuda
        if settings.data_centers:
            body["dataCenterIds"] = list(settings.data_centers)
        return body, (ours["JADE_HOST_KEY"], request.host_private_key)

    def _start_script(self) -> str:
        settings, script = self._settings, _START.read_text("utf-8")
        for mark, value in (
            ("@HOST_KEYS@", settings.host_key_folder),
            ("@PID_FILE@", settings.pid_file),
            ("@START@", settings.start_command),
            ("@LOOK_S@", str(_LOOK_S)),
        ):
            script = script.replace(mark, value)
        return script


def _read(kind: type[T], answer: Any, doing: str) -> T:
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


def _may_be_ours(told: dict[str, Any]) -> bool:
    environment = told.get("env")
    named = environment.get(MACHINE_VARIABLE) if isinstance(environment, dict) else None
    return any(isinstance(name, str) and owner_and_request(name) is not None for name in (told.get("name"), named))
