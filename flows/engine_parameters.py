"""Where trainings run, as `compare` and `sweep` let a user set it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tasks.engines.base import EngineName, EngineSettings

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
    device: Literal["cpu", "cuda"] | None = Field(
        default=None,
        title="Device",
        description="What trains there; empty: the host's own setting, the CPU on this machine.",
    )
    workers: Annotated[int, Field(ge=1, le=256)] | None = Field(
        default=None, title="Workers", description="Training processes at once; empty: one a core."
    )

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
        )
