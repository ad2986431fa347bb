"""How many machines of a provider, or of a GPU, all runs of a Prefect server may rent at once: its concurrency limits.

`jade up` makes `provider-runpod` and `provider-ec2`; a limit of a GPU, such as `gpu-nvidia-l4`, holds once somebody has
made it (`prefect gcl create`). What does not exist limits nothing. A process that dies lets go within minutes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from tasks.core.errors import BadRequest
from tasks.provisioning.offers import RentalRequest


def limit_names(provider: str, request: RentalRequest) -> list[str]:
    """Return the limits that a machine counts against: its provider's, and that of each GPU that may be taken."""
    gpus = [re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in request.gpu]
    return [f"provider-{provider}", *dict.fromkeys(f"gpu-{name}" for name in gpus)]


@contextmanager
def machines_admitted(provider: str | None, request: RentalRequest, number: int) -> Iterator[None]:
    """Wait until all limits admit so many machines more, and count them while the block lasts.

    All of them or none: who waits holds nothing that another one waits for.

    Args:
        provider: Of whom; None: nothing is rented.
        request: What is rented.
        number: Of machines at once.

    Raises:
        BadRequest: A limit never admits so many.
    """
    held = []
    if provider is not None and number > 0:
        with get_client(sync_client=True) as client:
            for name in limit_names(provider, request):
                try:
                    limit = client.read_global_concurrency_limit_by_name(name)
                except ObjectNotFound:
                    continue
                if limit.active and limit.limit < number:
                    raise BadRequest(
                        f"{number} machines at once are more than the limit {name} of Prefect admits, {limit.limit}: "
                        f"rent fewer, or raise it (`prefect gcl update {name} --limit {number}`)"
                    )
                held.append(name)
    if not held:
        yield
        return
    # A lease that could not be renewed counts for less than machines that train.
    with concurrency(held, occupy=number, raise_on_lease_renewal_failure=False):
        yield
