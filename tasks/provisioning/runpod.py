"""GPUs by the hour from RunPod, over version 2 of its REST API.

Creating a pod has no idempotency key there, and names are not unique. So a machine's name carries owner and request;
whoever asks again, or got no reply, looks for that name first. The end of a pod is proved by 404 alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tasks.provisioning.provider_calls import looks
from tasks.provisioning.provider_errors import (
    NothingSent,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    RequestRefused,
    TerminationUnproven,
)
from tasks.provisioning.provisioner import (
    Instance,
    InstanceRequest,
    InstanceScripts,
    InstanceState,
    Offer,
    owner_and_request,
)
from tasks.provisioning.runpod_answers import MACHINE_VARIABLE, Catalogue, Pod, PodList, read
from tasks.provisioning.runpod_api import PROVIDER, NotThere, RunPodAccess, RunPodApi
from tasks.provisioning.runpod_start import ARGUMENTS, END, RENEW_HOST_KEY, start_environment

_log = logging.getLogger(__name__)


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
        settle_s: After a lost reply: how long to look for the pod, for lists lag behind.
        release_s: How long to wait for the proof of an end.
        look_s: Pause between two looks at first; doubled each time.
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
    settle_s: float = 30.0
    release_s: float = 120.0
    look_s: float = 1.0


class RunPodProvisioner:
    """See `Provisioner`.

    Args:
        access: Address, key, limits of single calls.
        settings: What pods shall be.
        now: Seconds since 1970: what a machine's age is counted from.
        sleep: Waits.
    """

    def __init__(
        self,
        access: RunPodAccess,
        settings: RunPodSettings | None = None,
        *,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._api = RunPodApi(access, sleep=sleep)
        self._settings = settings or RunPodSettings()
        self._now, self._sleep = now, sleep

    @property
    def provider(self) -> str:
        """See `Provisioner`."""
        return PROVIDER

    @property
    def scripts(self) -> InstanceScripts:
        """See `Provisioner`."""
        return InstanceScripts(END, self._settings.pod_may_delete_itself, RENEW_HOST_KEY)

    def offers(self) -> Sequence[Offer]:
        """See `Provisioner`. GPUs without a price, and those that the chosen cloud never has, are left out."""
        settings, doing = self._settings, "list GPUs"
        params = {"include": "AVAILABILITY", "product": "POD", "count": "1", "cloud": settings.cloud}
        catalogue = read(Catalogue, self._api.get("catalog", "gpus", doing=doing, params=params), doing)
        offers = (gpu.offer(cloud=settings.cloud, data_centers=settings.data_centers) for gpu in catalogue.gpus)
        return sorted((offer for offer in offers if offer is not None), key=lambda offer: offer.price_usd_per_hour)

    def create(self, request: InstanceRequest) -> Instance:
        """See `Provisioner`. Of several pods of the same name, the oldest stays and the others are ended."""
        doing = f"create a pod with {request.offer.kind}"
        body, secrets = self._pod_body(request, doing)
        if (found := self._one_called(request.name)) is not None:
            return found
        try:
            answer = self._api.create("pods", doing=doing, body=body, secrets=secrets)
            return read(Pod, answer, doing).machine()
        except (NothingSent, RateLimited):
            raise
        except ProviderUnavailable as error:
            return self._recover(request.name, error)

    def describe(self, instance_id: str) -> Instance:
        """See `Provisioner`."""
        doing = f"look at pod {instance_id}"
        try:
            return read(Pod, self._api.get("pods", instance_id, doing=doing), doing).machine()
        except NotThere:
            return Instance(PROVIDER, instance_id, "", "", InstanceState.GONE, None, 0.0, None, "the service denies it")

    def list(self, owner: str) -> Sequence[Instance]:
        """See `Provisioner`. A pod that was renamed is known by its environment."""
        return [pod.machine() for pod in self._pods() if pod.owner == owner]

    def terminate(self, instance_id: str) -> None:
        """See `Provisioner`. Deletes, and returns once the service denies knowing the pod.

        Raises:
            TerminationUnproven: It does not deny it in time. Transient.
            ApiKeyRefused: The key may not delete it.
            RequestRefused: It is not one of ours; nothing was sent that could end it.
        """
        problem = ""
        for _ in looks(self._settings.release_s, self._settings.look_s, self._sleep):
            try:
                found = self.describe(instance_id)
            except ProviderUnavailable as error:
                problem = str(error)
                continue
            if found.state is InstanceState.GONE:
                return
            if not found.owner:
                raise RequestRefused(PROVIDER, f"release {instance_id}", f"{found.name!r} is no machine of ours")
            problem = f"the service still shows it as {found.detail}"
            try:
                self._delete(instance_id)
            except ProviderUnavailable as error:
                # Such as 409 from a pod that is just ending: only a look tells.
                problem += f" after {error}"
        raise TerminationUnproven(PROVIDER, instance_id, problem)

    def _delete(self, instance_id: str) -> None:
        try:
            self._api.delete("pods", instance_id, doing=f"delete pod {instance_id}")
        except NotThere:
            _log.debug("pod %s was gone before it was deleted", instance_id)

    def _pods(self) -> Sequence[Pod]:
        """Every pod with a name of ours, whoever's. What others have there need not make sense to us."""
        doing = "list pods"
        listed = read(PodList, self._api.get("pods", doing=doing), doing)
        return [read(Pod, told, doing) for told in listed.pods if _may_be_ours(told)]

    def _one_called(self, name: str) -> Instance | None:
        """Return the pod of that name, one that still runs if there is one; None if there is no such pod."""
        same = sorted((pod for pod in self._pods() if pod.instance_name == name), key=lambda pod: pod.age_key)
        alive = [pod for pod in same if pod.status != "TERMINATED"] or same[:1]
        for surplus in alive[1:]:
            _log.warning("two pods are called %s: pod %s is ended, %s stays", name, surplus.id, alive[0].id)
            try:
                self._delete(surplus.id)
            except ProviderError as error:
                # It carries the owner's tag: whoever lists ours finds it.
                _log.warning("pod %s could not be ended: %s", surplus.id, error)
        return alive[0].machine() if alive else None

    def _recover(self, name: str, lost: ProviderUnavailable) -> Instance:
        """Return the pod that a lost reply told of; the list may show it late."""
        for _ in looks(self._settings.settle_s, self._settings.look_s, self._sleep):
            try:
                if (found := self._one_called(name)) is not None:
                    return found
            except ProviderUnavailable as error:
                _log.warning("looking for %s after a lost reply: %s", name, error)
        detail = f"{lost.detail}; no pod called {name} was seen within {self._settings.settle_s:g} s"
        raise ProviderUnavailable(PROVIDER, lost.doing, detail, status=lost.status) from lost

    def _pod_body(self, request: InstanceRequest, doing: str) -> tuple[dict[str, Any], tuple[str, ...]]:
        """What is posted, and what of it must not show."""
        told = owner_and_request(request.name)
        if told != (request.owner, request.request_id):
            raise RequestRefused(PROVIDER, doing, f"the name {request.name!r} does not tell owner and request")
        settings = self._settings
        ours = start_environment(
            host_private_key=request.host_private_key,
            public_key=request.public_key,
            ends_at=self._now() + request.max_age_s,
            api_url=self._api.url,
            start_command=settings.start_command,
            host_key_folder=settings.host_key_folder,
            pid_file=settings.pid_file,
        ) | {MACHINE_VARIABLE: request.name}
        if taken := sorted(ours.keys() & request.environment.keys()):
            raise RequestRefused(PROVIDER, doing, f"the variable {taken[0]} is set by this program itself")
        body: dict[str, Any] = {
            "name": request.name,
            "image": settings.image,
            "args": ARGUMENTS,
            "gpu": {"id": request.offer.kind, "count": 1},
            "cloud": settings.cloud,
            "disk": settings.disk_gb,
            "ports": ["22/tcp"],
            "env": {**request.environment, **ours},
        }
        if settings.min_cuda:
            body["gpu"]["minCudaVersion"] = settings.min_cuda
        if settings.data_centers:
            body["dataCenterIds"] = list(settings.data_centers)
        return body, (ours["JADE_HOST_KEY"], request.host_private_key, *request.environment.values())


def _may_be_ours(told: dict[str, Any]) -> bool:
    environment = told.get("env")
    named = environment.get(MACHINE_VARIABLE) if isinstance(environment, dict) else None
    return any(isinstance(name, str) and owner_and_request(name) is not None for name in (told.get("name"), named))
