"""What must hold once somebody died while changing the champion, in whichever store."""

from __future__ import annotations

from datetime import UTC, datetime

from tasks.artifacts.store import ArtifactStore
from tasks.experiments.champion import champion_history, current_champion, promote, roll_back

NIGHT = datetime(2026, 11, 24, 2, tzinfo=UTC)


def check_champion_and_healing(store: ArtifactStore, action: str, *, has_moved: bool) -> None:
    """One champion, and whoever comes next finds its way: the same again, or back.

    Args:
        store: Where `run-a` and then `run-b` were promoted, and somebody died while changing that.
        action: `promote` of `run-c`, or `rollback`.
        has_moved: Whether it came far enough to count.
    """
    before, after = ("run-b", "run-c") if action == "promote" else ("run-b", "run-a")
    champion = current_champion(store)
    assert champion == (after if has_moved else before)
    if action == "promote":
        if champion == "run-b":
            promote(store, "run-c", instead_of="run-b")
        assert roll_back(store).run_id == "run-b"
        assert roll_back(store).run_id == "run-a"
    elif champion == "run-b":
        assert roll_back(store).run_id == "run-a"
    else:
        promote(store, "run-c", instead_of="run-a")
        assert roll_back(store).run_id == "run-a"
    numbers = [entry.number for entry in champion_history(store)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert champion_history(store)[-1].run_id == current_champion(store)
