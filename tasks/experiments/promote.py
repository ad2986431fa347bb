"""Promotion of what a retraining made: the pointer moves, and whoever wants to know is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.artifacts.repository import ArtifactPlace, fetch_path, open_place
from tasks.artifacts.training_cache import say
from tasks.core.errors import BadRequest
from tasks.core.layout import RunLayout
from tasks.experiments.champion import (
    CHALLENGER,
    CHAMPION,
    RETRAINING,
    HistoryEntry,
    champion_history,
    current_champion,
    person,
    promote,
    roll_back,
)
from tasks.experiments.model_card import read_card
from tasks.operations.events import KEPT_AS_CHALLENGER, PROMOTED, ROLLED_BACK, tell
from tasks.runs.tracked_models import tell_models_in_time


def champion_run(place: ArtifactPlace) -> RunLayout | None:
    """Return the champion's run on this machine, whole and verified; None if there is none."""
    run_id = current_champion(place.store)
    return None if run_id is None else place.find_run(run_id)


def anchor_run(place: ArtifactPlace) -> RunLayout | None:
    """Return the run of the best champion so far: the last that was shown to be better than the best before it.

    None if there is no champion. Champions of an older Jade name none: they count as the best themselves.
    """
    champion = champion_run(place)
    if champion is None:
        return None
    best = read_card(champion).get("anchor", champion.run_id)
    return champion if best == champion.run_id else place.find_run(best)


def model_of(name: str, artifacts: str | None) -> Path:
    """Return the model that a user names, on this machine: a path, or `champion` and `challenger` of a place.

    Args:
        name: As `fetch_path` takes it, or one of the two.
        artifacts: Where runs are kept; None for what the settings say.

    Raises:
        RunNotFound: There is no such path, run or pointer.
    """
    if name not in {CHAMPION, CHALLENGER} or Path(name).exists():
        return fetch_path(name, artifacts)
    layout = open_place(artifacts).find_run(name)
    return layout.root / str(read_card(layout)["model"]["folder"])


def settle(place: ArtifactPlace, card: Mapping[str, Any], *, may_promote: bool, track: str | None = None) -> str:
    """Make a judged and published run the champion, or keep it as challenger, as its card says.

    Args:
        place: That keeps it.
        card: Its card.
        may_promote: Whether promotion is asked for.
        track: Whether MLflow is told, as the parameters say it.

    Returns:
        One sentence for people.
    """
    run_id, decision = str(card["run_id"]), card["decision"]
    if decision["promote"] and may_promote:
        promote(place.store, run_id, instead_of=card["champion"], by=RETRAINING)
        message = f"{run_id} is champion: {decision['reason']}."
        _announce(place, PROMOTED, run_id, message, track=track, before=card["champion"])
        return message
    place.store.point(CHALLENGER, run_id)
    why = decision["reason"] if not decision["promote"] else "promotion was not asked for"
    message = f"{run_id} stays challenger: {why}."
    _announce(place, KEPT_AS_CHALLENGER, run_id, message, track=track)
    return message


def promote_by_hand(place: ArtifactPlace, name: str, *, force: bool) -> HistoryEntry:
    """Make a retrained run the champion because somebody says so.

    Args:
        place: That keeps it.
        name: Of the run, or how `find_run` knows it.
        force: Also if it failed a gate, or the champion has changed since it was judged.

    Raises:
        RunNotFound: There is no such run, or it is no retraining.
        BadRequest: It failed its gates, or the champion changed; `force` was not given.
    """
    layout = place.find_run(name)
    card = read_card(layout)
    if not card["decision"]["promote"] and not force:
        raise BadRequest(
            f"{layout.run_id} did not pass: {card['decision']['reason']}. `--force` promotes it nevertheless"
        )
    champion = current_champion(place.store)
    # `--force` that was not needed is an ordinary promotion.
    forced = force and not (card["decision"]["promote"] and champion == card["champion"])
    expected = champion if forced else card["champion"]
    entry = promote(place.store, layout.run_id, instead_of=expected, forced=forced, by=person())
    how = f"by force, although {card['decision']['reason']}" if forced else "by hand"
    _announce(place, PROMOTED, layout.run_id, f"{layout.run_id} is champion, {how}.")
    return entry


def why_champion(place: ArtifactPlace, card: Mapping[str, Any]) -> str:
    """Say in a sentence why the model of a card is the champion, or that somebody wanted it in spite of its gates."""
    entries = [entry for entry in champion_history(place.store) if entry.run_id == card["run_id"]]
    reason = card["decision"]["reason"]
    if not card["decision"]["promote"] or (entries and entries[-1].kind == "forced"):
        return f"Promoted by force; its card says: {reason}."
    return f"Promoted because {reason}."


def roll_back_champion(place: ArtifactPlace) -> HistoryEntry:
    """Make the champion before this one the champion again.

    Raises:
        BadRequest: There is none.
    """
    entry = roll_back(place.store, by=person())
    _announce(place, ROLLED_BACK, entry.run_id, f"{entry.run_id} is champion again.")
    return entry


def _announce(
    place: ArtifactPlace, event: str, run_id: str, message: str, *, track: str | None = None, **facts: Any
) -> None:
    """Tell Prefect and MLflow what has become of a retrained run."""
    from tasks.experiments.champion_page import show_champion

    tell(event, "model", run_id, message=message, run_id=run_id, **facts)
    show_champion(place)
    tell_models_in_time(place, track, say)
