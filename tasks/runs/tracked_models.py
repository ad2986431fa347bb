"""The champion and the challenger in MLflow's model registry, as models that take bars and give spans."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jade_model
from jade_model.core.errors import JadeError
from tasks.artifacts.repository import ArtifactPlace
from tasks.core.errors import RunNotFound, TaskError
from tasks.core.layout import RunLayout
from tasks.runs.live_tracking import TELL_S, Note, attempt_in_time
from tasks.runs.tracking import RUN_TAG, TrackingError, open_client, short, tell_run, tracks

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL = "jade"
ALIASES = ("champion", "challenger")
"""Pointers of the artifacts, and aliases in the registry."""

ARTIFACT = "model"
PACKAGES = ("torch", "numpy", "pandas", "pyarrow", "scipy")

_LOADER = '''"""A model of Jade as MLflow loads it."""

import mlflow.pyfunc
import pandas
from mlflow.models import set_model


class SpanModel(mlflow.pyfunc.PythonModel):
    """Takes a DataFrame of bars (open, high, low, close, and a column time or an index of times), gives spans."""

    def load_context(self, context):
        from pathlib import Path

        from jade_model.scoring.trained import open_model

        self.model = open_model(Path(context.artifacts["model"]))

    def predict(self, context, model_input: pandas.DataFrame, params=None) -> pandas.DataFrame:
        return self.model.predict(model_input, instrument=str((params or {}).get("instrument", "")))


set_model(SpanModel())
'''


def tell_models(place: ArtifactPlace) -> dict[str, str]:
    """Make MLflow's aliases stand for what the pointers of a place stand for; a model that it lacks is sent.

    Args:
        place: That keeps the runs.

    Returns:
        Alias -> version.

    Raises:
        TrackingError: MLflow is not installed, does not answer, or refuses.
    """
    try:
        return _tell_models(place, open_client())
    except (JadeError, TaskError):
        raise
    except Exception as error:  # as tell_run
        raise TrackingError(f"MLflow's registry was not told of the models: {short(error)}") from error


def tell_models_in_time(place: ArtifactPlace, wanted: str | None, note: Note) -> None:
    """Tell the registry of a change if that is wanted; a server that is gone costs seconds."""
    if not tracks(wanted):
        return
    error = attempt_in_time(lambda: tell_models(place), TELL_S)
    if error is not None:
        note(f"{error}. `jade track champion` tells it later")


def _tell_models(place: ArtifactPlace, client: MlflowClient) -> dict[str, str]:
    pointers = place.store.pointers()
    wanted = {alias: pointers[alias] for alias in ALIASES if alias in pointers}
    if not wanted:
        return {}
    _make_registered(client)
    versions = {
        version.tags[RUN_TAG]: version
        for version in client.search_model_versions(f"name = '{MODEL}'")
        if version.tags.get(RUN_TAG)
    }
    told = {}
    for alias, run_id in wanted.items():
        if run_id not in versions:
            versions[run_id] = _send(place, run_id, client)
        told[alias] = str(versions[run_id].version)
        client.set_registered_model_alias(MODEL, alias, told[alias])
    for alias in set(client.get_registered_model(MODEL).aliases) & set(ALIASES) - set(wanted):
        client.delete_registered_model_alias(MODEL, alias)
    return told


def _make_registered(client: MlflowClient) -> None:
    if any(model.name == MODEL for model in client.search_registered_models(f"name = '{MODEL}'")):
        return
    try:
        client.create_registered_model(MODEL, description="Span models of Jade: bars in, expansions out.")
    except Exception:
        # Two runs may end at once.
        if not client.search_registered_models(f"name = '{MODEL}'"):
            raise


def _send(place: ArtifactPlace, run_id: str, client: MlflowClient) -> Any:
    layout = place.find_run(run_id)
    card = _card(layout)
    parent = tell_run(layout, place.address, is_running=place.is_running(run_id))
    with tempfile.TemporaryDirectory() as scratch:
        save_pyfunc(layout.root / card["model"]["folder"], Path(scratch) / ARTIFACT)
        client.log_artifacts(parent, str(Path(scratch) / ARTIFACT), ARTIFACT)
    source = f"{client.get_run(parent).info.artifact_uri}/{ARTIFACT}"
    tags = {RUN_TAG: run_id, "jade.arm": card["model"]["arm"], "jade.data": card["data"][0]["sha256"]}
    return client.create_model_version(MODEL, source, parent, tags=tags, description=card["decision"]["reason"])


def save_pyfunc(folder: Path, target: Path) -> None:
    """Write a trained model as MLflow keeps models: weights, decoding, our package, and the text that loads them.

    Args:
        folder: The training's, in its run.
        target: New folder.
    """
    from mlflow import pyfunc

    from jade_model.scoring.trained import DECODING_NAME, load_decoding

    with tempfile.TemporaryDirectory() as scratch:
        loader, model = Path(scratch) / "jade_span_model.py", Path(scratch) / "trained"
        loader.write_text(_LOADER, encoding="utf-8")
        decoding = load_decoding(folder)
        if decoding is None:
            raise RunNotFound(f"{folder} has no {DECODING_NAME}; the run is not whole")
        for name in (DECODING_NAME, *decoding.members):
            (model / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, model / name)
        pyfunc.save_model(
            path=str(target),
            python_model=str(loader),
            artifacts={"model": str(model)},
            code_paths=[str(Path(jade_model.__file__).parent)],
            pip_requirements=[f"{name}=={metadata.version(name).partition('+')[0]}" for name in PACKAGES],
        )


def _card(layout: RunLayout) -> Mapping[str, Any]:
    try:
        card: Mapping[str, Any] = json.loads(layout.card_json.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunNotFound(f"{layout.run_id} has no readable card: {error}") from error
    return card
