"""What MLflow knows of runs, asked of MLflow's own database."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from helpers.command_line import CommandLine
from helpers.ports import free_port
from helpers.processes import wait_until
from helpers.retrainings import retrained
from helpers.servers import stop_group

import jade_model
from jade_model.core.files import sha256_file
from jade_model.core.training_files import files_of
from jade_model.core.windows import Windows
from jade_model.scoring.trained import open_model
from tasks.artifacts.repository import open_place
from tasks.core.layout import RunLayout
from tasks.experiments.champion import promote
from tasks.experiments.plan import Plan, write_job
from tasks.experiments.promote import settle
from tasks.runs.record import recorded_run
from tasks.runs.tracked_models import tell_models
from tasks.runs.tracking import open_client, tell_run

pytestmark = pytest.mark.xdist_group("mlflow")

FINISHED = next((Path(__file__).parents[1] / "data" / "runs").iterdir())
PLAN = Plan({"soft_span": "seed_soft_span"}, 2, seeds=1, folds=2, split="grouped", ensemble=1)


@pytest.fixture(scope="module")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(autouse=True)
def tracked(mlflow_database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_database)
    monkeypatch.setenv("JADE_STATE_DIR", str(tmp_path / "state"))


def runs_of(run_id: str, kind: str) -> list[Any]:
    client = open_client()
    experiment = client.get_experiment_by_name("jade")
    if experiment is None:
        return []
    wanted = f"tags.`jade.run` = '{run_id}' and tags.`jade.kind` = '{kind}'"
    return list(client.search_runs([experiment.experiment_id], wanted))


def steps(run: Any) -> list[int]:
    return sorted(metric.step for metric in open_client().get_metric_history(run.info.run_id, "loss/train"))


@pytest.mark.system
def test_a_finished_run_is_told_with_its_verdict_and_one_child_a_training_and_again_without_harm(
    tmp_path: Path,
) -> None:
    layout = RunLayout(tmp_path / "runs" / FINISHED.name)
    shutil.copytree(FINISHED, layout.root)
    layout.report.mkdir()
    (layout.report / "index.html").write_text("<p>the report</p>")
    first = tell_run(layout, str(tmp_path / "runs"))
    assert tell_run(layout, str(tmp_path / "runs")) == first
    (parent,) = runs_of(layout.run_id, "run")
    comparison = json.loads(layout.comparison_json.read_text())
    verdict, scores = comparison["verdict"], comparison["arms"]["crf"]["summary"]["decoders"]["one_span"]
    assert parent.info.status == "FINISHED"
    moment, _, name = layout.run_id.partition("-")
    assert parent.info.run_name == f"{name} {moment}", "lists show a name's beginning alone"
    assert parent.data.tags["jade.verdict"] == verdict["outcome"]
    assert verdict["reason"] in parent.data.tags["mlflow.note.content"]
    assert parent.data.params == {"data": "['small.parquet']", "epochs": "2"}
    assert parent.data.metrics["crf/f1"] == scores["f1"]
    assert [parent.data.metrics[f"crf/f1_{end}"] for end in ("low", "high")] == scores["confidence_interval"]
    rule = comparison["baselines"]["largest_move"]
    told = [parent.data.metrics[f"baseline/largest_move/{name}"] for name in ("f1", "f1_low", "f1_high")]
    assert told == [rule["f1"], *rule["confidence_interval"]]
    told = [parent.data.metrics[f"verdict/{end}"] for end in ("low", "high")]
    assert told == verdict["confidence_interval"]
    paths = {item.path for item in open_client().list_artifacts(parent.info.run_id)}
    assert paths == {"report", "comparison.json", "run.json"}
    children = runs_of(layout.run_id, "training")
    assert sorted(child.data.tags["jade.arm"] for child in children) == ["crf", "crf", "soft_span", "soft_span"]
    for child in children:
        assert child.data.tags["mlflow.parentRunId"] == first
        assert child.data.tags["jade.data"] == comparison["data"][0]["sha256"]
        assert child.data.params["recipe.training.epochs"] == "2"
        assert steps(child) == [1, 2]
        assert child.info.status == "FAILED", "its checkpoint is not there"


@pytest.mark.system
def test_the_champion_is_a_registered_model_that_gives_spans_for_bars(
    small_windows: Windows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JADE_TRACK", "mlflow")
    place = open_place(tmp_path / "runs")
    layout, card = retrained(place.folder, small_windows, None)
    settle(place, {**card, "decision": {**card["decision"], "promote": True}}, may_promote=True)
    settle(place, {**card, "decision": {**card["decision"], "promote": False}}, may_promote=False)
    assert tell_models(place) == {"champion": "1", "challenger": "1"}
    client = open_client()
    version = client.get_model_version_by_alias("jade", "champion")
    assert version.tags["jade.run"] == layout.run_id
    (run,) = runs_of(layout.run_id, "run")
    assert run.info.run_id == version.run_id
    for score in card["judgement"]["scores"]:
        stem = "/".join(part for part in ("judgement", score["arm"], score["dataset"], score["metric"]) if part)
        told = [run.data.metrics[f"{stem}{end}"] for end in ("", "_low", "_high")]
        assert told == [score["value"], *score["confidence_interval"]]
    for item in card["judgement"]["differences"]:
        pair = f"{item['first']}-{item['second']}"
        stem = "/".join(part for part in ("difference", pair, item["dataset"], item["metric"]) if part)
        assert run.data.metrics[f"{stem}/difference"] == item["difference"]
    frame = pd.DataFrame(small_windows.bars_NT4[0], columns=["open", "high", "low", "close"])
    bars = frame.set_index(pd.date_range("2024-01-02 14:30", periods=len(frame), freq="min", tz="UTC"))
    code = (
        "import sys, mlflow, pandas as pd; model = mlflow.pyfunc.load_model('models:/jade@champion');"
        "import jade_model; print(jade_model.__file__);"
        "model.predict(pd.read_parquet('bars.parquet')).to_parquet('spans.parquet')"
    )
    bars.to_parquet("bars.parquet")
    # Where Jade is not installed: the model brings its own.
    told = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    assert str(Path(jade_model.__file__).parent) not in told
    expected = open_model(layout.root / card["model"]["folder"]).predict(bars)
    pd.testing.assert_frame_equal(pd.read_parquet("spans.parquet"), expected)
    newer = "20990101T000000Z-retrain-abcdef"
    shutil.copytree(layout.root, place.folder / newer)
    for name in ("run.json", "card.json"):
        path = place.folder / newer / name
        path.write_text(path.read_text().replace(layout.run_id, newer))
    place.publish_end(place.layout(newer), is_complete=True)
    promote(place.store, newer, instead_of=layout.run_id)
    assert tell_models(place) == {"champion": "2", "challenger": "1"}


@pytest.mark.system
def test_epochs_are_told_while_a_run_trains_and_each_one_once(small_windows: Windows, tmp_path: Path) -> None:
    place = open_place(tmp_path / "runs")
    epochs = [{"epoch": epoch, "train_loss": 3.0 - epoch, "validation_loss": None} for epoch in (1, 2)]
    with recorded_run(place, "train", {"track": "mlflow"}) as run:
        done, unfinished = write_job(run.layout, [small_windows], PLAN).trainings
        assert run.tracking is not None
        run.tracking.epoch(done, {**epochs[0], "arm": "soft_span", "epochs": 2})
        wait_until(lambda: [steps(child) for child in runs_of(run.layout.run_id, "training")] == [[1]], 200)
        (parent,) = runs_of(run.layout.run_id, "run")
        assert parent.info.status == "RUNNING"
        files = files_of(done, run.layout.root)
        files.folder.mkdir(parents=True)
        files.last.write_bytes(b"weights")
        files.history.write_text("".join(f"{json.dumps(epoch)}\n" for epoch in epochs))
        entry = {"path": files.last.name, "size": 7, "sha256": sha256_file(files.last)}
        files.manifest.write_text(json.dumps({"run_key": done.run_key, "complete": True, "files": [entry]}))
        run.tracking.trained(done)
    assert runs_of(run.layout.run_id, "run")[0].info.status == "FINISHED"
    children = {child.data.tags["jade.training"]: child for child in runs_of(run.layout.run_id, "training")}
    assert steps(children[done.run_key]) == [1, 2]
    assert children[done.run_key].info.status == "FINISHED"
    assert children[done.run_key].data.tags["jade.checkpoint"] == str(files.last)
    assert unfinished.run_key not in children, "it never began"


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[None]:
    """A real server on SQLite, as `mlflow server` starts one."""
    program = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    kept = [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    env.pop("MLFLOW_TRACKING_URI", None)
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen([*program, *kept], env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"), limit_s=400)
        yield
    finally:
        stop_group(server)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


@pytest.mark.slow_system
def test_what_a_dead_server_was_not_told_is_told_later(
    database: Path, small_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    jade = CommandLine(tmp_path, database, MLFLOW_TRACKING_URI=address)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    place = ["--artifacts", str(tmp_path / "runs")]
    train = ["train", "--data-path", str(small_file), "--epochs", "2", "--track", "mlflow", "--json", *place]
    with mlflow_server(tmp_path, port):
        told = json.loads(jade(*train, "--loss", "soft_span").stdout)["run_id"]
        assert [run.info.status for run in runs_of(told, "run")] == ["FINISHED"]
        assert [steps(child) for child in runs_of(told, "training")] == [[1, 2]]
    done = jade(*train, "--loss", "crf")
    missed = json.loads(done.stdout)["run_id"]
    assert done.stderr.count(f"`jade track {missed}` tells it later") == 1
    assert "`jade track" not in jade("track", missed, *place, expect=1).stderr
    with mlflow_server(tmp_path, port):
        assert not runs_of(missed, "run")
        jade("track", missed, *place)
        assert [run.info.status for run in runs_of(missed, "run")] == ["FINISHED"]
        assert [steps(child) for child in runs_of(missed, "training")] == [[1, 2]]
