"""What the network sees of a window: named, causal, price-scale invariant feature sets."""

from jade_model.core.features.sets import FEATURE_SET_NAMES, FeatureSet, feature_set, mirror_bars

__all__ = ["FEATURE_SET_NAMES", "FeatureSet", "feature_set", "mirror_bars"]
