"""Which model is in use: the pointer `champion`, and the history that leads back to every one before it.

The pointer alone decides, and moves in one step: whoever dies while promoting leaves the old champion or the new one,
never none and never two. The history is a row of further pointers, each written once and standing for the run:
`champion.<number>.<UTC time>.<kind>.<by>`, without `.<by>` where nobody is known. It is written after the pointer has
moved, and whoever comes next writes the entry that somebody who died did not come to. A run in the history is never
pruned: every rollback has its target.
"""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from tasks.artifacts.store import ArtifactStore
from tasks.core.errors import BadRequest

CHAMPION = "champion"
CHALLENGER = "challenger"
"""The last retraining that was judged and not promoted."""
Kind = Literal["promoted", "forced", "rolled-back", "recovered"]

RETRAINING = "retraining"
"""Who promotes what passes its gates."""

_ENTRY = re.compile(r"champion\.(\d{6})\.(\d{8}T\d{6}Z)\.(promoted|forced|rolled-back|recovered)(?:\.([\w-]+))?")
_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class HistoryEntry:
    """One change of the champion.

    Attributes:
        number: 1 for the first.
        at: When, UTC.
        kind: How; `forced`: over a failed gate, or another champion than it was judged against; `recovered`: whoever
            changed it died before writing this, so that time and kind are not known.
        run_id: The champion from then on.
        by: RETRAINING, or a person as `person` says it; empty where that is not known.
    """

    number: int
    at: datetime
    kind: Kind
    run_id: str
    by: str = ""

    @property
    def pointer(self) -> str:
        """Name of the pointer that holds it."""
        by = f".{self.by}" if self.by else ""
        return f"{CHAMPION}.{self.number:06d}.{self.at:{_TIME}}.{self.kind}{by}"


def person() -> str:
    """Return who runs this program, and where, as history keeps it: `ann-at-gpu1`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"  # a container's user may have no name
    return re.sub(r"[^A-Za-z0-9_-]", "-", f"{user}-at-{socket.gethostname()}")[:80]


def current_champion(store: ArtifactStore) -> str | None:
    """Return the champion's run, or None if nothing was ever promoted."""
    return store.pointers().get(CHAMPION)


def champion_history(store: ArtifactStore) -> list[HistoryEntry]:
    """Return every change of the champion, oldest first."""
    return _history(store.pointers())


def promote(
    store: ArtifactStore,
    run_id: str,
    *,
    instead_of: str | None,
    forced: bool = False,
    by: str = "",
    now: datetime | None = None,
) -> HistoryEntry:
    """Make a run the champion.

    Args:
        store: Where runs are kept.
        run_id: A published retraining.
        instead_of: The champion that the run was judged against; None: there was none.
        forced: Whether it is promoted although it failed a gate or was judged against another champion.
        by: Who promotes it, for the history.
        now: Of the history's entry.

    Raises:
        BadRequest: It is the champion already, or the champion has changed since the run was judged.
        ArtifactNotFound: There is no such run; the champion stays.
    """
    pointers = store.pointers()
    found = pointers.get(CHAMPION)
    if found == run_id:
        raise BadRequest(f"{run_id} is the champion already")
    if found != instead_of:
        raise BadRequest(
            f"the champion is {found or 'none'}, but {run_id} was judged against {instead_of or 'none'}. "
            f"`jade promote {run_id} --force` promotes it nevertheless"
        )
    return _change(store, pointers, run_id, "forced" if forced else "promoted", by, now)


def roll_back(store: ArtifactStore, *, by: str = "", now: datetime | None = None) -> HistoryEntry:
    """Make the champion before this one the champion again; again and again, back to the first.

    Raises:
        BadRequest: There is none before it.
    """
    pointers = store.pointers()
    stack = _stack(_healed(pointers, _now(now)))
    if len(stack) < 2:
        raise BadRequest("there is no champion before this one" if stack else "nothing was ever promoted")
    return _change(store, pointers, stack[-2], "rolled-back", by, now)


def _change(
    store: ArtifactStore, pointers: Mapping[str, str], run_id: str, kind: Kind, by: str, now: datetime | None
) -> HistoryEntry:
    moment = _now(now)
    history = _healed(pointers, moment)
    if history and history[-1].pointer not in pointers:
        store.point(history[-1].pointer, history[-1].run_id)
    entry = HistoryEntry(len(history) + 1, moment, kind, run_id, by)
    # The one step that counts.
    store.point(CHAMPION, run_id)
    store.point(entry.pointer, run_id)
    return entry


def _healed(pointers: Mapping[str, str], moment: datetime) -> list[HistoryEntry]:
    """Return the history with the entry that is missing where somebody died right after moving the champion."""
    history = _history(pointers)
    champion = pointers.get(CHAMPION)
    if champion is None or (history and history[-1].run_id == champion):
        return history
    return [*history, HistoryEntry(len(history) + 1, moment, "recovered", champion)]


def _history(pointers: Mapping[str, str]) -> list[HistoryEntry]:
    found = []
    for name, run_id in pointers.items():
        if match := _ENTRY.fullmatch(name):
            number, at, kind, by = match.groups()
            moment = datetime.strptime(at, _TIME).replace(tzinfo=UTC)
            found.append(HistoryEntry(int(number), moment, kind, run_id, by or ""))  # type: ignore[arg-type]
    return sorted(found, key=lambda entry: (entry.number, entry.at))


def _stack(history: list[HistoryEntry]) -> list[str]:
    """Return the champions that a row of rollbacks would go through, the present one last."""
    stack: list[str] = []
    for entry in history:
        goes_back = entry.kind == "rolled-back" or (
            entry.kind == "recovered" and len(stack) > 1 and stack[-2] == entry.run_id
        )
        if goes_back and len(stack) > 1:
            stack.pop()
        else:
            stack.append(entry.run_id)
    return stack


def _now(now: datetime | None) -> datetime:
    return (now or datetime.now(UTC)).astimezone(UTC).replace(microsecond=0)
