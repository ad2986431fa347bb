"""What a user may set on `sweep`: one model for sweep.toml, the command line, the deployment's form and `run.json`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from flows.parameters.engine import EngineParameters
from flows.parameters.fields import Artifacts, Checkpoint, Data, Epochs, Fresh, MergeGap, MinSpanLength
from jade_model.statistics.verdict import Metric


class SweepQuestion(BaseModel):
    """Which recipes are tried, on what data, how often, and when an arm is stopped: what the form shows first."""

    data: Data = Field(default=[])
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
    seeds: int = Field(default=3, ge=1, le=100, title="Seeds", description="Rounds with fresh splits and weights.")
    folds: int = Field(
        default=5,
        ge=1,
        le=50,
        title="Folds",
        description="Folds of the grouped cross-validation; 1 is a single 60/20/20 split.",
    )
    metric: Metric = Field(default="f1", title="Metric", description="F1 of bars, or of spans at IoU 0.5, that ranks.")
    margin: float = Field(
        default=0.03, gt=0, lt=1, title="Margin", description="Differences in F1 up to this count as equivalent."
    )
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
    checkpoint: Checkpoint = "last"
    min_span_length: MinSpanLength = 1
    merge_gap: MergeGap = 0


class SweepParameters(EngineParameters, SweepQuestion):
    """Which recipes are tried, on what data, how often, when an arm is stopped, and where all of it runs."""

    artifacts: Artifacts = None
    fresh: Fresh = False
