"""Values at given places, taken in a way whose gradient a GPU can record in deterministic mode too."""

from __future__ import annotations

import torch
from torch import Tensor


def pick(values: Tensor, places: Tensor) -> Tensor:
    """Take values along the last dimension, as `values.gather(-1, places)` does.

    Args:
        values: At least two dimensions.
        places: Int64, of the same shape but for the last dimension.

    Returns:
        Of the places' shape.
    """
    # In deterministic mode a GPU's gradient of gather copies from the host: that waits, and no CUDA graph can hold it.
    return values.gather(-1, places) if values.is_cpu else indexed(values, places)


def indexed(values: Tensor, places: Tensor) -> Tensor:
    """Take them as pick does, by indexing: its gradient is sorted sums, the same bits every time, all on the device."""
    places_RM = places.flatten(0, -2)
    row_R1 = torch.arange(len(places_RM), device=values.device)[:, None]
    return values.flatten(0, -2)[row_R1, places_RM].reshape(places.shape)
