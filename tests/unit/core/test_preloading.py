"""Modules are there when they are needed, and one that is missing takes nothing down."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tasks.core.processes import import_meanwhile


def test_modules_are_imported_in_order_and_a_missing_one_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jade_test_preloaded.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    import_meanwhile("jade_test_missing", "jade_test_preloaded").join(60)
    assert "jade_test_preloaded" in sys.modules
    monkeypatch.delitem(sys.modules, "jade_test_preloaded")
