"""The story of one run, read from what it left: what happened in which order, how long it took, what it cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from jade_model.comparison.files import read_comparison
from jade_model.core.job import Training, load_job
from jade_model.core.training_files import files_of, is_done
from tasks.core.layout import RunLayout
from tasks.provisioning.rental_record import read_rental
from tasks.runs.past import read_checks, read_trend
from tasks.runs.record import read_run_record

PHASES = {
    "prepare": "data loaded, checked and split",
    "train": "trainings",
    "evaluate": "thresholds chosen, held-out windows scored",
    "report": "report written",
}


@dataclass(frozen=True)
class Chapter:
    """One thing that happened.

    Attributes:
        at: When it began, as text, UTC; empty where that is not known.
        what: In plain words.
        seconds: How long it took, or None.
        usd: What it cost, or None.
        level: Of headings: 1 for a part of another.
    """

    at: str
    what: str
    seconds: float | None = None
    usd: float | None = None
    level: int = 0


def tell_story(layout: RunLayout) -> list[Chapter]:
    """Return what happened in a run, in order.

    Raises:
        RunNotFound: It has no readable `run.json`.
    """
    record = read_run_record(layout)
    return list(_chapters(layout, record))


def _chapters(layout: RunLayout, record: dict[str, Any]) -> Iterator[Chapter]:
    begun = datetime.fromisoformat(record["started_at"])
    code = record.get("code", {})
    commit = f", commit {code['commit'][:10]}" if code.get("commit") else ""
    yield Chapter(_clock(begun), f"{record['flow']} begins: Jade {code.get('version')}{commit}")
    for item in record.get("data", []):
        yield Chapter("", f"data {item['name']}: {item['path']}, SHA-256 {item['sha256'][:12]}...", level=1)
    at = begun
    for phase, seconds in record.get("seconds", {}).items():
        if phase == "total":
            continue
        yield Chapter(_clock(at), PHASES.get(phase, phase), seconds)
        yield from _inside(layout, phase)
        at += timedelta(seconds=seconds)
    yield from _rentals(layout)
    yield from _outcome(layout, record)


def _inside(layout: RunLayout, phase: str) -> Iterator[Chapter]:
    match phase:
        case "prepare":
            for report in read_checks(layout):
                for check in report["checks"]:
                    if check["status"] != "passed":
                        what = f"{check['status']}: {check['name']} of {report['dataset']}: {check['found']}"
                        yield Chapter("", what, level=1)
        case "train" if layout.job_json.is_file():
            for training in load_job(layout.job_json).trainings:
                yield _trained(layout.root, training)


def _trained(root: Path, training: Training) -> Chapter:
    files = files_of(training, root)
    if not is_done(training, files):
        return Chapter("", f"{training.title}: not finished", level=1)
    epochs = [json.loads(line) for line in files.history.read_text("utf-8").splitlines()]
    last = epochs[-1]["train_loss"]
    seconds = sum(epoch["seconds"] for epoch in epochs)
    return Chapter("", f"{training.title}: {len(epochs)} epochs, train_loss={last:.4f}", seconds, level=1)


def _rentals(layout: RunLayout) -> Iterator[Chapter]:
    rental = read_rental(layout.root)
    if rental is None:
        return
    for item in rental["machines"]:
        what = f"rented of {rental['provider']}: {item['title']}, {item['problem'] or item['state']}"
        yield Chapter(item["rented_at"][11:19], what, 3600 * item["hours"], item["cost_usd"])
    for item in rental["tried"]:
        yield Chapter("", f"could not be had: {item['what']}: {item['outcome']}", level=1)


def _outcome(layout: RunLayout, record: dict[str, Any]) -> Iterator[Chapter]:
    if layout.comparison_json.is_file():
        yield Chapter("", read_comparison(layout.comparison_json)["verdict"]["reason"])
        for item in read_trend(layout)["regressions"]:
            yield Chapter("", f"regression: {item['message']}")
    if layout.card_json.is_file():
        card = json.loads(layout.card_json.read_text("utf-8"))
        verdict = "passes" if card["decision"]["promote"] else "stays challenger"
        yield Chapter("", f"the new model {verdict}: {card['decision']['reason']}")
    if layout.failed_json.is_file():
        failed = json.loads(layout.failed_json.read_text("utf-8"))
        where = f" at {failed['where']}" if failed.get("where") else ""
        yield Chapter(failed["at"][11:19], f"failed{where}: {failed['error']}: {failed['message'].splitlines()[0]}")
    ended = record.get("finished_at")
    if ended:
        total = record.get("seconds", {}).get("total")
        rental = read_rental(layout.root)
        yield Chapter(ended[11:19], f"{record['state']}", total, rental["cost_usd"] if rental else None)
    else:
        yield Chapter("", "has not ended, or its process died without a word")


def _clock(moment: datetime) -> str:
    return f"{moment:%H:%M:%S}"
