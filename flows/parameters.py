"""What a user may set on the flows that train: one home for flags, deployments' forms and `run.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from jade_model.core.config import LOSSES, SPAN_HEADS, Loss
from jade_model.scoring.parts import Metric
from tasks.execution.placement import Placement, Where
from tasks.provisioning.offers import RentalRequest
from tasks.settings.models import Tracker


def _names(given: Any) -> Any:
    """Names stand apart or with commas between them."""
    if isinstance(given, Sequence) and all(isinstance(item, str) for item in given):
        given = [given] if isinstance(given, str) else given
        return [name for item in given for name in item.replace(",", " ").split()]
    return given


Data = Annotated[
    list[str],
    BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
    Field(
        min_length=1,
        title="Data",
        description="Parquet files, folders or globs of labelled windows, pooled; `sample`: the built-in sample.",
    ),
]
_ARMS_SCHEMA = {"type": "array", "items": {"type": "string", "enum": list(LOSSES)}, "minItems": 2}
"""What forms offer; a module's own arms are compared without being named."""
_RECIPE_SCHEMA = {
    "anyOf": [
        {"type": "string", "enum": ["jade", "seed"], "title": "known"},
        {"type": "string", "pattern": r"\.toml$", "title": "file", "examples": ["NAME.toml"]},
    ]
}
"""Forms offer the known ones, or a file."""

RecipeFamily = Annotated[
    Literal["jade", "seed"],
    Field(
        title="Recipe",
        description="`jade`: the best recipe known for the loss. `seed`: the original's settings, faithfully.",
    ),
]
Epochs = Annotated[
    Annotated[int, Field(ge=1, le=10_000)] | None,
    Field(title="Epochs", description="Passes over the training windows; empty: the recipe's (50)."),
]
Seeds = Annotated[
    int, Field(ge=1, le=100, title="Seeds", description="Repetitions, or rounds, with fresh splits and weights.")
]
Folds = Annotated[
    int,
    Field(
        ge=1,
        le=50,
        title="Folds",
        description="Folds of the grouped cross-validation; 1 is a single 60/20/20 split.",
    ),
]
Split = Annotated[
    Literal["grouped", "seed"],
    Field(
        title="Split",
        description="`grouped`: no bar on two sides. `seed`: the original's leaking 80/20, for old numbers only.",
    ),
]
Ensemble = Annotated[int, Field(ge=1, le=20, title="Ensemble", description="Members whose marginals are averaged.")]
Margin = Annotated[float, Field(gt=0, lt=1, title="Margin")]


class Scoring(BaseModel):
    """How what was trained is scored, and which differences count."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: Literal["last", "best"] = Field(
        default="last",
        title="Checkpoint",
        description="Score the last epoch's weights, or those of the best validation loss.",
    )
    margin: Margin = Field(default=0.03, description="Differences in F1 up to this count as equivalent.")
    min_span_length: int = Field(
        default=1,
        ge=1,
        le=1024,
        title="Minimum span length",
        description="Shorter predicted spans are dropped, in bars.",
    )
    merge_gap: int = Field(
        default=0,
        ge=0,
        le=1024,
        title="Merge gap",
        description="Gaps up to this many bars between spans are closed.",
    )


class Parameters(BaseModel):
    """What all flows that train can be told: refused if anything is unknown, and never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    placement: Where = Field(default=Where(), title="Placement", description="Where the trainings run.")
    rental: RentalRequest = Field(
        default=RentalRequest(), title="Rental", description="For rented machines, and for them alone."
    )
    artifacts: str | None = Field(
        default=None,
        title="Artifacts",
        description="What keeps the runs: a folder or s3://bucket/prefix; empty: the settings', else `artifacts`.",
    )
    track: Tracker | None = Field(
        default=None,
        title="Track",
        description="Tell MLflow of the run; `MLFLOW_TRACKING_URI` says where. Empty: as the settings say.",
    )
    fresh: bool = Field(
        default=False,
        title="Fresh",
        description="Train again even where the same training is kept from an earlier run.",
    )

    @field_validator("artifacts")
    @classmethod
    def _blank_is_none(cls, artifacts: str | None) -> str | None:
        return (artifacts or "").strip() or None

    @property
    def trains_on(self) -> Placement:
        """Where it trains, and what may be rented for that."""
        return self.placement.renting(self.rental)


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return a model's fields as people are shown them: its own first, then what all flows that train share."""
    shared = Parameters.model_fields
    own = {name: field for name, field in model.model_fields.items() if name not in shared}
    return own | {name: field for name, field in model.model_fields.items() if name in shared}


