"""The segment model: a softmax over every span that a window can hold, and none."""

from jade_model.core.segment.layer import SegmentModel
from jade_model.core.segment.scorer import SpanScorer

__all__ = ["SegmentModel", "SpanScorer"]
