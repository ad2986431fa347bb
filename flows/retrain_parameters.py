"""What a user may set on `retrain`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

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
    Spot,
    rental_wish,
)
from jade_model.config import Loss
from tasks.host_entries import LOCAL
from tasks.rental_wish import RentalWish


class RetrainParameters(BaseModel):
    """What is trained on which data, what it has to show to be promoted, and where all of it goes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: list[str] = Field(
        default=[],
        title="Data",
        description="Parquet files, folders or globs of labelled windows, joined. Empty: the built-in sample.",
    )
    arm: Loss | None = Field(
        default=None, title="Arm", description="Loss to train; empty: the one that the last comparison preferred."
    )
    recipe: Literal["jade", "seed"] = Field(
        default="jade",
        title="Recipe",
        description="`jade`: the best recipe known for the arm. `seed`: the original's settings, faithfully.",
    )
    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, title="Epochs", description="Passes over the training windows; empty: the recipe's (50)."
    )
    folds: int = Field(
        default=5, ge=2, le=50, title="Folds", description="Whose models give out-of-fold predictions to judge by."
    )
    holdout: float = Field(
        default=0.2,
        gt=0,
        lt=0.9,
        title="Hold-out",
        description="Share of groups that no model sees, the same ones in every retraining.",
    )
    ensemble: int = Field(default=1, ge=1, le=20, title="Ensemble", description="Members whose marginals are averaged.")
    margin: float = Field(
        default=0.03,
        gt=0,
        lt=1,
        title="Margin",
        description="F1 that the new model may be worse than the champion at most.",
    )
    max_calibration_error: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        title="Calibration error",
        description="Expected calibration error that the new model may have at most.",
    )
    max_drift: float = Field(
        default=0.25,
        gt=0,
        title="Drift",
        description="Population stability index that a feature may have against the champion's data.",
    )
    promote: bool = Field(
        default=True, title="Promote", description="Make it the champion if it passes; else it stays a challenger."
    )
    host: str = Field(
        default=LOCAL,
        title="Host",
        description="Where the trainings run: `local`, a host that `jade hosts list` shows, or who rents one out: "
        "`runpod`, `ec2`; `static` takes a free one of the hosts.",
        min_length=1,
    )
    gpu: Gpus = []
    max_price: MaxPrice = None
    max_hours: MaxHours = MAX_HOURS
    budget: Budget = None
    spot: Spot = False
    orphan_grace: OrphanGrace = ORPHAN_GRACE_MIN
    accept_unreaped: AcceptUnreaped = False
    owner: Owner = None
    device: Literal["cpu", "cuda"] | None = Field(
        default=None, title="Device", description="What trains there; empty: the host's own setting."
    )
    workers: Annotated[int, Field(ge=1, le=256)] | None = Field(
        default=None, title="Workers", description="Training processes at once; empty: one a core."
    )
    artifacts: str | None = Field(
        default=None,
        title="Artifacts",
        description="What keeps the runs: a folder or s3://bucket/prefix; empty: the settings', else `artifacts`.",
    )
    fresh: bool = Field(
        default=False, title="Fresh", description="Train again even where the same training is kept from before."
    )

    def rental_wish(self) -> RentalWish:
        """Return what is to be rented, if the host is one that rents."""
        return rental_wish(self.host, {name: getattr(self, name) for name in RENT_FIELDS})
