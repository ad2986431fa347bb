"""What a user may set on `retrain`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from flows.parameters.fields import Artifacts, Data, Device, Ensemble, Epochs, Fresh, Host, NumWorkers, RecipeFamily
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
    Spot,
    placement_of,
)
from jade_model.core.config import Loss
from tasks.execution.placement import Placement
from tasks.settings.host_entries import LOCAL


class RetrainParameters(BaseModel):
    """What is trained on which data, what it has to show to be promoted, and where all of it goes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Data = []
    arm: Loss | None = Field(
        default=None, title="Arm", description="Loss to train; empty: the one that the last comparison preferred."
    )
    recipe: RecipeFamily = "jade"
    epochs: Epochs = None
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
    ensemble: Ensemble = 1
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
    host: Host = LOCAL
    device: Device = None
    workers: NumWorkers = None
    artifacts: Artifacts = None
    fresh: Fresh = False
    gpu: Gpus = []
    max_price: MaxPrice = None
    max_hours: MaxHours = MAX_HOURS
    budget: Budget = None
    spot: Spot = False
    orphan_grace: OrphanGrace = ORPHAN_GRACE_MIN
    accept_unreaped: AcceptUnreaped = False
    owner: Owner = None

    @property
    def placement(self) -> Placement:
        """Where it runs."""
        return placement_of(self, self.workers)
