"""What a CRF is given: checked, brought to one layout, and cut to the bars that count.

Legend: B windows, T bars, K tags.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jade_model.core.crf.tree import NEVER


def check_shapes(
    emissions: Tensor, tags: Tensor | None, mask: Tensor | None, *, num_tags: int, batch_first: bool
) -> None:
    """Refuse what pytorch-crf refuses, in its words, and windows without bars.

    Raises:
        ValueError: Dimensions or shapes differ from what is expected, or a window's first bar is masked.
    """
    if emissions.dim() != 3:
        raise ValueError(f"emissions must have dimension of 3, got {emissions.dim()}")
    if emissions.shape[2] != num_tags:
        raise ValueError(f"expected last dimension of emissions is {num_tags}, got {emissions.shape[2]}")
    if emissions.shape[1 if batch_first else 0] == 0:
        raise ValueError(f"emissions must have at least one bar, got shape {tuple(emissions.shape)}")
    for name, given in (("tags", tags), ("mask", mask)):
        if given is not None and given.shape != emissions.shape[:2]:
            raise ValueError(
                f"the first two dimensions of emissions and {name} must match, "
                f"got {tuple(emissions.shape[:2])} and {tuple(given.shape)}"
            )
    if mask is not None and not (mask[:, 0] if batch_first else mask[0]).all():
        raise ValueError("mask of the first timestep must all be on")


def lengths_of(mask_BT: Tensor | None) -> Tensor | None:
    """Count each window's bars; None if all bars of all windows count.

    Raises:
        ValueError: A bar counts after one that does not.
    """
    if mask_BT is None:
        return None
    mask_BT = mask_BT.bool()
    gap_B = (mask_BT[:, 1:] & ~mask_BT[:, :-1]).any(dim=1)
    if gap_B.any():
        rows = gap_B.nonzero()[:, 0].tolist()
        raise ValueError(
            f"mask has gaps in windows {rows[:10]}: it must be a prefix, True up to the window's last bar "
            "and False after it. Cut the window at the gap, or fill the bars."
        )
    return None if mask_BT.all() else mask_BT.sum(dim=1)


def check_tags(tags_BT: Tensor, num_tags: int) -> None:
    """Refuse tags that are not there.

    Raises:
        ValueError: A tag is negative or not below num_tags.
    """
    if tags_BT.numel() and not 0 <= int(tags_BT.min()) <= int(tags_BT.max()) < num_tags:
        found = f"{int(tags_BT.min())} to {int(tags_BT.max())}"
        raise ValueError(f"tags must lie in 0 to {num_tags - 1} on bars that count, got {found}")


def zero_masked(values: Tensor, length_B: Tensor | None) -> Tensor:
    """Return values, [B, T] or [B, T, K], with 0 on bars that do not count."""
    if length_B is None:
        return values
    masked_BT = torch.arange(values.shape[1], device=values.device) >= length_B[:, None]
    return values.masked_fill(masked_BT if values.dim() == 2 else masked_BT[:, :, None], 0)


def without_forbidden(score: Tensor) -> Tensor:
    """Turn scores of forbidden paths into minus infinity."""
    return score.masked_fill(score < NEVER / 2, -torch.inf)


def to_numpy(length_B: Tensor | None) -> NDArray[np.int64] | None:
    """Return the lengths as the numpy routines take them."""
    return None if length_B is None else length_B.cpu().numpy()
