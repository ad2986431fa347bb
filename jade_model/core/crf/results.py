"""What a CRF's decoders return.

Legend: B windows, T bars, N paths a window.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class BestPaths:
    """The best path of each window.

    Attributes:
        paths_BT: Tags, int64; 0 on masked bars.
        score_B: Unnormalised log score of the path, nats.
        margin_B: log P(best path) - log P(tag 0 throughout), nats, at least 0; infinite if the latter is
            forbidden.
    """

    paths_BT: Tensor
    score_B: Tensor
    margin_B: Tensor


@dataclass(frozen=True, eq=False)
class KBestPaths:
    """The k best paths of each window, best first.

    Attributes:
        paths_BNT: Tags, int64; 0 on masked bars.
        score_BN: Unnormalised log scores, nats; minus infinity where a window has fewer paths.
    """

    paths_BNT: Tensor
    score_BN: Tensor
