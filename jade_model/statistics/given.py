"""Predictions of anyone's models, as tables -> counts on the same windows, for one verdict.

Legend: A arms, S seeds, N windows or groups of them, T bars; 3 is (tp, fp, fn).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jade_model.core.errors import ConfigError, DataError, Violation
from jade_model.core.windows import Windows
from jade_model.data.groups import group_windows
from jade_model.scoring.metrics import count, truth_of
from jade_model.scoring.parts import METRICS, Metric
from jade_model.statistics.compare import Comparison, compare_arms
from jade_model.statistics.scored_windows import ArmCounts, ScoredWindows

if TYPE_CHECKING:
    import pandas as pd

COUNTS = ("tp", "fp", "fn")
SPAN_COUNTS = ("span_tp", "span_fp", "span_fn")
SPANS = ("window_id", "expansion_start", "expansion_end")
_KEYS = ("dataset", "group", "window")


@dataclass(frozen=True, eq=False)
class _Arm:
    """One arm's counts, each row of a window (or group) in one seed; `keys` are dataset, group and window."""

    name: str
    source: str
    keys: list[tuple[str, str, str]]
    seed_R: NDArray[np.int64]
    fold_R: NDArray[np.int64]
    counts_R3: NDArray[np.int64]
    span_counts_R3: NDArray[np.int64] | None
    says_trainings: bool


def compare_given(
    predictions: Mapping[str, str | Path | pd.DataFrame],
    *,
    labels: Windows | None = None,
    metric: Metric = "f1",
    margin: float = 0.03,
    confidence: float = 0.95,
) -> Comparison:
    """Compare anyone's predictions as arms.

    Args:
        predictions: Name -> a table, or its CSV, Parquet or `.npz` file; what a table may be, `jade_model.compare_arms`
            says. A table with a column `arm` holds several, and its own name is not used.
        labels: The windows that were predicted, if predictions are spans rather than counts.
        metric: Which F1 the verdict is about.
        margin: Largest F1 difference that counts as none, in (0, 1).
        confidence: Of all intervals.

    Raises:
        DataError: A table is none of those, or the arms were not scored on the same windows.
        ConfigError: Fewer than two arms, a name twice, labels are missing, or a setting is out of range.
    """
    groups = None if labels is None else group_windows(labels).group_N
    arms = [arm for name, given in predictions.items() for arm in _arms_of(name, given, labels, groups)]
    if len(arms) < 2:
        raise ConfigError(f"a comparison needs two arms at least; got {', '.join(arm.name for arm in arms) or 'none'}")
    first = arms[0]
    metrics: tuple[Metric, ...] = METRICS if all(arm.span_counts_R3 is not None for arm in arms) else ("f1",)
    if metric not in metrics:
        lacking = next(arm for arm in arms if arm.span_counts_R3 is None)
        expected = f"columns {', '.join(SPAN_COUNTS)} for the metric {metric}"
        raise DataError([Violation(lacking.source, None, None, "counts of bars alone", expected)])
    keys = sorted(set(first.keys))
    seeds = sorted(set(first.seed_R.tolist()))
    datasets = sorted({key[0] for key in keys})
    group_of = {pair: number for number, pair in enumerate(sorted({key[:2] for key in keys}))}
    training_SN = _trainings(first, keys, seeds, datasets)
    for arm in arms[1:]:
        _check_same(first, arm, training_SN, keys, seeds, datasets)
    scored = ScoredWindows(
        np.array([group_of[key[:2]] for key in keys], dtype=np.int64),
        training_SN,
        dataset_N=np.array([datasets.index(key[0]) for key in keys], dtype=np.int64),
        dataset_names=datasets,
        given_models=not first.says_trainings,
    )
    caveat = (
        "Nothing says which training each prediction is from (columns seed and fold): the verdict is about these very "
        "models, not about what training them again would give."
    )
    return compare_arms(
        [_counts_of(arm, keys, seeds) for arm in arms],
        scored,
        metric=metric,
        margin=margin,
        confidence=confidence,
        caveats=() if first.says_trainings else (caveat,),
        metrics=metrics,
    )


def _arms_of(
    name: str, given: str | Path | pd.DataFrame, labels: Windows | None, group_N: NDArray[np.int64] | None
) -> list[_Arm]:
    import pandas as pd

    source = name if isinstance(given, pd.DataFrame) else str(given)
    if not isinstance(given, pd.DataFrame) and Path(given).suffix.lower() == ".npz":
        return [_of_run(name, Path(given), *_needed(source, labels, group_N))]
    frame = given if isinstance(given, pd.DataFrame) else _read(Path(given))
    has = set(map(str, frame.columns))
    if not (is_counts := set(COUNTS) | {"group"} <= has) and not set(SPANS) <= has:
        expected = f"columns group, {', '.join(COUNTS)}; or {', '.join(SPANS)} with labels"
        raise DataError([Violation(source, None, None, f"columns {', '.join(sorted(has))}", expected)])
    if frame.empty:
        raise DataError([Violation(source, None, None, "no rows", "one at least")])
    parts = [(str(arm), part) for arm, part in frame.groupby("arm", sort=False)] if "arm" in has else [(name, frame)]
    if is_counts:
        return [_of_counts(arm, source, part) for arm, part in parts]
    return [_of_spans(arm, source, part, *_needed(source, labels, group_N)) for arm, part in parts]


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    expected = "a CSV or Parquet file of predictions, or a run's predictions/ARM.npz"
    if not path.is_file():
        raise DataError([Violation(str(path), None, None, "no such file", expected)])
    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path)
        text = dict.fromkeys(("arm", "window_id", *_KEYS), str)
        return pd.read_csv(path, dtype=text)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise DataError([Violation(str(path), None, None, f"what cannot be read: {error}", expected)]) from error


