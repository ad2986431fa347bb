"""Everything that the template of a comparison's report names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jade_model.report.facts import Facts
from jade_model.report.findings import find_insights, merged
from jade_model.report.markup import plain
from jade_model.report.naming import LOSS_UNITS, contestant, spelled_out
from jade_model.report.view import closing, first_screen, probability, recommendation, training, verdict
from jade_model.report.view.actions import next_actions, run_folder
from jade_model.report.view.closing import PARTS
from jade_model.report.view.first_screen import badge, headline, title
from jade_model.statistics.verdict import LEAKS, MOSTLY_LUCK, NOT_BEATEN, WHOLE_SPANS_ALONE

SAID_ELSEWHERE = (LEAKS, NOT_BEATEN, WHOLE_SPANS_ALONE, MOSTLY_LUCK)
_PARTS = (first_screen, verdict, training, probability, recommendation, closing)


def report_context(facts: Facts) -> dict[str, Any]:
    """Return everything that `report.md.j2` names."""
    settings = facts.numbers.settings
    return {
        "facts": facts,
        "numbers": facts.numbers,
        "settings": settings,
        "run": facts.report.run,
        "arms": facts.arms,
        "names": [arm.name for arm in facts.arms],
        "title": title(facts),
        "headline": headline(facts),
        "badge": badge(facts)[0],
        "actions": next_actions(facts),
        "findings": merged(find_insights(facts), facts),
        "folder": run_folder(facts),
        # The tables have the baselines', with their intervals; a finding says where the doubt comes from.
        "caveats": [
            plain(spelled_out(caveat, facts.styles))
            for caveat in facts.numbers.verdict.caveats
            if not any(words in caveat for words in SAID_ELSEWHERE)
        ],
        "loss_units": LOSS_UNITS,
        "contestant": lambda key: contestant(key, facts.styles),
        "view": _Namespace(facts),
        **PARTS,
    }


class _Namespace:
    """The parts' functions, for a template: `view.quick_rows()` instead of `quick_rows(facts)`."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def __getattr__(self, name: str) -> Callable[..., Any]:
        found = next(getattr(part, name) for part in _PARTS if hasattr(part, name))
        return lambda *arguments: found(self._facts, *arguments)
