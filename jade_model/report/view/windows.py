"""Windows worth a look."""

from __future__ import annotations

from jade_model.report.facts import Facts
from jade_model.report.inputs import GalleryWindow

EXAMPLE_KINDS = ("best", "median", "worst")


def examples(facts: Facts) -> list[GalleryWindow]:
    """Return the best, median and worst windows, in that order."""
    order = {kind: rank for rank, kind in enumerate(EXAMPLE_KINDS)}
    return sorted((w for w in facts.report.gallery if w.kind in order), key=lambda window: order[window.kind])


def errors(facts: Facts) -> list[GalleryWindow]:
    """Return the mistakes, most confident first."""
    return sorted((w for w in facts.report.gallery if w.kind == "error"), key=lambda w: (-mistaken(w)[1], w.window_id))


def disagreements(facts: Facts) -> list[GalleryWindow]:
    """Return windows where the arms differ, most first."""
    return sorted((w for w in facts.report.gallery if w.kind == "disagreement"), key=lambda w: (-_gap(w), w.window_id))


def mistaken(window: GalleryWindow) -> tuple[str, float]:
    """Return the arm that was wrong with the highest confidence, and that confidence."""
    wrong = [arm for arm, f1 in window.f1.items() if f1 < 0.5] or [min(window.f1, key=lambda arm: window.f1[arm])]
    arm = max(wrong, key=lambda name: window.confidence.get(name, 0.0))
    return arm, window.confidence.get(arm, 0.0)


def _gap(window: GalleryWindow) -> float:
    return max(window.f1.values()) - min(window.f1.values()) if window.f1 else 0.0
