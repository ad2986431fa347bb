"""Has the data of a deployment changed since they were last compared? If so, start it.

What was last seen is kept as a variable of the Prefect server: number of the change, digest, time, run. The run is
started first, under an idempotency key of number and digest; the variable is written after. If somebody dies in
between, the next look asks for the same key, which starts nothing anew. A run that crashed or failed is started again,
up to three times for the same data; one that somebody cancelled is not. Data that change back count as changed again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.variables import Variable

from jade_model.core.errors import DataError
from jade_model.core.files import sha256_file, sha256_json
from jade_model.data.parquet.files import find_files
from jade_model.data.sample import NAME as SAMPLE
from tasks.core.errors import BadRequest
from tasks.operations.flow_runs import NEW_DATA

ATTEMPTS = 3
"""Runs for the same data, should they crash or fail."""
_WITHOUT_RESULT = {"CRASHED", "FAILED"}


def look_at_data(deployment: str, *, settle_s: float) -> tuple[str, bool]:
    """Start the deployment if its data have changed, or were not compared to the end.

    Args:
        deployment: `flow/name`.
        settle_s: Files changed within so many seconds are left for the next look.

    Returns:
        What was found, in one sentence, and whether the deployment was started.

    Raises:
        BadRequest: The deployment names no data.
        DataError: There are no such files.
    """
    parameters = _read_deployment(deployment).parameters
    sources = parameters.get("data", [SAMPLE])
    if sources == [SAMPLE]:
        return f"{deployment} works on the built-in sample, so there is nothing to watch", False
    digest, age_s = data_digest(sources)
    variable = f"jade_seen_{hashlib.sha256(json.dumps([deployment, sources]).encode()).hexdigest()[:16]}"
    seen: dict[str, Any] = dict(Variable.get(variable, default=None) or {})
    attempts, why = 1, "changed"
    if digest == seen.get("digest"):
        ended = _end_of(seen.get("run"))
        attempts = int(seen.get("attempts", 1)) + 1
        if ended not in _WITHOUT_RESULT:
            return f"unchanged since {seen['at']}", False
        if attempts > ATTEMPTS:
            return f"unchanged since {seen['at']}, and not compared: {ATTEMPTS} runs {ended.lower()}", False
        why = f"not compared yet, for the last run {ended.lower()}"
    elif age_s < settle_s:
        return f"changed {age_s:.0f} s ago; not settled yet", False
    number = int(seen.get("number", 0)) + 1
    key = f"{variable}-{number}-{digest}"
    started = run_deployment(deployment, timeout=0, as_subflow=False, idempotency_key=key, tags=[NEW_DATA])
    run = cast("FlowRun", started)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    value = {"number": number, "digest": digest, "at": now, "run": str(run.id), "attempts": attempts}
    Variable.set(variable, value, overwrite=True)
    return f"{why}: started {run.name}", True


def _end_of(run_id: str | None) -> str:
    """Return the type of a run's state; empty if it is not known any more."""
    if run_id is None:
        return ""
    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(UUID(run_id)).state_type
        except ObjectNotFound:
            return ""
    return state.value if state is not None else ""


def data_digest(sources: Sequence[str]) -> tuple[str, float]:
    """Return a digest of all files that the sources name, and how long ago the newest of them changed.

    Raises:
        DataError: A source names no file.
    """
    files, violations = find_files(list(sources))
    if violations:
        raise DataError(violations)
    newest = max(Path(file).stat().st_mtime for file in files)
    return sha256_json([sha256_file(file) for file in files]), max(time.time() - newest, 0.0)


def _read_deployment(name: str) -> DeploymentResponse:
    with get_client(sync_client=True) as client:
        try:
            return client.read_deployment_by_name(name)
        except ObjectNotFound as error:
            raise BadRequest(f"there is no deployment {name!r} to start; `prefect deployment ls` lists them") from error
