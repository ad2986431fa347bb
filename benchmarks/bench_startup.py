"""From the command to the first epoch, beside the start of an empty Prefect flow in the same run; wall time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Measurement, interleaved
from tasks.settings.prefect import PREFECT_DEFAULTS

REPEAT = 1
MAX_BEYOND_PREFECT_S = 8.0
ROOT = Path(__file__).parents[1]
EMPTY_FLOW = """
from prefect import flow

@flow
def empty():
    print("begun", flush=True)

empty()
"""


def measure() -> list[Measurement]:
    """Start both by turns; what is beyond Prefect's own start counts."""
    help_s, python_s = interleaved(
        lambda: run_quietly(["-m", "flows.cli", "--help"]), lambda: run_quietly(["-c", "pass"]), 5, time.perf_counter
    )
    breakdowns = []
    prefect_s = []
    with tempfile.TemporaryDirectory(prefix="jade-start-") as temporary:
        for turn in range(REPEAT):
            prefect_s.append(until_an_empty_flow_begins(Path(temporary)))
            breakdowns.append(start_breakdown(Path(temporary) / str(turn)))
    best = min(breakdowns, key=lambda parts: sum(parts.values()))
    told = ", ".join(f"{name} {spent:.1f} s" for name, spent in best.items())
    return [
        Measurement("jade --help", help_s, python_s, "python -c pass", max_s=0.3, note="wall time"),
        Measurement(
            "from `jade compare` to the first epoch, beyond Prefect's own start",
            max(sum(best.values()) - min(prefect_s), 0.0),
            max_s=MAX_BEYOND_PREFECT_S,
            note=f"wall time; {told}; an empty flow begins after {min(prefect_s):.1f} s",
        ),
    ]


def run_quietly(arguments: list[str]) -> None:
    """Run Python to its end."""
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def until_an_empty_flow_begins(folder: Path) -> float:
    """Run an empty flow with the settings that ours have; returns the seconds until its body ran."""
    script = folder / "empty_flow.py"
    script.write_text(EMPTY_FLOW)
    begin, begun = time.perf_counter(), None
    environment = {**PREFECT_DEFAULTS, **os.environ}
    with subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "begun":
                begun = time.perf_counter() - begin
    # Only its end stops the server that it brought along.
    if begun is None or process.returncode != 0:
        raise AssertionError("the empty flow failed")
    return begun


def start_breakdown(folder: Path) -> dict[str, float]:
    """Run one short comparison; returns what its start took, in seconds by what took them."""
    arguments = ["compare", "--epochs", "1", "--arms", "soft_span,crf", "--folds", "2", "--fresh", "--json"]
    run_quietly(["-m", "flows.cli", *arguments, "--artifacts", str(folder)])
    (record,) = (json.loads(path.read_text()) for path in folder.glob("*/run.json"))
    return {name: spent for name, spent in record["overhead"].items() if not name.startswith("since")}
