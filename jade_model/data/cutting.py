"""A series of bars -> windows, around labelled spans or one after the other.

Legend: N windows, T bars a window, B bars of the series, S labelled spans of the series, V spans visible in
    windows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jade_model.core.errors import ConfigError, DataError, Violation
from jade_model.core.files import sha256_file, sha256_json
from jade_model.core.windows import MAX_WINDOW_LENGTH, MIN_WINDOW_LENGTH, NO_TYPE, Windows
from jade_model.data.bars import Bars, bars_of_frame, read_bars
from jade_model.data.labels import Labels, read_labels
from jade_model.data.text.columns import Reading

if TYPE_CHECKING:
    import pandas as pd

MIN_VISIBLE_FRACTION = 0.3

# Where in its window a span may start: behind enough bars to see what it breaks out of.
_BARS_BEFORE_FRACTION = 1 / 7
_BARS_AFTER_FRACTION = 1 / 20


@dataclass(frozen=True)
class Cutting:
    """How bars are cut into windows.

    Attributes:
        window_length: T, in bars.
        stride: Bars between the starts of windows; None is one window a label, or T without labels.
        overlap_offsets: Shifts in bars of the further windows around a label, such as (-52, 52).
        instrument: Name that is written to the windows and starts their identifiers, instead of the file's.
        seed: Of the places of the spans.
    """

    window_length: int = 105
    stride: int | None = None
    overlap_offsets: tuple[int, ...] = ()
    instrument: str = ""
    seed: int = 0


def cut_windows(
    bars: str | Path | pd.DataFrame,
    labels_path: str | Path | None = None,
    cutting: Cutting = Cutting(),
    reading: Reading = Reading(),  # noqa: B008 - frozen
) -> tuple[Windows, list[str]]:
    """Cut bars into windows of consecutive present bars.

    With labels and no stride, one base window is cut around each labelled span, the span at a random place in
    it (a model must not learn where it is cut), and one more per overlap offset, if at least 30 % of the span
    stay visible and the series reaches so far. Otherwise windows follow one another at the stride, the last
    one ending with the last bar. Every labelled span that a window shows, in whole or in part, is among its
    spans.

    Args:
        bars: File that read_bars reads, or a table that bars_of_frame takes.
        labels_path: File that read_labels reads; None gives unlabelled windows.
        cutting: How to cut.
        reading: What the files do not say themselves; `by` cuts each of several series on its own.

    Returns:
        Windows in the order of time, of labels with their base window first, series by series; and what was understood
        or left out, for people.

    Raises:
        DataError: A file breaks its contract, holds fewer bars than one window, or there is nothing to cut around.
        ConfigError: Window length, stride or offsets make no sense.
    """
    _check_settings(cutting, is_labelled=labels_path is not None)
    if isinstance(bars, str | Path):
        digest, name, path = sha256_file(_existing(bars)), Path(bars).stem, str(bars)
        series = read_bars(bars, reading)
    else:
        series = [bars_of_frame(bars, cutting.instrument)]
        content = series[0].time_B.tobytes() + series[0].bars_B4.tobytes()
        digest, name, path = hashlib.sha256(content).hexdigest(), cutting.instrument or "bars", series[0].path
    settings = {
        "bars": digest,
        "labels": None if labels_path is None else sha256_file(_existing(labels_path)),
        **asdict(cutting),
        "reading": asdict(reading),
    }
    parts, notes = [], []
    for each in series:
        labels = None if labels_path is None else read_labels(labels_path, each, reading)
        said = [*each.notes, *(() if labels is None else labels.notes)]
        notes += [f"{each.instrument}: {note}" if len(series) > 1 else note for note in said]
        if labels is None or len(labels.spans_S2) or cutting.stride is not None:
            parts.append(_cut(each, labels, cutting, labels_path))
    if not parts:
        found = "no labelled span"
        raise DataError([Violation(str(labels_path), None, None, found, "spans, or --stride: windows without any")])
    joined = _joined(parts)
    return replace(joined, name=name, path=path, sha256=sha256_json(settings)), notes


def windows_in_a_row(bars: Bars, window_length: int) -> tuple[Windows, NDArray[np.datetime64]]:
    """Cut a series into windows that follow one another; the last one ends with the last bar.

    Returns:
        Unlabelled windows; the times of their bars, [N, T] in UTC.

    Raises:
        DataError: The series holds fewer bars than one window.
    """
    windows = _cut(bars, None, Cutting(window_length), None)
    first_N = np.searchsorted(bars.time_B, windows.start_time_N)
    return windows, bars.time_B[first_N[:, None] + np.arange(window_length)]


def newest_windows(
    bars_path: str | Path,
    window_length: int,
    instrument: str = "",
    reading: Reading = Reading(),  # noqa: B008 - frozen
) -> tuple[Windows, NDArray[np.datetime64], list[str]]:
    """Cut the last window of each series of a file of bars.

    Args:
        bars_path: File that read_bars reads.
        window_length: T, in bars.
        instrument: Its name, instead of the file's.
        reading: What the file does not say itself.

    Returns:
        One unlabelled window a series; the times of its bars, [N, T] in UTC; notes for people.

    Raises:
        DataError: The file breaks its contract, or holds fewer bars than one window.
    """
    parts, times, notes = [], [], []
    for bars in read_bars(bars_path, reading):
        windows = _cut(bars, None, Cutting(window_length, stride=max(len(bars.time_B), 1), instrument=instrument), None)
        parts.append(windows.take(np.array([windows.num_windows - 1])))
        times.append(bars.time_B[-window_length:])
        notes += list(bars.notes)
    return _joined(parts), np.stack(times), notes


def _existing(path: str | Path) -> Path:
    expanded = Path(path).expanduser()
    if not expanded.is_file():
        raise DataError([Violation(str(path), None, None, "no such file", "a file of text or Parquet")])
    return expanded


def _cut(bars: Bars, labels: Labels | None, cutting: Cutting, labels_path: str | Path | None) -> Windows:
    """Cut one series: around its labels, of which there are some, unless a stride is given."""
    num_bars, window_length = len(bars.time_B), cutting.window_length
    instrument = cutting.instrument or bars.instrument
    if num_bars < window_length:
        found = f"{num_bars} bars" + (f" of {bars.instrument}" if bars.instrument else "")
        expected = f"at least the {window_length} of one window"
        raise DataError([Violation(bars.path, None, None, found, expected)])
    prefix = f"{instrument}_" if instrument else ""
    if labels is None or cutting.stride is not None:
        first_N = _strided(num_bars, window_length, window_length if cutting.stride is None else cutting.stride)
        offset_N = np.zeros(len(first_N), dtype=np.int64)
        base_id_N = [f"{prefix}bar_{first}" for first in first_N.tolist()]
        window_id_N = base_id_N
        label_N = None
    else:
        _check_fit(labels, window_length, labels_path or "")
        first_N, offset_N, label_N = _around_labels(labels, num_bars, cutting)
        base_id_N = [f"{prefix}{label}_exp_1" for label in label_N.tolist()]
        window_id_N = [
            f"{base_id}_offset{f'{offset:+d}' if offset else '0'}"
            for base_id, offset in zip(base_id_N, offset_N.tolist(), strict=True)
        ]
    span_offsets_N1, spans_V2, main_N = _visible_spans(labels or Labels.none(), first_N, window_length, label_N)
    fraction_N, type_N = _describe_main(labels or Labels.none(), main_N, first_N, window_length)
    return Windows(
        name="",
        path=bars.path,
        sha256="",
        window_id_N=np.array(window_id_N, dtype=np.str_),
        base_window_id_N=np.array(base_id_N, dtype=np.str_),
        bars_NT4=bars.bars_B4[first_N[:, None] + np.arange(window_length)],
        type_N=type_N,
        span_offsets_N1=span_offsets_N1,
        spans_S2=spans_V2,
        offset_N=offset_N,
        overlap_fraction_N=fraction_N,
        quality_N=np.zeros(len(first_N), dtype=np.str_),
        source_N=np.where(offset_N == 0, "original", "overlapped"),
        instrument_N=np.full(len(first_N), instrument),
        start_time_N=bars.time_B[first_N],
        is_labelled=labels is not None,
    )


def _joined(parts: Sequence[Windows]) -> Windows:
    """Return the windows of all parts, one part after the other."""
    num_spans_N = np.concatenate([part.num_spans_N for part in parts])
    per_row: dict[str, Any] = {
        item.name: np.concatenate([getattr(part, item.name) for part in parts])
        for item in fields(Windows)
        if item.name.endswith(("_N", "_NT4", "_S2"))
    }
    span_offsets_N1 = np.concatenate(([0], np.cumsum(num_spans_N)))
    return replace(parts[0], **per_row, span_offsets_N1=span_offsets_N1)


def _check_settings(cutting: Cutting, *, is_labelled: bool) -> None:
    window_length, stride, overlap_offsets = cutting.window_length, cutting.stride, cutting.overlap_offsets
    if not MIN_WINDOW_LENGTH <= window_length <= MAX_WINDOW_LENGTH:
        raise ConfigError(f"window_length is {window_length}; choose {MIN_WINDOW_LENGTH} to {MAX_WINDOW_LENGTH} bars")
    if stride is not None and stride < 1:
        raise ConfigError(f"stride is {stride}; it must be at least 1 bar")
    if overlap_offsets and (stride is not None or not is_labelled):
        raise ConfigError("overlap_offsets shift windows around labels: give labels and no stride")
    if 0 in overlap_offsets or len(set(overlap_offsets)) < len(overlap_offsets):
        raise ConfigError(f"overlap_offsets are {tuple(overlap_offsets)}; name shifts other than 0, each once")


def _check_fit(labels: Labels, window_length: int, labels_path: str | Path) -> None:
    length_S = labels.spans_S2[:, 1] - labels.spans_S2[:, 0]
    longest = int(length_S.max())
    if longest > window_length:
        found = f"a span of {longest} bars"
        raise DataError([Violation(str(labels_path), None, "end", found, f"at most {window_length}: a window")])


def _strided(num_bars: int, window_length: int, stride: int) -> NDArray[np.int64]:
    first_N = np.arange(0, num_bars - window_length + 1, stride)
    # The newest bars are those that predictions are wanted for: never left over.
    last = num_bars - window_length
    return first_N if first_N[-1] == last else np.append(first_N, last)


def _around_labels(
    labels: Labels, num_bars: int, cutting: Cutting
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return first bar, offset and label of each window; a label's base window before its shifted ones."""
    window_length = cutting.window_length
    start_S, end_S = labels.spans_S2.T
    length_S = end_S - start_S
    earliest_S = np.minimum(int(window_length * _BARS_BEFORE_FRACTION), window_length - length_S)
    latest_S = np.maximum(window_length - int(window_length * _BARS_AFTER_FRACTION) - length_S, earliest_S)
    random_S = np.random.default_rng([cutting.seed, 0]).random(len(start_S))
    place_S = earliest_S + np.floor(random_S * (latest_S - earliest_S + 1)).astype(np.int64)
    base_S = np.clip(start_S - place_S, 0, num_bars - window_length)
    offset_O = np.array([0, *cutting.overlap_offsets], dtype=np.int64)
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
