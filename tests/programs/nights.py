"""Runs flows as schedules would: a line `{"flow": ..., "parameters": {...}}` in, a line `{"state": ...}` out.

PYTHONPATH=.:tests python tests/programs/nights.py
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from prefect import tags

from flows.compare import compare
from flows.retrain import retrain


def run(flow: str, parameters: dict[str, Any]) -> str:
    """Run a flow to its end; return its state."""
    with tags("jade"):
        if flow == "compare":
            return compare(**parameters, return_state=True).type.value
        return retrain(**parameters, return_state=True).type.value


def main() -> None:
    # What the flows print goes where their errors go.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps({"state": run(**json.loads(line))}), file=answers, flush=True)


if __name__ == "__main__":
    main()
