"""What scoring says of an arm, as `comparison.json` holds it: the fields' descriptions are its documentation.

Shares are fractions of 1, lengths bars.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Signed = Annotated[float, Field(ge=-1, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Margin = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Metric = Literal["f1", "span_f1_iou50"]
METRICS: tuple[Metric, ...] = get_args(Metric)
Interval = Annotated[tuple[Signed, Signed], Field(strict=False)]


class Part(BaseModel):
    """A part of a file that Jade writes; fields that this version does not know are passed over."""

    model_config = ConfigDict(
        frozen=True, strict=True, allow_inf_nan=False, json_schema_extra={"additionalProperties": False}
    )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values of all fields that were given."""
        return self.model_dump(mode="json", exclude_unset=True)


class Scores(Part):
    """One set of predictions against the labels."""

    f1: Share = Field(description="bar-level F1, micro-averaged within a seed, mean over seeds")
    precision: Share = Field(description="bar-level, micro")
    recall: Share = Field(description="bar-level, micro")
    macro_f1: Share = Field(description="mean over windows of each window's bar-level F1")
    span_f1_iou50: Share = Field(description="span-level F1 at IoU 0.5, micro")
    span_f1_iou50_95: Share = Field(description="mean of the span-level F1 at IoU 0.5, 0.55 ... 0.95")


class Score(Part):
    """Bar-level and span-level F1."""

    f1: Share = Field(description="bar-level, micro")
    span_f1_iou50: Share = Field(description="span-level at IoU 0.5")


class Separation(Part):
    """Mean probability of bars in and out of labelled spans, and their difference."""

    in_span_mean: Share | None
    out_of_span_mean: Share | None
    separation: Signed | None


class ReliabilityBin(Part):
    """Bars whose probability fell between two edges."""

    lower: Share = Field(description="bin's lower edge")
    upper: Share = Field(description="upper edge")
    mean_probability: Share | None = Field(description="of the bin's bars, null if it has none")
    observed_rate: Share | None = Field(description="share of the bin's bars that are in-span")
    num_bars: Count = Field(description="bars in the bin")


class Histogram(Part):
    """Bars by probability."""

    edges: list[float] = Field(min_length=2, description="bin edges of the probability, one more than counts")
    in_span: list[Count] = Field(description="bars per bin")
    out_of_span: list[Count] = Field(description="bars per bin")


class TypeScore(Part):
    """Share of windows with the right type, and what naming the commonest one gives."""

    accuracy: Share | None
    majority_accuracy: Share | None
