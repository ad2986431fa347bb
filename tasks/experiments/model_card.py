"""Model cards of retrained models: composed, read, and held against the run's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jade_model.core.files import sha256_file, sha256_json
from jade_model.core.job import load_job
from jade_model.core.windows import Windows
from jade_model.data.groups import Grouping
from jade_model.data.retraining import HOLDOUT, Roles
from jade_model.data.splits import load_split
from jade_model.scoring.decoding import DecoderName
from jade_model.statistics.promotion import Decision, Judgement
from tasks.core.errors import RunNotFound
from tasks.core.layout import RunLayout
from tasks.experiments.plan import members_of

if TYPE_CHECKING:
    from jade_model.comparison.document import EvaluatedArm

CARD_VERSION = 1
SEED = 0
"""Of a retraining's trainings: one repetition."""


def read_card(layout: RunLayout) -> dict[str, Any]:
    """Return the card of a retrained model.

    Raises:
        RunNotFound: The run has none, or one of a newer version.
    """
    try:
        card: dict[str, Any] = json.loads(layout.card_json.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunNotFound(f"{layout.run_id} has no card: only runs of `retrain` can be champion ({error})") from error
    if card.get("schema_version") != CARD_VERSION:
        found = card.get("schema_version")
        raise RunNotFound(f"{layout.card_json}: schema_version is {found}; this Jade reads {CARD_VERSION}")
    return card


def card_of(model: Path) -> dict[str, Any] | None:
    """Return the card of the run that a checkpoint or a training's folder lies in; None where there is none."""
    for folder in model.resolve().parents:
        layout = RunLayout(folder)
        if layout.card_json.is_file() and layout.job_json.is_file():
            return read_card(layout)
    return None


def verify_card(layout: RunLayout) -> list[tuple[str, bool]]:
    """Recompute the digests of a card from the run's files; return what was compared, and whether it agrees."""
    card, job = read_card(layout), load_job(layout.job_json)
    chain, (data,) = card["chain"], job.data
    final = [item for item in job.trainings if item.output_dir == card["model"]["folder"]]
    return [
        ("windows as arrays", sha256_file(layout.root / data.arrays) == chain["arrays_sha256"]),
        ("data of the job", data.sha256 == card["data"][0]["sha256"]),
        ("rows that were fitted", bool(final) and _rows_digest(layout, final[0].rows) == chain["rows_sha256"]),
        ("run key of the training", [item.run_key for item in final] == [chain["run_key"]]),
        *[(path, sha256_file(layout.root / path) == digest) for path, digest in chain["checkpoints"].items()],
    ]


def compose_card(
    layout: RunLayout,
    arm: EvaluatedArm,
    decoder: DecoderName,
    windows: Windows,
    grouping: Grouping,
    roles: Roles,
    judgement: Judgement,
    decision: Decision,
    checks: Mapping[str, Any],
    record: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a card, all but which champion it was judged against.

    Args:
        layout: Of the run, trained and scored.
        arm: Its only arm.
        decoder: That it is judged by.
        windows: The data.
        grouping: Of them.
        roles: Likewise.
        judgement: What it is worth.
        decision: What follows.
        checks: Of the data, as `data_checks.json` has them.
        record: `run.json` so far.
    """
    job = load_job(layout.job_json)
    final = members_of(job, arm.name, windows.name, SEED, roles.final)
    training = next(item for item in arm.trainings if item.fold == roles.final)
    fold = next(item for item in arm.evaluations[0].folds if item.fold == roles.final)
    recipe = final[0].recipe
    members = [layout.root / member.output_dir / Path(training.path).name for member in final]
    return {
        "schema_version": CARD_VERSION,
        "run_id": layout.run_id,
        "created_at": record["started_at"],
        "model": {
            "folder": final[0].output_dir,
            "arm": arm.name,
            "loss": recipe.loss,
            "recipe": recipe.name,
            "feature_set": recipe.feature_set,
            "num_parameters": arm.num_parameters,
            "ensemble": arm.ensemble,
            "epochs": recipe.training.epochs,
            "decoder": decoder,
            "threshold": fold.choices[decoder].threshold,
            "temperature": fold.temperature,
        },
        "data": [
            {
                "name": windows.name,
                "path": windows.path,
                "sha256": windows.sha256,
                "num_windows": windows.num_windows,
                "num_groups": grouping.num_groups,
                "num_holdout": int((roles.role_N == HOLDOUT).sum()),
                "window_length": windows.window_length,
                "in_span_rate": float(windows.in_span_NT().mean()),
            }
        ],
        "data_checks": dict(checks),
        "judgement": judgement.to_json(),
        "decision": decision.to_json(),
        "limits": _limits(windows, decoder, judgement, checks),
        "chain": {
            "code": record["code"],
            "arrays_sha256": job.data[0].arrays_sha256,
            "rows_sha256": _rows_digest(layout, final[0].rows),
            "run_key": final[0].run_key,
            "checkpoints": {path.relative_to(layout.root).as_posix(): sha256_file(path) for path in members},
        },
    }


def _rows_digest(layout: RunLayout, rows: str) -> str:
    split = load_split(layout.root / rows)
    return sha256_json({"fitted": split.train_rows.tolist(), "watched": split.validation_rows.tolist()})


def _limits(windows: Windows, decoder: DecoderName, judgement: Judgement, checks: Mapping[str, Any]) -> list[str]:
    bars = windows.window_length
    instruments = sorted({name for name in windows.instrument_N.tolist() if name}) or ["unnamed instruments"]
    times = windows.start_time_N[~np.isnat(windows.start_time_N)]
    when = f", {str(times.min())[:10]} to {str(times.max())[:10]}" if len(times) else ""
    low, high = judgement.challenger.confidence_interval
    limits = [
        f"It knows windows of {bars} bars of {', '.join(instruments)}{when}; of others, nothing is known.",
        f"On windows like these, its true F1 (bars) lies between {low:.3f} and {high:.3f}.",
        "Its temperature and threshold were chosen on windows that it was fitted to.",
    ]
    if decoder == "one_span":
        limits.append("It marks one span a window at most, because hardly a window here holds several.")
    limits += [
        f"Data check {check['name']}: {check['found']}." for check in checks["checks"] if check["status"] == "warning"
    ]
    return limits
