"""From a model's output to marked bars.

Legend: N windows, T bars, M rows still searched.

Clean-up, in this order and the same for every decoder: gaps of at most `merge_gap` bars between marked runs
are closed (never those at a window's edge), then runs shorter than `min_span_length` are removed. On
probabilities that is a grey-scale closing followed by an opening with flat segments; both are made of minima
and maxima alone, so they commute with thresholding exactly (Serra, "Image Analysis and Mathematical
Morphology", 1982) and are applied once for all thresholds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeVar, assert_never, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from jade_model.core.config import SPAN_HEADS, Loss
from jade_model.core.config import DecoderName as DecoderName  # noqa: PLC0414 - named here by those who decode
from jade_model.core.errors import ConfigError
from jade_model.scoring.predictions import Predictions

DECODERS: tuple[DecoderName, ...] = get_args(DecoderName)

# Rows are searched in pieces of about this many bars, which stay in a core's cache.
_BARS_AT_ONCE = 1 << 16

ScalarT = TypeVar("ScalarT", np.float64, np.bool_)


@dataclass(frozen=True)
class Cleanup:
    """What happens to marked bars after decoding.

    Attributes:
        min_span_length: Shorter spans are dropped, in bars, at least 1.
        merge_gap: Gaps up to this many bars are closed; 0 closes none.
    """

    min_span_length: int = 1
    merge_gap: int = 0

    def __post_init__(self) -> None:
        if self.min_span_length < 1:
            raise ConfigError(f"min_span_length is {self.min_span_length} bars; it must be at least 1")
        if self.merge_gap < 0:
            raise ConfigError(f"merge_gap is {self.merge_gap} bars; it must not be negative")


NO_CLEANUP = Cleanup()


@dataclass(frozen=True)
class DecoderChoice:
    """How one model's output becomes marked bars.

    Attributes:
        decoder: `threshold` and `marginal`: bars whose probability reaches the threshold (of a soft head, or of
            a chain or segment posterior). `viterbi`: the most probable joint labelling. `score_margin`: the
            same where its log odds against "no span" reach the threshold, else nothing. `one_span`: the one
            span of greatest expected gain where that gain reaches the threshold, else nothing.
        threshold: See above (probability, nats, or expected gain); None for `viterbi`, which has none.
        min_span_length: As in Cleanup.
        merge_gap: As in Cleanup.
    """

    decoder: DecoderName
    threshold: float | None
    min_span_length: int = 1
    merge_gap: int = 0

    def __post_init__(self) -> None:
        if self.decoder not in DECODERS:
            raise ConfigError(f"decoder is {self.decoder!r}; choose one of {DECODERS}")
        if (self.threshold is None) != (self.decoder == "viterbi"):
            raise ConfigError(
                f"decoder {self.decoder} with threshold {self.threshold}: viterbi takes none, the others need one"
            )
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ConfigError(f"threshold is {self.threshold}; it must be a finite number")
        Cleanup(self.min_span_length, self.merge_gap)

    @property
    def cleanup(self) -> Cleanup:
        """What happens to marked bars."""
        return Cleanup(self.min_span_length, self.merge_gap)


@dataclass(frozen=True, eq=False)
class BestSpans:
    """One span a window.

    Attributes:
        start_N: First bar, int64.
        end_N: Bar after the last one, int64; equal to the start where no span has a positive gain.
        gain_N: Expected gain of that span, in [0, 1], float64.
    """

    start_N: NDArray[np.int64]
    end_N: NDArray[np.int64]
    gain_N: NDArray[np.float64]

    def mask(self, num_bars: int) -> NDArray[np.bool_]:
        """Return the spans as marked bars, bool [N, T]."""
        bar_1T = np.arange(num_bars)[None]
        return (bar_1T >= self.start_N[:, None]) & (bar_1T < self.end_N[:, None])


def decoders_of(loss: Loss) -> tuple[DecoderName, ...]:
    """Return the decoders that make sense of a model trained with the loss."""
    return SPAN_HEADS[loss].decoders


def decode(predictions: Predictions, choice: DecoderChoice) -> NDArray[np.bool_]:
    """Mark bars.

    Args:
        predictions: Of N windows.
        choice: Decoder and its settings.

    Returns:
        Marked bars, bool [N, T].

    Raises:
        ConfigError: The model's loss has no such decoder, or min_span_length exceeds the window.
    """
    require_decoder(predictions.loss, choice.decoder)
    threshold = -math.inf if choice.threshold is None else choice.threshold
    match choice.decoder:
        case "threshold" | "marginal":
            return clean_up(predictions.probability_NT, choice.cleanup) >= threshold
        case "viterbi":
            return clean_up(predictions.path_NT, choice.cleanup)
        case "score_margin" | "one_span":
            score_N, marked_NT = window_scores(predictions, choice.decoder, choice.cleanup)
            return marked_NT & (score_N >= threshold)[:, None]
        case _:
            assert_never(choice.decoder)


def window_scores(
    predictions: Predictions, decoder: Literal["score_margin", "one_span"], cleanup: Cleanup
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return what a decoder that takes windows whole, or not at all, compares with its threshold, and what it marks.

    Args:
        predictions: Of N windows.
        decoder: Which.
        cleanup: What happens to marked bars; one span needs no gap closed.

    Returns:
        A score of each window, and its marked bars if it is taken, bool [N, T].
    """
    if decoder == "score_margin":
        return predictions.margin_N, clean_up(predictions.path_NT, cleanup)
    spans = best_spans(predictions.probability_NT, cleanup.min_span_length)
    return spans.gain_N, spans.mask(predictions.probability_NT.shape[1])