def _needed(
    source: str, labels: Windows | None, group_N: NDArray[np.int64] | None
) -> tuple[Windows, NDArray[np.int64]]:
    if labels is None or group_N is None:
        raise ConfigError(f"{source} holds spans: labels (--labels) say what they are scored against")
    return labels, group_N


def _of_counts(name: str, source: str, frame: pd.DataFrame) -> _Arm:
    spans = [column for column in SPAN_COUNTS if column in frame]
    if spans and len(spans) < len(SPAN_COUNTS):
        expected = f"all of {', '.join(SPAN_COUNTS)}, or none"
        raise DataError([Violation(source, None, None, f"only {', '.join(spans)}", expected)])
    keys = [[*map(str, frame[column])] if column in frame else [""] * len(frame) for column in _KEYS]
    return _Arm(
        name,
        source,
        list(zip(*keys, strict=True)),
        _whole(frame, "seed", source),
        _whole(frame, "fold", source),
        np.stack([_whole(frame, column, source) for column in COUNTS], axis=1),
        np.stack([_whole(frame, column, source) for column in SPAN_COUNTS], axis=1) if spans else None,
        says_trainings="seed" in frame or "fold" in frame,
    )


def _of_spans(name: str, source: str, frame: pd.DataFrame, labels: Windows, group_N: NDArray[np.int64]) -> _Arm:
    row_of = {str(window_id): row for row, window_id in enumerate(labels.window_id_N)}
    ids = [*map(str, frame["window_id"])]
    unknown = [window_id for window_id in dict.fromkeys(ids) if window_id not in row_of]
    if unknown:
        found = f"{len(unknown)} windows such as {unknown[0]!r}"
        raise DataError([Violation(source, None, "window_id", found, f"windows of {labels.path}")])
    row_R = np.array([row_of[window_id] for window_id in ids])
    seed_R, fold_R = _whole(frame, "seed", source), _whole(frame, "fold", source)
    has_R = frame["expansion_start"].notna().to_numpy() & frame["expansion_end"].notna().to_numpy()
    spans = frame[has_R]
    start_S, last_S = _whole(spans, "expansion_start", source), _whole(spans, "expansion_end", source)
    wrong_S = (start_S > last_S) | (last_S >= labels.window_length)
    if wrong_S.any():
        at = int(np.flatnonzero(wrong_S)[0])
        found = f"a span from {start_S[at]} to {last_S[at]}"
        expected = f"bars 0 to {labels.window_length - 1}, both inclusive"
        raise DataError([Violation(source, int(np.flatnonzero(has_R)[at]), "expansion_end", found, expected)])
    # A window has as many rows as spans: one row of the result for each window and seed.
    (seed_U, row_U), at_R = np.unique(np.stack([seed_R, row_R]), axis=1, return_inverse=True)
    marked_UT = np.zeros((len(row_U), labels.window_length), dtype=bool)
    for at, start, last in zip(at_R[has_R].tolist(), start_S.tolist(), last_S.tolist(), strict=True):
        marked_UT[at, start : last + 1] = True
    fold_U = np.zeros(len(row_U), dtype=np.int64)
    fold_U[at_R] = fold_R
    if (fold_U[at_R] != fold_R).any():
        at = int(np.flatnonzero(fold_U[at_R] != fold_R)[0])
        found = f"{ids[at]} in several folds of seed {seed_R[at]}"
        raise DataError([Violation(source, at, "fold", found, "each window once a seed")])
    told = "seed" in frame or "fold" in frame
    return _scored(name, source, (row_U, seed_U, fold_U), marked_UT, labels, group_N, says_trainings=told)


def _of_run(name: str, path: Path, labels: Windows, group_N: NDArray[np.int64]) -> _Arm:
    """Read `predictions/ARM.npz` of a run."""
    expected = "a run's predictions/ARM.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            ids, seed_R, fold_R = arrays["window_id"].tolist(), arrays["seed"], arrays["fold"]
            marked_RT = arrays["predicted"].astype(bool)
            named = sorted(set(arrays["dataset"].tolist()))
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError([Violation(str(path), None, None, f"what cannot be read: {error}", expected)]) from error
    if len(named) > 1:
        found = f"predictions of {len(named)} data sets: {', '.join(named)}"
        raise DataError([Violation(str(path), None, "dataset", found, "those of one, whose labels are given")])
    row_of = {str(window_id): row for row, window_id in enumerate(labels.window_id_N)}
    if marked_RT.shape[1] != labels.window_length or not set(ids) <= set(row_of):
        found = f"windows of {marked_RT.shape[1]} bars such as {ids[0]!r}"
        raise DataError([Violation(str(path), None, "window_id", found, f"windows of {labels.path}")])
    places = np.array([row_of[window_id] for window_id in ids]), seed_R, fold_R
    return _scored(name, str(path), places, marked_RT, labels, group_N, says_trainings=True)


