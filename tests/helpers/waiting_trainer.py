"""Pythons for hosts: one whose trainings wait instead of computing, and one whose trainings wait where a test wants."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from tests.soak import cheap_trainer

_PROGRAM = """#!/bin/sh
case "$*" in
  *"jade_model train "*) shift 2; JADE_TEST_EPOCH_S={epoch_s} exec {python} {trainer} "$@" ;;
  *) echo '{probe}' ;;
esac
"""


_WATCHED = """#!/bin/sh
case "$*" in
  "-m jade_model train "*) shift 2; exec {python} {trainer} {folder} "$@" ;;
  *) exec {python} "$@" ;;
esac
"""


def watched_python(path: Path, folder: Path) -> Path:
    """Write a Python that trains for real, and goes no further than a checkpoint while `FOLDER/wait` exists."""
    trainer = Path(__file__).parents[1] / "programs" / "watched_trainer.py"
    path.write_text(_WATCHED.format(python=sys.executable, trainer=trainer, folder=shlex.quote(str(folder))))
    path.chmod(0o755)
    return path


def waiting_python(path: Path, unit_s: float) -> Path:
    """Write a Python whose trainings wait, so that this machine's cores do not decide how fast a host is.

    It says of itself what a Python with torch would say.

    Args:
        path: Where.
        unit_s: What each training takes.
    """
    found = {
        "python_version": [3, 12, 0],
        "python": str(path),
        "numpy_version": "2.1",
        "torch_version": "2.6.0",
        "torch_devices": [],
    }
    epoch_s, trainer = unit_s / cheap_trainer.EPOCHS, cheap_trainer.__file__
    path.write_text(_PROGRAM.format(python=sys.executable, trainer=trainer, epoch_s=epoch_s, probe=json.dumps(found)))
    path.chmod(0o755)
    return path
