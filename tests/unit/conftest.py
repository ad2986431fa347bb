"""The quick tests' own rule."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.hookimpl(tryfirst=True)  # before the marks select
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep system tests where `make test-system` looks for them."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("system"):
            raise pytest.UsageError(f"{item.nodeid} is marked `system`: move it to tests/system")
