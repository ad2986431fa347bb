"""What tables are made of."""

from __future__ import annotations

from collections.abc import Callable

from jade_model.report.facts import ArmFacts

Rows = list[list[str]]
ArmCell = Callable[[ArmFacts], str]
