"""One champion at every moment, whoever dies; a history that leads back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from helpers.champions import NIGHT, check_champion_and_healing

from tasks.artifacts.errors import ArtifactNotFound
from tasks.artifacts.local import LocalBackend
from tasks.artifacts.repository import open_place
from tasks.artifacts.store import ArtifactStore
from tasks.artifacts.transfer import publish_run
from tasks.core.errors import BadRequest
from tasks.experiments.champion import champion_history, current_champion, promote, roll_back
from tasks.experiments.model_card import read_card
from tasks.experiments.promote import promote_by_hand, why_champion


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    for name in "abc":
        folder = tmp_path / f"run-{name}"
        folder.mkdir()
        (folder / "card.json").write_text("{}")
        publish_run(ArtifactStore(LocalBackend(tmp_path)), folder, folder.name)
    return ArtifactStore(LocalBackend(tmp_path))


def test_promotions_and_rollbacks_form_a_history(store: ArtifactStore) -> None:
    assert current_champion(store) is None
    promote(store, "run-a", instead_of=None, now=NIGHT)
    promote(store, "run-b", instead_of="run-a", now=NIGHT + timedelta(days=1))
    promote(store, "run-c", instead_of="run-b", now=NIGHT + timedelta(days=2))
    assert roll_back(store, now=NIGHT + timedelta(days=3)).run_id == "run-b"
    assert roll_back(store, now=NIGHT + timedelta(days=3)).run_id == "run-a"
    assert current_champion(store) == "run-a"
    told = [(entry.number, entry.kind, entry.run_id) for entry in champion_history(store)]
    assert told == [
        (1, "promoted", "run-a"),
        (2, "promoted", "run-b"),
        (3, "promoted", "run-c"),
        (4, "rolled-back", "run-b"),
        (5, "rolled-back", "run-a"),
    ]
    with pytest.raises(BadRequest, match="no champion before"):
        roll_back(store)


def test_what_was_promoted_after_a_rollback_goes_back_to_where_it_came_from(store: ArtifactStore) -> None:
    promote(store, "run-a", instead_of=None)
    promote(store, "run-b", instead_of="run-a")
    roll_back(store)
    promote(store, "run-c", instead_of="run-a")
    assert roll_back(store).run_id == "run-a"


def test_refusals_leave_the_champion_where_it_was(store: ArtifactStore) -> None:
    promote(store, "run-a", instead_of=None)
    with pytest.raises(BadRequest, match="champion already"):
        promote(store, "run-a", instead_of="run-a")
    with pytest.raises(BadRequest, match="was judged against none"):
        promote(store, "run-b", instead_of=None)
    with pytest.raises(ArtifactNotFound):
        promote(store, "run-z", instead_of="run-a")
    assert current_champion(store) == "run-a"
    assert len(champion_history(store)) == 1


def test_a_promotion_by_force_is_told_as_one(tmp_path: Path) -> None:
    place, first, second = open_place(tmp_path), "20261124T020000Z-retrain-00000a", "20261125T020000Z-retrain-00000b"
    for name, passed in ((first, True), (second, False)):
        decision = {"promote": passed, "reason": "it passes" if passed else "it fails the gate: calibration"}
        card = {"schema_version": 1, "run_id": name, "champion": None, "decision": decision}
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
        (tmp_path / name / "card.json").write_text(json.dumps(card))
        publish_run(place.store, tmp_path / name, name)
    promote_by_hand(place, first, force=True)
    with pytest.raises(BadRequest, match="calibration"):
        promote_by_hand(place, second, force=False)
    promote_by_hand(place, second, force=True)
    assert [entry.kind for entry in champion_history(place.store)] == ["promoted", "forced"]
    told = [why_champion(place, read_card(place.layout(name))) for name in (first, second)]
    assert told == ["Promoted because it passes.", "Promoted by force; its card says: it fails the gate: calibration."]


def test_former_champions_are_protected(store: ArtifactStore) -> None:
    promote(store, "run-a", instead_of=None)
    promote(store, "run-b", instead_of="run-a")
    assert {"run-a", "run-b"} <= set(store.pointers().values())


DYING = """
import os, signal, sys
from pathlib import Path
from tasks.experiments.champion import promote, roll_back
from tasks.artifacts.local import LocalBackend
from tasks.artifacts.store import ArtifactStore

class Dying(ArtifactStore):
    calls = 0
    def point(self, name, run_id):
        self._die(2 * Dying.calls)
        super().point(name, run_id)
        self._die(2 * Dying.calls + 1)
        Dying.calls += 1
    def _die(self, step):
        if step == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

store = Dying(LocalBackend(Path(sys.argv[1])))
promote(store, "run-c", instead_of="run-b") if sys.argv[3] == "promote" else roll_back(store)
"""


@pytest.mark.parametrize("action", ["promote", "rollback"])
@pytest.mark.parametrize("step", range(4))
def test_a_kill_at_any_step_leaves_one_champion_and_a_history_that_heals(
    store: ArtifactStore, tmp_path: Path, action: str, step: int
) -> None:
    promote(store, "run-a", instead_of=None, now=NIGHT)
    promote(store, "run-b", instead_of="run-a", now=NIGHT)
    killed = subprocess.run(
        [sys.executable, "-c", DYING, str(tmp_path), str(step), action], env=os.environ, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    check_champion_and_healing(store, action, has_moved=step > 0)
