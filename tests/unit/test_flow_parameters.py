"""What every flow that trains can be told, whichever way it is started."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from flows.commands.sweep import sweep_parameters
from flows.parameters.compare import CompareParameters
from flows.parameters.retrain import RetrainParameters
from flows.parameters.sweep import SweepParameters
from tasks.execution.placement import Placement

TRAINING_FLOWS: dict[str, type[BaseModel]] = {
    "flows/compare.py:compare": CompareParameters,
    "flows/retrain.py:retrain": RetrainParameters,
    "flows/sweep.py:sweep": SweepParameters,
}
ARM = {"arms": [{"recipe": "jade_crf"}, {"recipe": "seed_crf"}]}


@pytest.fixture
def sweep_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JADE_CONFIG_DIR", str(tmp_path / "config"))
    (tmp_path / "jade.toml").write_text('[hosts.gpu1]\nhost = "10.0.0.1"\n')
    path = tmp_path / "sweep.toml"
    path.write_text('[[arms]]\nrecipe = "jade_crf"\n[[arms]]\nrecipe = "seed_crf"\n')
    return path


def test_every_deployment_that_trains_takes_a_host_and_a_place_for_artifacts() -> None:
    deployments = yaml.safe_load((Path(__file__).parents[2] / "prefect.yaml").read_text())["deployments"]
    training = [item for item in deployments if item["entrypoint"] in TRAINING_FLOWS]
    assert len(training) == 5
    for item in training:
        given = {**item["parameters"]["parameters"], "host": "gpu1", "artifacts": "s3://bucket/runs"}
        parameters = TRAINING_FLOWS[item["entrypoint"]].model_validate(given).model_dump()
        assert (parameters["host"], parameters["artifacts"]) == ("gpu1", "s3://bucket/runs")


def test_one_host_of_a_sweep_is_a_placement_of_that_host_alone() -> None:
    alone = SweepParameters.model_validate({**ARM, "host": "gpu1", "device": "cuda"})
    assert alone.placement == Placement(host=("gpu1",), device="cuda")
    rented = SweepParameters.model_validate({**ARM, "host": "runpod", "max_price": 0.5}).placement
    assert (rented.provider, rented.machines, rented.rental.max_price) == ("runpod", 1, 0.5)
    assert SweepParameters.model_validate(ARM).placement.is_local


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"host": "gpu1", "hosts": ["gpu2"], "engine": "hosts"}, "one host alone"),
        ({"host": "gpu1", "engine": "dask"}, "one host alone"),
        ({"host": "runpod", "engine": "hosts", "rent": 2, "provider": "runpod"}, "one host alone"),
    ],
)
def test_a_host_beside_an_engine_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SweepParameters.model_validate({**ARM, **wrong})


def test_a_sweeps_host_is_the_settings_unless_the_file_or_a_flag_says_where(
    sweep_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JADE_HOST", "gpu1")
    assert sweep_parameters(sweep_file, {}).host == "gpu1"
    assert sweep_parameters(sweep_file, {"host": "local"}).host == "local"
    assert sweep_parameters(sweep_file, {"engine": "processes"}).host == "local"
