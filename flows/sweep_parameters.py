"""What a user may set on `sweep`: one model for sweep.toml, the command line, the deployment's form and `run.json`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from flows.engine_parameters import EngineParameters
from jade_model.verdict import Metric


class SweepParameters(EngineParameters):
    """Which recipes are tried, on what data, how often, when an arm is stopped, and where all of it runs."""

    data: list[str] = Field(
        default=[],
        title="Data",
        description="Parquet files, folders or globs of labelled windows, pooled. Empty: the built-in sample.",
    )
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
    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, title="Epochs", description="Passes over the training windows; empty: the recipes'."
    )
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
    checkpoint: Literal["last", "best"] = Field(
        default="last",
        title="Checkpoint",
        description="Score the last epoch's weights, or those of the best validation loss.",
    )
    min_span_length: int = Field(
        default=1,
        ge=1,
        le=1024,
        title="Minimum span length",
        description="Shorter predicted spans are dropped, in bars.",
    )
    merge_gap: int = Field(
        default=0, ge=0, le=1024, title="Merge gap", description="Gaps up to this many bars between spans are closed."
    )
    artifacts: str | None = Field(
        default=None,
        title="Artifacts",
        description="What keeps the runs: a folder or s3://bucket/prefix; empty: the settings', else `artifacts`.",
    )
    fresh: bool = Field(
        default=False,
        title="Fresh",
        description="Train again even where the same training is kept from an earlier run.",
    )
