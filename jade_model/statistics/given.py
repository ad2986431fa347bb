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
from jade_model.statistics.compare import ComparedArms, compare_arms
from jade_model.statistics.scored_windows import ArmCounts, ScoredWindows
from jade_model.statistics.verdict import Question

if TYPE_CHECKING:
    import pandas as pd

COUNTS = ("tp", "fp", "fn")
SPAN_COUNTS = ("span_tp", "span_fp", "span_fn")
SPANS = ("window_id", "expansion_start", "expansion_end")
_KEYS = ["dataset", "group", "window"]


@dataclass(frozen=True, eq=False)
class _Arm:
    """One arm's counts, in rows with dataset, group, window (may be empty), seed, fold, and counts."""

    name: str
    source: str
    rows: pd.DataFrame
    says_trainings: bool

    def by_seed(self, column: str, fill: int) -> pd.DataFrame:
        """Return a column as a table of windows by seeds, both ascending."""
        return self.rows.set_index([*_KEYS, "seed"])[column].unstack("seed", fill_value=fill)


def compare_given(
    predictions: Mapping[str, str | Path | pd.DataFrame], question: Question, *, labels: Windows | None = None
) -> ComparedArms:
    """Compare anyone's predictions as arms.

    Args:
        predictions: Name -> a table, or its CSV, Parquet or `.npz` file; what a table may be, `jade_model.compare_arms`
            says. A table with a column `arm` holds several, and its own name is not used.
        question: What the verdict is about.
        labels: The windows that were predicted, if predictions are spans rather than counts.

    Raises:
        DataError: A table is none of those, or the arms were not scored on the same windows.
        ConfigError: Fewer than two arms, a name twice, or labels are missing.
    """
    groups = None if labels is None else group_windows(labels).group_N
    arms = [arm for name, given in predictions.items() for arm in _arms_of(name, given, labels, groups)]
    if len(arms) < 2:
        raise ConfigError(f"a comparison needs two arms at least; got {', '.join(arm.name for arm in arms) or 'none'}")
    first = arms[0]
    lacking = next((arm for arm in arms if SPAN_COUNTS[0] not in arm.rows), None)
    metrics: tuple[Metric, ...] = METRICS if lacking is None else ("f1",)
    if lacking is not None and question.metric not in metrics:
        expected = f"columns {', '.join(SPAN_COUNTS)} for the metric {question.metric}"
        raise _refused(lacking.source, "counts of bars alone", expected)
    _check_once(first)
    fold_NS = first.by_seed("fold", -1)
    for arm in arms[1:]:
        _check_same(first, fold_NS, arm)
    datasets = fold_NS.index.get_level_values("dataset")
    dataset_N, dataset_names = datasets.factorize(sort=True)
    number_NS = dataset_N[:, None] * (1 + int(fold_NS.to_numpy().max())) + fold_NS.to_numpy()
    scored = ScoredWindows(
        fold_NS.groupby(level=["dataset", "group"]).ngroup().to_numpy().astype(np.int64),
        np.where(fold_NS < 0, -1, number_NS).T,
        dataset_N=dataset_N.astype(np.int64),
        dataset_names=list(dataset_names),
        seeds=[*fold_NS.columns],
        given_models=not first.says_trainings,
    )
    caveat = (
        "Nothing says which training each prediction is from (columns seed and fold): the verdict is about these very "
        "models, not about what training them again would give."
    )

    # Where an arm has no counts of spans, nobody's are looked at.
    spans = SPAN_COUNTS if lacking is None else COUNTS

    def counts(arm: _Arm, columns: Sequence[str]) -> NDArray[np.int64]:
        return np.stack([arm.by_seed(column, 0).to_numpy().T for column in columns], axis=2)

    return compare_arms(
        [ArmCounts(arm.name, counts(arm, COUNTS), counts(arm, spans)) for arm in arms],
        scored,
        question,
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
        raise _refused(source, f"columns {', '.join(sorted(has))}", expected)
    if frame.empty:
        raise _refused(source, "no rows", "one at least")
    parts = [(str(arm), part) for arm, part in frame.groupby("arm", sort=False)] if "arm" in has else [(name, frame)]
    if is_counts:
        return [_of_counts(arm, source, part) for arm, part in parts]
    return [_of_spans(arm, source, part, *_needed(source, labels, group_N)) for arm, part in parts]


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    expected = "a CSV or Parquet file of predictions, or a run's predictions/ARM.npz"
    if not path.is_file():
        raise _refused(str(path), "no such file", expected)
    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path)
        text = dict.fromkeys(("arm", "window_id", *_KEYS), str)
        return pd.read_csv(path, dtype=text)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise _refused(str(path), f"what cannot be read: {error}", expected) from error


def _needed(
    source: str, labels: Windows | None, group_N: NDArray[np.int64] | None
) -> tuple[Windows, NDArray[np.int64]]:
    if labels is None or group_N is None:
        raise ConfigError(f"{source} holds spans: labels (--labels DATA) say what they are scored against")
    return labels, group_N


