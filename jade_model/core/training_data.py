"""A data set as one recipe trains on it: features and targets as tensors, made once.

Legend: N windows, T bars, F features, S spans of all windows, M spans a window at most, V views of a window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jade_model.core.config import Recipe
from jade_model.core.errors import ConfigError
from jade_model.core.features import feature_set, mirror_bars
from jade_model.core.losses import Labels
from jade_model.core.targets import build_targets, fitted_recipe
from jade_model.core.windows import Windows


@dataclass(frozen=True, eq=False)
class PreparedWindows:
    """A data set as one recipe trains on it, on the CPU.

    Attributes:
        name: Short name of the data set.
        sha256: Digest of the data set's files.
        x_VNTF: Features; V is 2 with mirror augmentation (as they are, upside down), else 1.
        labels: Of N windows.
    """

    name: str
    sha256: str
    x_VNTF: Tensor
    labels: Labels

    @property
    def num_windows(self) -> int:
        """N."""
        return int(self.x_VNTF.shape[1])


def prepare(windows: Windows, recipe: Recipe) -> PreparedWindows:
    """Compute features (mirrored ones too, if the recipe shows them) and targets of every window, once.

    Raises:
        ConfigError: The recipe's model can't express the labels; fitted_recipe gives one that can.
    """
    needed = fitted_recipe(recipe, windows).model
    if needed.max_span_length > recipe.model.max_span_length or needed.several_spans > recipe.model.several_spans:
        raise ConfigError(
            f"{windows.name} has spans of {needed.max_span_length} bars"
            f"{', several in a window' if needed.several_spans else ''}; the recipe {recipe.name} allows "
            f"{recipe.model.max_span_length}{'' if recipe.model.several_spans else ', one in a window'}: "
            "train with fitted_recipe(recipe, windows)"
        )
    features = feature_set(recipe.feature_set)
    views = [windows.bars_NT4]
    if recipe.training.mirror:
        views.append(mirror_bars(windows.bars_NT4))
    targets = build_targets(windows)
    labels = Labels(
        weight_B=torch.tensor(targets.trust_N if recipe.training.trust_weights else np.ones_like(targets.trust_N)),
        in_span_BT=torch.tensor(targets.in_span_NT.astype(np.int64)),
        pointers_B2=torch.tensor(targets.pointers_N2),
        countdown_BT=torch.tensor(targets.countdown_NT),
        type_B=torch.tensor(targets.type_N),
        span_BM2=torch.from_numpy(_padded_spans(windows)),
        num_spans_B=torch.tensor(targets.num_spans_N),
    )
    x_VNTF = torch.from_numpy(np.stack([features.compute(bars_NT4) for bars_NT4 in views]))
    return PreparedWindows(windows.name, windows.sha256, x_VNTF, labels)


def _padded_spans(windows: Windows) -> NDArray[np.int64]:
    """Return every window's spans, int64 [N, M, 2], M at least 1; where it has fewer, its last bar."""
    num_spans_N = windows.num_spans_N
    # A span that exists, whatever comes before it: its weight of 0 then meets no NaN in the gradient.
    last_bar = (windows.window_length - 1, windows.window_length)
    spans_NM2 = np.tile(np.array(last_bar), (windows.num_windows, int(num_spans_N.max(initial=1)), 1))
    rank_S = np.arange(len(windows.spans_S2)) - np.repeat(windows.span_offsets_N1[:-1], num_spans_N)
    spans_NM2[windows.span_row_S, rank_S] = windows.spans_S2
    return spans_NM2
