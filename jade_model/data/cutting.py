"""A series of bars -> windows, around labelled spans or one after the other.

Legend: N windows, T bars a window, B bars of the series, S labelled spans of the series, V spans visible in
    windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jade_model.core.errors import ConfigError, DataError, Violation
from jade_model.core.files import sha256_file, sha256_json
from jade_model.core.windows import MAX_WINDOW_LENGTH, MIN_WINDOW_LENGTH, NO_TYPE, Windows
from jade_model.data.bars import Labels, read_bars, read_labels

MIN_VISIBLE_FRACTION = 0.3

# Where in its window a span may start: behind enough bars to see what it breaks out of.
_BARS_BEFORE_FRACTION = 1 / 7
_BARS_AFTER_FRACTION = 1 / 20


def cut_windows(
    bars_csv: str | Path,
    labels_csv: str | Path | None = None,
    *,
    window_length: int = 105,
    stride: int | None = None,
    overlap_offsets: Sequence[int] = (),
    instrument: str = "",
    seed: int = 0,
) -> Windows:
    """Cut bars into windows of consecutive present bars.

    With labels and no stride, one base window is cut around each labelled span, the span at a random place in
    it (a model must not learn where it is cut), and one more per overlap offset, if at least 30 % of the span
    stay visible and the series reaches so far. Otherwise windows follow one another at the stride, the last
    one ending with the last bar. Every labelled span that a window shows, in whole or in part, is among its
    spans.

    Args:
        bars_csv: File that read_bars reads.
        labels_csv: File that read_labels reads; None gives unlabelled windows.
        window_length: T, in bars.
        stride: Bars between the starts of windows; None is one window a label, or T without labels.
        overlap_offsets: Shifts in bars of the further windows around a label, such as (-52, 52).
        instrument: Name that is written to the windows and starts their identifiers; empty for none.
        seed: Of the places of the spans.

    Returns:
        Windows in the order of time, of labels with their base window first.

    Raises:
        DataError: A file breaks its contract, or holds fewer bars than one window.
        ConfigError: Window length, stride or offsets make no sense.
    """
    _check_settings(window_length, stride, overlap_offsets, is_labelled=labels_csv is not None)
    bars = read_bars(bars_csv)
    num_bars = len(bars.time_B)
    if num_bars < window_length:
        expected = f"at least the {window_length} of one window"
        raise DataError([Violation(str(bars_csv), None, None, f"{num_bars} bars", expected)])
    prefix = f"{instrument}_" if instrument else ""
    labels = None if labels_csv is None else read_labels(labels_csv, bars)
    if labels is None or labels_csv is None or stride is not None:
        first_N = _strided(num_bars, window_length, window_length if stride is None else stride)
        offset_N = np.zeros(len(first_N), dtype=np.int64)
        base_id_N = [f"{prefix}bar_{first}" for first in first_N.tolist()]
        window_id_N = base_id_N
        label_N = None
    else:
        _check_fit(labels, window_length, labels_csv)
        first_N, offset_N, label_N = _around_labels(labels, num_bars, window_length, overlap_offsets, seed)
        base_id_N = [f"{prefix}{label}_exp_1" for label in label_N.tolist()]
        window_id_N = [
            f"{base_id}_offset{f'{offset:+d}' if offset else '0'}"
            for base_id, offset in zip(base_id_N, offset_N.tolist(), strict=True)
        ]
    none = Labels(np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.int64))
    span_offsets_N1, spans_V2, main_N = _visible_spans(labels or none, first_N, window_length, label_N)
    settings = {
        "bars": sha256_file(Path(bars_csv).expanduser()),
        "labels": None if labels_csv is None else sha256_file(Path(labels_csv).expanduser()),
        "window_length": window_length,
        "stride": stride,
        "overlap_offsets": list(overlap_offsets),
        "seed": seed,
    }
    fraction_N, type_N = _describe_main(labels or none, main_N, first_N, window_length)
    source_N = np.where(offset_N == 0, "original", "overlapped")
    return Windows(
        name=Path(bars_csv).stem,
        path=str(bars_csv),
        sha256=sha256_json(settings),
        window_id_N=np.array(window_id_N, dtype=np.str_),
        base_window_id_N=np.array(base_id_N, dtype=np.str_),
        bars_NT4=bars.bars_B4[first_N[:, None] + np.arange(window_length)],
        type_N=type_N,
        span_offsets_N1=span_offsets_N1,
        spans_S2=spans_V2,
        offset_N=offset_N,
        overlap_fraction_N=fraction_N,
        quality_N=np.zeros(len(first_N), dtype=np.str_),
        source_N=source_N,
        instrument_N=np.full(len(first_N), instrument, dtype=np.str_),
        start_time_N=bars.time_B[first_N],
        is_labelled=labels is not None,
    )


def _check_settings(
    window_length: int, stride: int | None, overlap_offsets: Sequence[int], *, is_labelled: bool
) -> None:
    if not MIN_WINDOW_LENGTH <= window_length <= MAX_WINDOW_LENGTH:
        raise ConfigError(f"window_length is {window_length}; choose {MIN_WINDOW_LENGTH} to {MAX_WINDOW_LENGTH} bars")
    if stride is not None and stride < 1:
        raise ConfigError(f"stride is {stride}; it must be at least 1 bar")
    if overlap_offsets and (stride is not None or not is_labelled):
        raise ConfigError("overlap_offsets shift windows around labels: give labels and no stride")
    if 0 in overlap_offsets or len(set(overlap_offsets)) < len(overlap_offsets):
        raise ConfigError(f"overlap_offsets are {tuple(overlap_offsets)}; name shifts other than 0, each once")


def _check_fit(labels: Labels, window_length: int, labels_csv: str | Path) -> None:
    length_S = labels.spans_S2[:, 1] - labels.spans_S2[:, 0]
    longest = int(length_S.max())
    if longest > window_length:
        found = f"a span of {longest} bars"
        raise DataError([Violation(str(labels_csv), None, "end", found, f"at most {window_length}: a window")])


def _strided(num_bars: int, window_length: int, stride: int) -> NDArray[np.int64]:
    first_N = np.arange(0, num_bars - window_length + 1, stride)
    # The newest bars are those that predictions are wanted for: never left over.
    last = num_bars - window_length
    return first_N if first_N[-1] == last else np.append(first_N, last)


def _around_labels(
    labels: Labels, num_bars: int, window_length: int, overlap_offsets: Sequence[int], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return first bar, offset and label of each window; a label's base window before its shifted ones."""
    start_S, end_S = labels.spans_S2.T
    length_S = end_S - start_S
    earliest_S = np.minimum(int(window_length * _BARS_BEFORE_FRACTION), window_length - length_S)
    latest_S = np.maximum(window_length - int(window_length * _BARS_AFTER_FRACTION) - length_S, earliest_S)
    random_S = np.random.default_rng([seed, 0]).random(len(start_S))
    place_S = earliest_S + np.floor(random_S * (latest_S - earliest_S + 1)).astype(np.int64)
    base_S = np.clip(start_S - place_S, 0, num_bars - window_length)
    offset_O = np.array([0, *overlap_offsets], dtype=np.int64)
    first_SO = base_S[:, None] + offset_O
    visible_SO = np.minimum(first_SO + window_length, end_S[:, None]) - np.maximum(first_SO, start_S[:, None])
    kept_SO = (first_SO >= 0) & (first_SO <= num_bars - window_length)
    kept_SO &= visible_SO >= MIN_VISIBLE_FRACTION * length_S[:, None]
    label_N, offset_index_N = np.nonzero(kept_SO)
    return first_SO[kept_SO], offset_O[offset_index_N], label_N


