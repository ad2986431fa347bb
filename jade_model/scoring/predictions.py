"""What one trained model says of some windows: plain arrays, so that decoding needs no torch.

Legend: N windows, T bars, K span scores a bar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from jade_model.core.config import Loss


@dataclass(frozen=True, eq=False)
class Predictions:
    """One model's output on N windows, at one temperature.

    Attributes:
        loss: The span loss that the model was trained with.
        temperature: What the span scores were divided by.
        probability_NT: P(bar in a span), float64: sigmoid (soft span), posterior marginals of the chain (CRF) or of
            the segment (single span).
        path_NT: The most probable joint labelling, bool: probability above 0.5 bar by bar (soft span), Viterbi path
            (CRF), best segment or none (single span).
        margin_N: log P(path_NT) - log P(no span), nats, float64; 0 where the path is empty.
        type_probability_N3: P(type), float64.
        pointers_N2: Trained head's centre and length of the span, as fractions of T.
        countdown_NT: Trained head's bars until the span starts, clipped to [-20, 20].
        posterior_pointers_N2: The same as pointers_N2, read off the span posterior.
        posterior_countdown_NT: The same as countdown_NT, read off the span posterior.
    """

    loss: Loss
    temperature: float
    probability_NT: NDArray[np.float64]
    path_NT: NDArray[np.bool_]
    margin_N: NDArray[np.float64]
    type_probability_N3: NDArray[np.float64]
    pointers_N2: NDArray[np.float64]
    countdown_NT: NDArray[np.float64]
    posterior_pointers_N2: NDArray[np.float64]
    posterior_countdown_NT: NDArray[np.float64]

    def take(self, rows: NDArray[np.intp]) -> Predictions:
        """Return the predictions of some windows, in the order given."""
        arrays = {name: getattr(self, name)[rows] for name in _ARRAYS}
        return Predictions(loss=self.loss, temperature=self.temperature, **arrays)


_ARRAYS = tuple(item.name for item in fields(Predictions) if item.name not in {"loss", "temperature"})


def concatenated(parts: Sequence[Predictions]) -> Predictions:
    """Return one model's predictions of all parts' windows in one row."""
    if len(parts) == 1:
        return parts[0]
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    return Predictions(loss=parts[0].loss, temperature=parts[0].temperature, **arrays)
