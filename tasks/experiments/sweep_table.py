"""`results.parquet`: a sweep's trainings as one table.

Only what is the same wherever a training ran stands in it: who did it and how long it took is in `units.jsonl`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jade_model.core.files import atomic_path
from jade_model.core.job import Training
from jade_model.scoring.evaluate import FoldCounts
from tasks.execution.base import Event


@dataclass(frozen=True, eq=False)
class UnitRow:
    """One training of a sweep.

    Attributes:
        training: Which.
        settings: Those in which the arms differ.
        score: None unless it is done and scored.
        failed: None unless it failed.
    """

    training: Training
    settings: Mapping[str, Any]
    score: FoldCounts | None
    failed: Event | None


def write_table(rows: Sequence[UnitRow], path: Path) -> None:
    """Write one row a training; a setting is a column under its key, as a number where all of its values are."""
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in {**_identity(row), **_score(row)}.items():
            columns.setdefault(name, []).append(value)
    with atomic_path(path) as temporary:
        pq.write_table(pa.table({name: _array(values) for name, values in columns.items()}), temporary)


def _identity(row: UnitRow) -> dict[str, Any]:
    training = row.training
    state = "failed" if row.failed else "done" if row.score else "spared"
    return {
        "arm": training.arm,
        **row.settings,
        "recipe": row.settings.get("recipe", training.recipe.name),
        "loss": training.recipe.loss,
        "dataset": training.dataset,
        "seed": training.seed,
        "fold": training.fold,
        "run_key": training.run_key,
        "state": state,
        "failure": row.failed.data["reason"] if row.failed else None,
    }


def _score(row: UnitRow) -> dict[str, Any]:
    score = row.score
    if score is None:
        names = ("f1", "precision", "recall", "span_f1_iou50", "tp", "fp", "fn", "windows", "decoder", "threshold")
        return dict.fromkeys((*names, "temperature"))
    scores, (tp, fp, fn) = score.counts.scores(), (int(value) for value in score.counts.bars_N3.sum(axis=0))
    return {
        "f1": scores.f1,
        "precision": scores.precision,
        "recall": scores.recall,
        "span_f1_iou50": scores.span_f1_iou50,
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "windows": len(score.rows_M),
        "decoder": score.choice.decoder,
        "threshold": score.choice.threshold,
        "temperature": score.temperature,
    }


def _array(values: Sequence[Any]) -> Any:
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pa.array(values, pa.string())
    if kinds <= {int, float} and float in kinds:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    if len(kinds) > 1:  # such as text beside a number: a column has one type
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    return pa.array(values)