class CompareParameters(Parameters):
    """Which arms are compared, on what data, how often, and where the results go."""

    data: Data
    arms: Annotated[list[str], BeforeValidator(_names), WithJsonSchema(_ARMS_SCHEMA)] = Field(
        default=list(LOSSES),
        title="Arms",
        description="Losses to compare, in order: a difference is first minus second.",
        min_length=2,
    )
    arm_module: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        title="Arm module",
        description="Python file with arms of your own, which are compared too; it is run. docs/extending.md says how.",
    )
    recipe: Annotated[str, WithJsonSchema(_RECIPE_SCHEMA)] = Field(
        default="jade",
        title="Recipe",
        description="`jade`: the best recipe known for each loss. `seed`: the original's settings, faithfully. "
        "Or a file NAME.toml with settings of your own.",
    )
    epochs: Epochs = None
    seeds: Seeds = 1
    folds: Folds = 3
    split: Split = "grouped"
    ensemble: Ensemble = 1
    scoring: Scoring = Field(default=Scoring(), title="Scoring", description="How what was trained is scored.")

    @model_validator(mode="before")
    @classmethod
    def _with_own_arms(cls, given: Any) -> Any:
        if not (isinstance(given, dict) and isinstance(given.get("arm_module"), str) and given["arm_module"]):
            return given
        from jade_model.core.span_heads.own import load_arms

        return {"arms": [*LOSSES, *load_arms(Path(given["arm_module"]))], **given}

    @field_validator("arms")
    @classmethod
    def _arms_once(cls, arms: list[str]) -> list[str]:
        if len(set(arms)) != len(arms):
            raise ValueError(f"each arm may be named once, not {', '.join(arms)}")
        known = [name for name, entry in SPAN_HEADS.items() if entry.implementation]
        if unknown := [arm for arm in arms if arm not in known]:
            raise ValueError(
                f"no arm {', '.join(unknown)}; choose of {', '.join(known)}; --arm-module brings arms of your own"
            )
        return arms

    @field_validator("recipe")
    @classmethod
    def _recipe_is_known(cls, recipe: str) -> str:
        if recipe not in {"jade", "seed"} and not recipe.endswith(".toml"):
            raise ValueError("must be 'jade', 'seed' or a file NAME.toml")
        return recipe

    @model_validator(mode="after")
    def _seed_split_is_one_split(self) -> CompareParameters:
        if self.split == "seed" and "folds" in self.model_fields_set and self.folds != 1:
            raise ValueError("split `seed` is a single split: leave folds empty or set it to 1")
        return self

    @property
    def num_folds(self) -> int:
        """Folds a seed: the seed's split has one."""
        return 1 if self.split == "seed" else self.folds


class RetrainParameters(Parameters):
    """What is trained on which data, what it has to show to be promoted, and where all of it goes."""

    data: Data
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
    margin: Margin = Field(default=0.03, description="F1 that the new model may be worse than the champion at most.")
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


class SweepParameters(Parameters):
    """Which recipes are tried, on what data, how often, when an arm is stopped, and where all of it runs."""

    data: Data
    grid: dict[str, Any] = Field(
        default={},
        title="Grid",
        description="Setting -> list of values; every combination is an arm. `recipe` must be among them.",
    )
    arms: list[dict[str, Any]] = Field(
        default=[],
        title="Arms",
        description="Arms beside the grid's: each with `recipe`, the settings that differ, and a `name` if wanted.",
    )
    epochs: Epochs = None
    seeds: Seeds = 3
    folds: Folds = 5
    metric: Metric = Field(default="f1", title="Metric", description="F1 of bars, or of spans at IoU 0.5, that ranks.")
    stop_early: bool = Field(
        default=True,
        title="Stop early",
        description="After each seed, stop arms that another is shown to beat.",
    )
    error_rate: float = Field(
        default=0.05,
        gt=0,
        le=0.5,
        title="Error rate",
        description="Probability, over the whole sweep, of stopping an arm for one that is not better.",
    )
    scoring: Scoring = Field(default=Scoring(), title="Scoring", description="How what was trained is scored.")


class TrainParameters(Parameters):
    """Which loss is trained alone, and on what."""

    loss: Loss = Field(title="Loss", description="Which loss.")
    data: Data
    recipe: RecipeFamily = "jade"
    epochs: Epochs = None
    seeds: Seeds = 1
    split: Split = "grouped"
