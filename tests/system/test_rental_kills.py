"""SIGKILL at every step that a rental takes, and the reaper after it: nothing of ours is left, nothing else touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.servers import ROOT

from tasks.provisioning.entries import TRANSITIONS, LeaseState
from tests.fakes.sshd import SSHD

pytestmark = [pytest.mark.system, pytest.mark.skipif(SSHD is None, reason="no sshd here")]

PROGRAM = ROOT / "tests" / "programs" / "kill_walk.py"
ORPHAN_GRACE_S = 900.0
REAP_EVERY_S = 600.0


@pytest.mark.parametrize("scenario", ["taken away", "sold out", "reply lost", "reaper"])
def test_wherever_a_renter_or_a_reaper_is_killed_the_next_reaper_frees_all_that_is_ours(
    tmp_path: Path, scenario: str
) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path / "walk"), scenario],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert kills
    for kill in kills:
        assert kill["was_killed"], kill
        assert kill["left_after_reap"] == 0, kill
        assert kill["others_lost"] == 0, kill
        assert kill["idle_at_last"], kill
        assert kill["seconds_to_release"] < ORPHAN_GRACE_S + 2 * REAP_EVERY_S, kill
    assert any(kill["left_by_kill"] for kill in kills), "no kill left anything: the walk proves nothing"
    walked = {tuple(kill["step"].split(" -> ")) for kill in kills}
    known = {("-", LeaseState.REQUESTED.value)} | {(old.value, new.value) for old, new in TRANSITIONS}
    assert walked <= known
    print(f"{scenario}: {len(kills)} kills at {len(walked)} steps; left 0, others touched 0")