def best_spans(probability_NT: NDArray[np.float64], min_span_length: int = 1) -> BestSpans:
    """Find the span of greatest expected F1 with the truth, under bar-wise probabilities.

    For a span of L bars holding probability mass P, in a window of mass M, the expectation of F1 is taken as
    the ratio of expectations, 2 P / (L + M): exact where the truth's length is certain, first order in its spread
    else, and all that marginals determine without a model of how bars go together. It rewards mass and charges
    length, so a sharp posterior is cut where its probability falls below about half the gain (Lipton, Elkan,
    Narayanaswamy, "Optimal thresholding of classifiers to maximize F1 measure", 2014).

    Of equally good spans the shortest is taken, of those the earliest.

    Args:
        probability_NT: P(bar in a span), in [0, 1], float64.
        min_span_length: Shortest span considered, in bars.

    Raises:
        ConfigError: min_span_length exceeds the window.
        ValueError: A probability is NaN.
    """
    num_windows, num_bars = probability_NT.shape
    _check_fits(min_span_length, num_bars)
    if np.isnan(probability_NT).any():
        raise ValueError("a probability is not a number")
    start_N = np.zeros(num_windows, dtype=np.int64)
    length_N = np.zeros(num_windows, dtype=np.int64)
    gain_N = np.zeros(num_windows)
    step = max(1, _BARS_AT_ONCE // num_bars)
    for first in range(0, num_windows, step):
        rows = slice(first, first + step)
        start_N[rows], length_N[rows], gain_N[rows] = _search(probability_NT[rows], min_span_length)
    return BestSpans(start_N, start_N + length_N, gain_N)


def clean_up(values_NT: NDArray[ScalarT], cleanup: Cleanup) -> NDArray[ScalarT]:
    """Close short gaps, then remove short spans; on probabilities, for every threshold at once.

    Args:
        values_NT: Marked bars (bool) or probabilities (float64).
        cleanup: What is closed and removed.

    Returns:
        Same shape and dtype; `clean_up(p, ...) >= c` equals `clean_up(p >= c, ...)` for every c.

    Raises:
        ConfigError: min_span_length exceeds the window.
    """
    min_span_length, num_bars = cleanup.min_span_length, values_NT.shape[1]
    _check_fits(min_span_length, num_bars)
    # A gap of T bars or more can't lie between two runs.
    gap = min(cleanup.merge_gap, num_bars - 1)
    lowest = False if values_NT.dtype == np.bool_ else -np.inf
    margin = max(gap, min_span_length - 1)
    cleaned_NT = np.pad(values_NT, ((0, 0), (margin, margin)), constant_values=lowest)
    if gap > 0:
        cleaned_NT = ndimage.grey_closing(cleaned_NT, size=(1, gap + 1))
    if min_span_length > 1:
        # What closing spread beyond the window is not of it: gaps at its edge stay open.
        cleaned_NT[:, :margin] = cleaned_NT[:, num_bars + margin :] = lowest
        cleaned_NT = ndimage.grey_opening(cleaned_NT, size=(1, min_span_length))
    return cleaned_NT[:, margin : margin + num_bars]


def require_decoder(loss: Loss, decoder: DecoderName) -> None:
    """Raise ConfigError unless the loss has the decoder."""
    if decoder not in decoders_of(loss):
        raise ConfigError(f"a {loss} model has no decoder {decoder!r}; choose one of {decoders_of(loss)}")


def _check_fits(min_span_length: int, num_bars: int) -> None:
    if min_span_length > num_bars:
        raise ConfigError(f"min_span_length is {min_span_length} bars, the windows have {num_bars}")


def _search(
    probability_NT: NDArray[np.float64], min_span_length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    num_windows, num_bars = probability_NT.shape
    length_N = np.zeros(num_windows, dtype=np.int64)
    gain_N = np.zeros(num_windows)
    # Bars come first: differences are then of one block each, and maxima run over all windows abreast.
    sums_T1N = np.zeros((num_bars + 1, num_windows))
    np.cumsum(probability_NT.T, axis=0, out=sums_T1N[1:])
    row_M, sums_T1M = np.arange(num_windows), sums_T1N
    for length in range(min_span_length, num_bars + 1):
        total_M = sums_T1M[-1]
        # What a span of this length gains if it holds all mass: more than 1 while it is shorter than the mass, then
        # falling, so that no longer span can do better either.
        is_open_M = _expected(total_M, length, total_M) > gain_N[row_M]
        if 2 * np.count_nonzero(is_open_M) <= row_M.size:
            row_M, sums_T1M, total_M = row_M[is_open_M], sums_T1M[:, is_open_M], total_M[is_open_M]
            if row_M.size == 0:
                break
        # At one length the gain grows with the mass: only the heaviest span matters.
        mass_M = (sums_T1M[length:] - sums_T1M[: num_bars + 1 - length]).max(axis=0)
        gain_M = _expected(mass_M, length, total_M)
        is_better_M = gain_M > gain_N[row_M]
        better = row_M[is_better_M]
        gain_N[better], length_N[better] = gain_M[is_better_M], length
    return _heaviest(sums_T1N, length_N), length_N, gain_N


def _heaviest(sums_T1N: NDArray[np.float64], length_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each window's heaviest span of its own length starts; of equals the first."""
    num_bars = sums_T1N.shape[0] - 1
    end_TN = np.arange(num_bars)[:, None] + length_N
    mass_TN = np.take_along_axis(sums_T1N, np.minimum(end_TN, num_bars), axis=0) - sums_T1N[:-1]
    return np.asarray(np.where(end_TN <= num_bars, mass_TN, -np.inf).argmax(axis=0))


def _expected(mass_M: NDArray[np.float64], length: int, total_M: NDArray[np.float64]) -> NDArray[np.float64]:
    return 2 * mass_M / (length + total_M)
