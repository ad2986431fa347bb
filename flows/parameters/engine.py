"""Where trainings run, as `compare` and `sweep` let a user set it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flows.parameters.fields import Device, Host, NumWorkers
from flows.parameters.rental import (
    MAX_HOURS,
    ORPHAN_GRACE_MIN,
    AcceptUnreaped,
    Budget,
    Gpus,
    MaxHours,
    MaxPrice,
    OrphanGrace,
    Owner,
    Provider,
    Rent,
    Spot,
    placement_of,
)
from tasks.execution.placement import Placement
from tasks.settings.host_entries import LOCAL

Engine = Annotated[
    Literal["processes", "dask", "hosts"],
    Field(
        title="Engine",
        description="What runs the trainings: `processes` here, `dask` on a cluster, `hosts` shared out over SSH.",
    ),
]
Scheduler = Annotated[
    str | None,
    Field(
        title="Scheduler",
        description="Dask scheduler, tcp://HOST:PORT; empty: a cluster on this machine for the time of the run.",
        pattern=r"^(tcp|tls|ucx|ws|wss)://\S+$",
    ),
]
Hosts = Annotated[
    list[str],
    Field(title="Hosts", description="Hosts that share the trainings, as `jade hosts list` shows them."),
]


class EngineParameters(BaseModel):
    """Which engine runs the trainings, and on what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: Host = LOCAL
    engine: Engine = "processes"
    scheduler: Scheduler = None
    hosts: Hosts = []
    rent: Rent = 0
    provider: Provider = None
    gpu: Gpus = []
    max_price: MaxPrice = None
    max_hours: MaxHours = MAX_HOURS
    budget: Budget = None
    spot: Spot = False
    orphan_grace: OrphanGrace = ORPHAN_GRACE_MIN
    accept_unreaped: AcceptUnreaped = False
    owner: Owner = None
    device: Device = None
    workers: NumWorkers = None

    @model_validator(mode="after")
    def _host_or_engine(self) -> EngineParameters:
        if self.host != LOCAL and (self.engine != "processes" or self.hosts or self.rent or self.provider):
            raise ValueError(f"host {self.host} is one host alone: leave engine, hosts, rent and provider out")
        return self

    @property
    def placement(self) -> Placement:
        """Where it runs."""
        return placement_of(self, self.workers)

    @property
    def where(self) -> str:
        """Where the trainings run, in a word for people: a host, or an engine."""
        return self.engine if self.host == LOCAL else self.host
