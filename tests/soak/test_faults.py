"""A hundred runs with a fault each; see tests/soak/faults.py."""

from __future__ import annotations

import pytest

from tests.fakes.sshd import SSHD
from tests.soak.faults import soak

pytestmark = [pytest.mark.soak, pytest.mark.skipif(SSHD is None, reason="no sshd here")]


def test_every_run_ends_whole_once_and_leaves_no_process() -> None:
    assert [case for case in soak(100, seed=0) if case.problems] == []
