"""MLflow is told beside a run: where it is gone, slow or missing, the run does not notice."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path

import pytest

from tasks.artifacts.repository import open_place
from tasks.core.errors import BadRequest, SettingsError
from tasks.runs import live_tracking, tracking
from tasks.runs.live_tracking import Tracking
from tasks.runs.record import recorded_run
from tasks.runs.tracking import tracks
from tasks.settings.load import load_settings


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JADE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("JADE_CONFIG_DIR", str(tmp_path / "config"))


def test_who_is_told_is_what_the_parameters_say_else_the_environment_else_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not tracks(None)
    Path("jade.toml").write_text('track = "mlflow"\n')
    assert tracks(None)
    assert not tracks("none")
    monkeypatch.setenv("JADE_TRACK", "none")
    assert not tracks(None)
    assert tracks("mlflow")


def test_a_tracker_that_nobody_knows_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JADE_TRACK", "wandb")
    with pytest.raises(SettingsError, match="JADE_TRACK is 'wandb'; it must be none or mlflow"):
        load_settings()


def test_without_mlflow_a_run_that_wants_it_is_refused_before_it_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(BadRequest, match=r"jade-expansions\[mlflow\]"),
        recorded_run(tmp_path / "runs", "train", {"track": "mlflow"}),
    ):
        pass
    assert not list((tmp_path / "runs").glob("*-train-*"))


@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_a_server_that_is_gone_ends_no_run_and_is_told_of_once(
    how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def open_client() -> None:
        if how == "hangs":
            threading.Event().wait(60)
        raise ConnectionError("http://user:secret@mlflow: connection refused\nand more")

    monkeypatch.setattr(live_tracking, "open_client", open_client)
    monkeypatch.setattr(tracking, "open_client", open_client)
    monkeypatch.setattr(live_tracking, "CLOSE_S", 0.1)
    monkeypatch.setattr(live_tracking, "TELL_S", 0.1 if how == "hangs" else 30)
    with recorded_run(open_place(tmp_path / "runs"), "train", {"track": "mlflow"}) as run:
        assert isinstance(run.tracking, Tracking)
    assert run.record["state"] == "completed"
    told = capsys.readouterr().err
    assert told.count(f"`jade track {run.layout.run_id}` tells it later") == 1
    assert "secret" not in told
