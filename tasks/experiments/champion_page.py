"""Champion and challenger with their history as a page of the Prefect UI."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from jade_model.core.errors import JadeError
from jade_model.report.markup import plain
from tasks.artifacts.repository import ArtifactPlace
from tasks.experiments.champion import CHALLENGER, HistoryEntry, champion_history, current_champion
from tasks.experiments.publish import NOTHING
from tasks.operations.ui import run_link, show_markdown
from tasks.runs.past import read_json
from tasks.settings.prefect import has_lasting_server

KEY = "champion"
SHOWN = 30
"""Changes of the champion on the page."""
_HOW = {
    "promoted": "promoted",
    "forced": "promoted **by force**",
    "rolled-back": "rolled back to",
    "recovered": "promoted or rolled back to; who changed it died before saying so",
}
_LOGGER = logging.getLogger("prefect.jade")


def show_champion(place: ArtifactPlace) -> None:
    """Show the page as an artifact; where no Prefect server is set, nobody could see it.

    What fails is logged: the champion has changed already.

    Args:
        place: That keeps the champions.
    """
    if not has_lasting_server():
        return
    try:
        text = champion_markdown(place)
    except (JadeError, OSError, ValueError, LookupError, TypeError) as error:
        _LOGGER.warning("the page of the champion is not shown: %s: %s", type(error).__name__, error)
        return
    show_markdown(KEY, text, f"Champion and challenger, as {place.address} keeps them.")


def champion_markdown(place: ArtifactPlace) -> str:
    """Return the page: who is champion and why, who challenges, and every change, the newest first."""
    entries = champion_history(place.store)
    pointers = place.store.pointers()
    champion, challenger = current_champion(place.store), pointers.get(CHALLENGER)
    judged = cache(partial(_Judged.read, place))
    parts = ["# Champion"]
    if champion is None:
        parts.append("Nothing was promoted yet.")
    else:
        last = entries[-1] if entries and entries[-1].run_id == champion else None
        since = f", since {last.at:%Y-%m-%d %H:%M} UTC" if last else ""
        parts.append(judged(champion).paragraph(since, "" if last is None else f"It was {_HOW[last.kind]}{_by(last)}."))
    parts.append("## Challenger")
    if challenger is None or challenger == champion:
        parts.append("None: no retraining was kept back.")
    else:
        parts.append(judged(challenger).paragraph("", ""))
    if entries:
        shown = [(entry, judged(entry.run_id)) for entry in reversed(entries[-SHOWN:])]
        # Prefect never wraps a cell: the table holds what a page is wide enough for, words follow below.
        rows = ["| | when (UTC) | run | how | arm | F1 |", "|---" * 6 + "|", *(_row(*item) for item in shown)]
        parts += ["## History", "\n".join(rows), "\n".join(_said(*item) for item in shown)]
    if len(entries) > SHOWN:
        parts.append(f"{len(entries) - SHOWN} earlier changes: `jade champion --history`.")
    return "\n\n".join(parts) + "\n"


@dataclass(frozen=True)
class _Judged:
    """A retraining as its card tells of it, in words; dashes where the card is gone or is another Jade's."""

    link: str
    arm: str
    recipe: str
    f1: str
    data: str
    reason: str

    @classmethod
    def read(cls, place: ArtifactPlace, run_id: str) -> _Judged:
        record = read_json(place, run_id, "run.json") or {}
        link = run_link(run_id, record.get("flow_run_id"))
        card: Mapping[str, Any] = read_json(place, run_id, "card.json") or {}
        try:
            return cls(
                link,
                card["model"]["arm"],
                card["model"]["recipe"],
                _f1(card["judgement"]),
                ", ".join(f"{plain(item['name'])}, {item['num_windows']} windows" for item in card["data"]),
                plain(card["decision"]["reason"]),
            )
        except (KeyError, TypeError, ValueError):
            reason = plain(card.get("decision", {}).get("reason", NOTHING))
            return cls(link, NOTHING, NOTHING, NOTHING, NOTHING, reason)

    def paragraph(self, since: str, how: str) -> str:
        said = f"Its card says: {self.reason}."
        made = f"{self.arm} ({self.recipe}), F1 {self.f1}, trained on {self.data}."
        return " ".join(part for part in (f"**{self.link}**{since}:", made, how, said) if part)


def _row(entry: HistoryEntry, run: _Judged) -> str:
    cells = (
        f"{entry.number}",
        f"{entry.at:%Y-%m-%d %H:%M}",
        run.link,
        f"{_HOW[entry.kind]}{_by(entry)}",
        run.arm,
        run.f1,
    )
    return "| " + " | ".join(cells) + " |"


def _said(entry: HistoryEntry, run: _Judged) -> str:
    made = "" if run.data == NOTHING else f" ({run.recipe}, trained on {run.data})"
    return f"* {entry.number}: {run.reason}{made}"


def _by(entry: HistoryEntry) -> str:
    return f" by {plain(entry.by)}" if entry.by else ""


def _f1(judgement: Mapping[str, Any]) -> str:
    ours = ("challenger", "f1", None)
    (score,) = (item for item in judgement["scores"] if (item["arm"], item["metric"], item["dataset"]) == ours)
    low, high = score["confidence_interval"]
    return f"{score['value']:.3f} [{low:.3f}, {high:.3f}]"
