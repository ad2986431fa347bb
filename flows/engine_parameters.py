"""Where trainings run, as `compare` and `sweep` let a user set it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from flows.fields import Device, NumWorkers
from flows.rent_parameters import (
    MAX_HOURS,
    ORPHAN_GRACE_MIN,
    RENT_FIELDS,
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
    rental_wish,
)
from tasks.engines.base import EngineName, EngineSettings
from tasks.rental_wish import RentalWish

Engine = Annotated[
    EngineName,
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

    def engine_settings(self) -> EngineSettings:
        """Return the engine's settings.

        Raises:
            BadRequest: They contradict each other.
        """
        return EngineSettings(
            engine=self.engine,
            device=self.device,
            workers=self.workers,
            scheduler=self.scheduler,
            hosts=tuple(self.hosts),
            rent=self.rent,
            wish=self.wish,
        )

    @property
    def wish(self) -> RentalWish | None:
        """What is rented; None: nothing."""
        if self.provider is None:
            return None
        return rental_wish(self.provider, {name: getattr(self, name) for name in RENT_FIELDS})
