"""Models that find expansions in windows of price bars, and which of several is better.

    import jade_model

    model = jade_model.load_model("champion")
    spans = model.predict(bars)
    jade_model.compare_arms("mine.csv", "theirs.csv").verdict

docs/python.md tells more. Names are imported as they are asked for: a host that trains has no pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jade_model.api import compare_arms, cut_windows, load_model, read_windows
    from jade_model.core.crf import CRF

__all__ = ["CRF", "compare_arms", "cut_windows", "load_model", "read_windows"]


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("jade_model.core.crf" if name == "CRF" else "jade_model.api"), name)


def __dir__() -> list[str]:
    """Name what there is."""
    return sorted({*globals(), *__all__})
