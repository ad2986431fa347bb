"""A comparison on a host behind SSH: what the flow itself takes, beside the training process over there; wall time.

The host is this machine behind a real sshd, whose account has no start-up files for its shell. Training is what the
process over there takes from its start to its end: its interpreter, importing torch, epochs, checkpoints. All else is
the flow's own: connecting, looking the host over, sending sources and windows, polling, fetching and verifying results,
tidying; and, in the second row, preparing data, evaluation and report as well. Prefect's start is not counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import Measurement
from tests.fakes.sshd import SSHD, Sshd, running_sshd

MAX_OWN_S = 5.0
REPEAT = 2
ROOT = Path(__file__).parents[1]
COMPARE = ["compare", "--arms", "soft_span,crf", "--epochs", "2", "--folds", "2", "--workers", "1", "--fresh", "--json"]
# Marks when training begins and ends; everything else that is asked of it is passed on.
PYTHON = """#!/bin/sh
[ "$1 $2" = "-m jade_model" ] || exec {python} "$@"
date +%s.%N > {times}
{python} "$@"; code=$?
date +%s.%N >> {times}
exit $code
"""


def measure() -> list[Measurement]:
    """Run a short comparison there some times; none where there is no sshd."""
    if SSHD is None:
        return []
    with (
        tempfile.TemporaryDirectory(prefix="jade-bench-") as name,
        running_sshd(Path(name) / "sshd") as sshd,
    ):
        environment = host_settings(Path(name), sshd)
        runs = [one_run(Path(name), environment) for _ in range(REPEAT)]
    best = min(runs, key=lambda run: run["train"] - run["training"])
    own_s = best["train"] - best["training"]
    whole_s = min(run["total"] - run["training"] for run in runs)
    parts = ", ".join(f"{part} {best[part]:.1f} s" for part in ("prepare", "evaluate", "report"))
    return [
        Measurement(
            "training on an SSH host, beyond the training process over there",
            own_s,
            max_s=MAX_OWN_S,
            note=f"wall time; the process took {best['training']:.1f} s; the flow's first run there took "
            f"{runs[0]['train'] - runs[0]['training']:.1f} s beyond it",
        ),
        Measurement(
            "a whole comparison there, beyond that process", whole_s, max_s=MAX_OWN_S, note=f"wall time; {parts}"
        ),
    ]


def host_settings(folder: Path, sshd: Sshd) -> dict[str, str]:
    """Describe the host; return the environment of a `jade` that knows it."""
    python = folder / "python"
    python.write_text(PYTHON.format(python=sys.executable, times=folder / "times"))
    python.chmod(0o755)
    (folder / "config").mkdir()
    (folder / "config" / "jade.toml").write_text(
        f"""[hosts.bench]
host = "127.0.0.1"
port = {sshd.port}
user = "{sshd.user}"
key = "{sshd.user_key}"
fingerprint = "{sshd.fingerprint}"
folder = "{folder / "there"}"
python = "{python}"
"""
    )
    own = {"JADE_CONFIG_DIR": str(folder / "config"), "JADE_STATE_DIR": str(folder / "state")}
    return {**os.environ, **own}


def one_run(folder: Path, environment: dict[str, str]) -> dict[str, float]:
    """Compare on the host; return the seconds of the run's phases, and of the training process."""
    command = [sys.executable, "-m", "flows.cli", *COMPARE, "--artifacts", str(folder / "artifacts"), "--host", "bench"]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE)
    record: dict[str, Any] = json.loads((Path(json.loads(done.stdout)["folder"]) / "run.json").read_text())
    began, ended = (float(line) for line in (folder / "times").read_text().split())
    return {**record["seconds"], "training": ended - began}
