"""What a user may set on `compare`: one model for the command line, the deployment's form and `run.json`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from flows.parameters.engine import Engine, Hosts, Scheduler
from flows.parameters.fields import (
    Artifacts,
    Checkpoint,
    Data,
    Device,
    Ensemble,
    Epochs,
    Fresh,
    Host,
    MergeGap,
    MinSpanLength,
    NumWorkers,
    RecipeFamily,
)
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
from jade_model.core.config import LOSSES, Loss
from tasks.execution.placement import Placement
from tasks.settings.host_entries import LOCAL

ALL_ARMS: list[Loss] = list(LOSSES)


class CompareParameters(BaseModel):
    """Which arms are compared, on what data, how often, and where the results go."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Data = []
    arms: list[Loss] = Field(
        default=ALL_ARMS,
        title="Arms",
        description="Losses to compare, in order: a difference is first minus second.",
        min_length=2,
    )
    recipe: RecipeFamily = "jade"
    epochs: Epochs = None
    seeds: int = Field(default=1, ge=1, le=100, title="Seeds", description="Repetitions with fresh splits and weights.")
    folds: int = Field(
        default=3,
        ge=1,
        le=50,
        title="Folds",
        description="Folds of the grouped cross-validation; 1 is a single 60/20/20 split.",
    )
    split: Literal["grouped", "seed"] = Field(
        default="grouped",
        title="Split",
        description="`grouped`: no bar on two sides. `seed`: the original's leaking 80/20, for old numbers only.",
    )
    ensemble: Ensemble = 1
    checkpoint: Checkpoint = "last"
    margin: float = Field(
        default=0.03,
        gt=0,
        lt=1,
        title="Margin",
        description="Differences in F1 up to this count as equivalent.",
    )
    min_span_length: MinSpanLength = 1
    merge_gap: MergeGap = 0
    host: Host = LOCAL
    device: Device = None
    workers: NumWorkers = None
    parallel_arms: bool = Field(
        default=False,
        title="Parallel arms",
        description="On a GPU, train one of each arm side by side if its memory allows; a CPU does so anyway.",
    )
    artifacts: Artifacts = None
    fresh: Fresh = False
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

    @field_validator("arms")
    @classmethod
    def _arms_once(cls, arms: list[Loss]) -> list[Loss]:
        if len(set(arms)) != len(arms):
            raise ValueError(f"each arm may be named once, not {arms}")
        return arms

    @model_validator(mode="after")
    def _seed_split_is_one_split(self) -> CompareParameters:
        if self.split == "seed" and "folds" in self.model_fields_set and self.folds != 1:
            raise ValueError("split `seed` is a single split: leave folds empty or set it to 1")
        return self

    @model_validator(mode="after")
    def _workers_or_parallel_arms(self) -> CompareParameters:
        if self.parallel_arms and self.workers is not None:
            raise ValueError(
                "workers says how many train at once: leave it empty for parallel arms, or leave those out"
            )
        return self

    @model_validator(mode="after")
    def _engine_or_host(self) -> CompareParameters:
        if self.engine != "processes" and (self.host != LOCAL or self.parallel_arms):
            raise ValueError(f"engine {self.engine} says where trainings run: leave host and parallel arms out")
        return self

    @property
    def placement(self) -> Placement:
        """Where it runs."""
        return placement_of(self, "arms" if self.parallel_arms else self.workers)

    @property
    def num_folds(self) -> int:
        """Folds a seed: the seed's split has one."""
        return 1 if self.split == "seed" else self.folds

    def recipe_name(self, arm: Loss) -> str:
        """Return the name of the recipe that an arm is trained with."""
        return f"{self.recipe}_{arm}"
