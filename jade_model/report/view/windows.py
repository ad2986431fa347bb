"""Windows worth a look."""

from __future__ import annotations

from collections.abc import Sequence

from jade_model.report.inputs import GalleryWindow

KINDS = ("best", "median", "worst", "error", "disagreement")
MOST_OF_A_KIND = 2


def worth_a_look(gallery: Sequence[GalleryWindow]) -> list[GalleryWindow]:
    """Return two windows of each kind at most: surest mistakes and widest disagreements first."""
    found = []
    for kind in KINDS:
        of_kind = [window for window in gallery if window.kind == kind]
        if kind == "error":
            of_kind.sort(key=lambda window: (-mistaken(window)[1], window.window_id))
        elif kind == "disagreement":
            of_kind.sort(key=lambda window: (-_gap(window), window.window_id))
        found += of_kind[:MOST_OF_A_KIND]
    return found


def mistaken(window: GalleryWindow) -> tuple[str, float]:
    """Return the arm that was wrong with the highest confidence, and that confidence."""
    wrong = [arm for arm, f1 in window.f1.items() if f1 < 0.5] or [min(window.f1, key=lambda arm: window.f1[arm])]
    arm = max(wrong, key=lambda name: window.confidence.get(name, 0.0))
    return arm, window.confidence.get(arm, 0.0)


def _gap(window: GalleryWindow) -> float:
    return max(window.f1.values()) - min(window.f1.values()) if window.f1 else 0.0