def _visible_spans(
    labels: Labels, first_N: NDArray[np.int64], window_length: int, label_N: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return each window's spans, and the label it is about: label_N, else the one it shows most of."""
    start_S, end_S = labels.spans_S2.T
    from_N = np.searchsorted(end_S, first_N, "right")
    to_N = np.searchsorted(start_S, first_N + window_length, "left")
    span_offsets_N1 = np.concatenate(([0], np.cumsum(to_N - from_N)))
    row_V = np.repeat(np.arange(len(first_N)), to_N - from_N)
    label_V = from_N[row_V] + np.arange(len(row_V)) - span_offsets_N1[row_V]
    spans_V2 = np.clip(labels.spans_S2[label_V] - first_N[row_V, None], 0, window_length)
    if label_N is None:
        order_V = np.lexsort((label_V, spans_V2[:, 0] - spans_V2[:, 1], row_V))
        rows, firsts = np.unique(row_V[order_V], return_index=True)
        label_N = np.full(len(first_N), -1)
        label_N[rows] = label_V[order_V[firsts]]
    return span_offsets_N1, spans_V2, label_N


def _describe_main(
    labels: Labels, main_N: NDArray[np.int64], first_N: NDArray[np.int64], window_length: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the visible share, and the type, of the label that each window is about."""
    fraction_N, type_N = np.ones(len(first_N)), np.full(len(first_N), NO_TYPE)
    has_N = main_N >= 0
    span_M2, first_M = labels.spans_S2[main_N[has_N]], first_N[has_N]
    visible_M2 = np.clip(span_M2 - first_M[:, None], 0, window_length)
    fraction_N[has_N] = np.diff(visible_M2)[:, 0] / np.diff(span_M2)[:, 0]
    type_N[has_N] = labels.type_S[main_N[has_N]]
    return fraction_N, type_N