def _scored(
    name: str,
    source: str,
    places: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
    marked_RT: NDArray[np.bool_],
    labels: Windows,
    group_N: NDArray[np.int64],
    *,
    says_trainings: bool,
) -> _Arm:
    row_R, seed_R, fold_R = places
    found = count(marked_RT, truth_of(labels).take(row_R))
    keys = [(labels.name, str(group_N[row]), str(labels.window_id_N[row])) for row in row_R.tolist()]
    return _Arm(
        name,
        source,
        keys,
        seed_R.astype(np.int64),
        fold_R.astype(np.int64),
        found.bars_N3,
        found.spans_NJ3[:, 0],
        says_trainings,
    )


def _whole(frame: pd.DataFrame, column: str, source: str) -> NDArray[np.int64]:
    """Return a column of whole numbers from 0 on; zeros where there is no such column."""
    import pandas as pd

    if column not in frame:
        return np.zeros(len(frame), dtype=np.int64)
    values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = ~(np.isfinite(values) & (values >= 0) & (values == np.floor(values)))
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise DataError([Violation(source, at, column, repr(frame[column].iloc[at]), "a whole number from 0 on")])
    return values.astype(np.int64)


def _trainings(
    arm: _Arm, keys: Sequence[tuple[str, str, str]], seeds: Sequence[int], datasets: Sequence[str]
) -> NDArray[np.int64]:
    """Return which training scored what, [S, N], -1 where none did.

    Raises:
        DataError: A window, or a group without windows, stands twice in a seed.
    """
    column = {key: at for at, key in enumerate(keys)}
    training_SN = np.full((len(seeds), len(keys)), -1, dtype=np.int64)
    num_folds = int(arm.fold_R.max()) + 1
    for at, (key, seed, fold) in enumerate(zip(arm.keys, arm.seed_R.tolist(), arm.fold_R.tolist(), strict=True)):
        place = seeds.index(seed), column[key]
        if training_SN[place] >= 0:
            what = f"{'window ' + key[2] if key[2] else 'group ' + key[1]} twice for {arm.name}, seed {seed}"
            raise DataError(
                [Violation(arm.source, at, None, what, "each once a seed (a column window tells rows apart)")]
            )
        training_SN[place] = datasets.index(key[0]) * num_folds + fold
    return training_SN


def _check_same(
    first: _Arm,
    arm: _Arm,
    training_SN: NDArray[np.int64],
    keys: Sequence[tuple[str, str, str]],
    seeds: Sequence[int],
    datasets: Sequence[str],
) -> None:
    """Refuse an arm that was not scored on the same windows, in the same seeds and folds, as the first one."""
    expected = f"the same as {first.name} ({first.source}): arms are compared window by window"
    extra = sorted(set(arm.keys) ^ set(keys))
    if extra:
        which = "only there" if extra[0] in set(arm.keys) else "missing"
        name = " ".join(part for part in extra[0] if part)
        found = f"{arm.name}: {len(extra)} windows or groups differ, such as {name} ({which})"
        raise DataError([Violation(arm.source, None, None, found, expected)])
    if sorted(set(arm.seed_R.tolist())) != list(seeds) or arm.says_trainings != first.says_trainings:
        found = f"{arm.name}: seeds {', '.join(map(str, sorted(set(arm.seed_R.tolist()))))}"
        found += "" if arm.says_trainings else " (no column seed or fold)"
        raise DataError([Violation(arm.source, None, "seed", found, expected)])
    if not np.array_equal(_trainings(arm, keys, seeds, datasets), training_SN):
        raise DataError(
            [Violation(arm.source, None, "fold", f"{arm.name}: other folds or seeds of a window", expected)]
        )


def _counts_of(arm: _Arm, keys: Sequence[tuple[str, str, str]], seeds: Sequence[int]) -> ArmCounts:
    column = {key: at for at, key in enumerate(keys)}
    where = (
        np.array([seeds.index(seed) for seed in arm.seed_R.tolist()]),
        np.array([column[key] for key in arm.keys]),
    )
    bars_SN3 = np.zeros((len(seeds), len(keys), 3), dtype=np.int64)
    spans_SN3 = np.zeros_like(bars_SN3)
    bars_SN3[where] = arm.counts_R3
    if arm.span_counts_R3 is not None:
        spans_SN3[where] = arm.span_counts_R3
    return ArmCounts(arm.name, bars_SN3, spans_SN3)
