"""Windows worth a look."""

from __future__ import annotations

from collections.abc import Sequence

from jade_model.report.facts import Facts
from jade_model.report.inputs import GalleryWindow, Spans
from jade_model.report.markup import code
from jade_model.report.numbers import (
    ABSENT,
    number,
)
from jade_model.report.view.rows import Rows

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


def window_rows(facts: Facts, windows: Sequence[GalleryWindow]) -> Rows:
    """Return labelled and marked bars of windows, a line each."""

    def found(window: GalleryWindow, arm: str) -> str:
        marked = _bars(window.predicted[arm]) if arm in window.predicted else ABSENT
        return f"{marked}; **{number(window.f1.get(arm), 2)}**; {number(window.confidence.get(arm), 2)}"

    return [
        [code(w.window_id), w.kind, _bars(w.true_spans), *[found(w, arm.key) for arm in facts.arms]] for w in windows
    ]


def _bars(spans: Spans) -> str:
    """First and last bar, both inclusive, as the data files count."""
    shown = [f"{start}-{end - 1}" for start, end in spans][:4]
    return ", ".join(shown) + (" ..." if len(spans) > 4 else "") if shown else "none"