def _of_counts(name: str, source: str, frame: pd.DataFrame) -> _Arm:
    import pandas as pd

    spans = [column for column in SPAN_COUNTS if column in frame]
    if spans and len(spans) < len(SPAN_COUNTS):
        expected = f"all of {', '.join(SPAN_COUNTS)}, or none"
        raise _refused(source, f"only {', '.join(spans)}", expected)
    rows: dict[str, Any] = {column: [*map(str, frame[column])] if column in frame else "" for column in _KEYS}
    rows |= {column: _whole(frame, column, source) for column in ("seed", "fold", *COUNTS, *spans)}
    return _Arm(name, source, pd.DataFrame(rows), says_trainings="seed" in frame or "fold" in frame)


def _of_spans(name: str, source: str, frame: pd.DataFrame, labels: Windows, group_N: NDArray[np.int64]) -> _Arm:
    row_of = {str(window_id): row for row, window_id in enumerate(labels.window_id_N)}
    ids = [*map(str, frame["window_id"])]
    unknown = [window_id for window_id in dict.fromkeys(ids) if window_id not in row_of]
    if unknown:
        found = f"{len(unknown)} windows such as {unknown[0]!r}"
        raise _refused(source, found, f"windows of {labels.path}", column="window_id")
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
        row = int(np.flatnonzero(has_R)[at])
        raise _refused(source, found, expected, row=row, column="expansion_end")
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
        raise _refused(source, found, "each window once a seed", row=at, column="fold")
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
        raise _refused(str(path), f"what cannot be read: {error}", expected) from error
    if len(named) > 1:
        found = f"predictions of {len(named)} data sets: {', '.join(named)}"
        raise _refused(str(path), found, "those of one, whose labels are given", column="dataset")
    row_of = {str(window_id): row for row, window_id in enumerate(labels.window_id_N)}
    if marked_RT.shape[1] != labels.window_length or not set(ids) <= set(row_of):
        found = f"windows of {marked_RT.shape[1]} bars such as {ids[0]!r}"
        raise _refused(str(path), found, f"windows of {labels.path}", column="window_id")
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
    import pandas as pd

    row_R, seed_R, fold_R = places
    found = count(marked_RT, truth_of(labels).take(row_R))
    rows = pd.DataFrame(
        {
            "dataset": labels.name,
            "group": group_N[row_R].astype(str),
            "window": labels.window_id_N[row_R].astype(str),
            "seed": seed_R.astype(np.int64),
            "fold": fold_R.astype(np.int64),
            **dict(zip(COUNTS, found.bars_N3.T, strict=True)),
            **dict(zip(SPAN_COUNTS, found.spans_NJ3[:, 0].T, strict=True)),
        }
    )
    return _Arm(name, source, rows, says_trainings)


def _whole(frame: pd.DataFrame, column: str, source: str) -> NDArray[np.int64]:
    """Return a column of whole numbers from 0 on; zeros where there is no such column."""
    import pandas as pd

    if column not in frame:
        return np.zeros(len(frame), dtype=np.int64)
    values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = ~(np.isfinite(values) & (values >= 0) & (values == np.floor(values)))
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise _refused(source, repr(frame[column].iloc[at]), "a whole number from 0 on", row=at, column=column)
    return values.astype(np.int64)


def _check_once(arm: _Arm) -> None:
    """Refuse an arm in which a window, or a group without windows, stands twice in a seed."""
    twice = arm.rows[arm.rows.duplicated([*_KEYS, "seed"])]
    if not twice.empty:
        row = twice.iloc[0]
        what = f"window {row['window']}" if row["window"] else f"group {row['group']}"
        raise _refused(
            arm.source,
            f"{what} twice for {arm.name}, seed {row['seed']}",
            "each once a seed (a column window tells rows apart)",
            row=int(twice.index[0]),
        )


def _check_same(first: _Arm, fold_NS: pd.DataFrame, arm: _Arm) -> None:
    """Refuse an arm that was not scored on the same windows, in the same seeds and folds, as the first one."""
    expected = f"the same as {first.name} ({first.source}): arms are compared window by window"
    keys, seeds = {*zip(*(arm.rows[key] for key in _KEYS), strict=True)}, sorted(set(arm.rows["seed"]))
    extra = sorted(keys ^ {*fold_NS.index})
    if extra:
        which = "only there" if extra[0] in keys else "missing"
        name = " ".join(part for part in extra[0] if part)
        found = f"{arm.name}: {len(extra)} windows or groups differ, such as {name} ({which})"
        raise _refused(arm.source, found, expected)
    if seeds != [*fold_NS.columns] or arm.says_trainings != first.says_trainings:
        found = f"{arm.name}: seeds {', '.join(map(str, seeds))}"
        raise _refused(
            arm.source, found + ("" if arm.says_trainings else " (no column seed or fold)"), expected, column="seed"
        )
    _check_once(arm)
    if not arm.by_seed("fold", -1).equals(fold_NS):
        raise _refused(arm.source, f"{arm.name}: other folds or seeds of a window", expected, column="fold")


def _refused(source: str, found: str, expected: str, *, row: int | None = None, column: str | None = None) -> DataError:
    return DataError([Violation(source, row, column, found, expected)])
