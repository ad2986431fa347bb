"""What every flow that trains can be told, whichever way it is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from pydantic import BaseModel

from flows.commands.sweep import sweep_parameters
from flows.compare import compare
from flows.parameters import CompareParameters, RetrainParameters, SweepParameters
from flows.training_flow import taking
from tasks.core.errors import BadRequest
from tasks.execution.placement import Placement

TRAINING_FLOWS: dict[str, type[BaseModel]] = {
    "flows/compare.py:compare": CompareParameters,
    "flows/retrain.py:retrain": RetrainParameters,
    "flows/sweep.py:sweep": SweepParameters,
}


@pytest.fixture
def sweep_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JADE_CONFIG_DIR", str(tmp_path / "config"))
    (tmp_path / "jade.toml").write_text('[hosts.gpu1]\nhost = "10.0.0.1"\n[hosts.gpu2]\nhost = "10.0.0.2"\n')
    path = tmp_path / "sweep.toml"
    path.write_text('[[arms]]\nrecipe = "jade_crf"\n[[arms]]\nrecipe = "seed_crf"\n')
    return path


def test_every_deployment_that_trains_names_its_data_and_takes_a_host_and_a_place_for_artifacts() -> None:
    deployments = yaml.safe_load((Path(__file__).parents[3] / "prefect.yaml").read_text())["deployments"]
    training = [item for item in deployments if item["entrypoint"] in TRAINING_FLOWS]
    assert len(training) == 5
    for item in training:
        assert item["parameters"]["data"] == ["sample"]
        given = {**item["parameters"], "placement": {"host": ["gpu1"]}, "artifacts": "s3://bucket/runs"}
        parameters = TRAINING_FLOWS[item["entrypoint"]].model_validate(given).model_dump(mode="json")
        assert (parameters["placement"]["host"], parameters["artifacts"]) == (["gpu1"], "s3://bucket/runs")


def test_what_a_placement_rents_stands_beside_it() -> None:
    given = {"data": ["sample"], "placement": {"host": ["runpod"], "workers": 2}, "rental": {"max_price": 0.5}}
    placement = CompareParameters.model_validate(given).trains_on
    assert isinstance(placement, Placement)
    assert (placement.provider, placement.machines, placement.workers) == ("runpod", 1, 2)
    assert placement.rental.max_price == 0.5


def test_a_flow_takes_a_models_fields_one_by_one_and_refuses_what_the_model_refuses() -> None:
    heard: list[CompareParameters] = []

    @taking(CompareParameters)
    def listening(parameters: CompareParameters) -> str:
        """Listen."""
        heard.append(parameters)
        return "heard"

    assert listening(data=["a.parquet"], split="seed", folds=3, epochs=None) == "heard"
    assert heard == [CompareParameters(data=["a.parquet"], split="seed")]
    assert heard[0].num_folds == 1
    for wrong in ({}, {"data": []}, {"data": ["a"], "host": "gpu1"}, {"data": ["a"], "scoring": {"margin": 2}}):
        with pytest.raises(ValueError, match="validation error"):
            listening(**wrong)
    schema = compare.parameters.model_dump()
    assert (schema["required"], "epochs" in schema["properties"]) == (["data"], True)


def test_a_form_offers_the_known_recipes_and_takes_a_file() -> None:
    known, file = compare.parameters.model_dump()["properties"]["recipe"]["anyOf"]
    assert known["enum"] == ["jade", "seed"]
    for recipe in (*known["enum"], *file["examples"]):
        assert CompareParameters(data=["sample"], recipe=recipe).recipe == recipe
        compare.validate_parameters({"data": ["sample"], "recipe": recipe})
    with pytest.raises(ValueError, match=r"a file NAME\.toml"):
        CompareParameters(data=["sample"], recipe="best")


def test_a_sweeps_host_is_the_settings_unless_the_file_or_a_flag_says_where(
    sweep_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JADE_HOST", "gpu1")
    assert sweep_parameters(sweep_file, {}).placement.host == ("gpu1",)
    assert sweep_parameters(sweep_file, {"host": ("local",)}).placement.host == ("local",)
    sweep_file.write_text(f'host = ["gpu1", "gpu2"]\nworkers = 2\n{sweep_file.read_text()}')
    found = sweep_parameters(sweep_file, {"workers": "3"})
    assert (found.placement.host, found.placement.workers) == (("gpu1", "gpu2"), 3)
    assert found.data == ["sample"]


@pytest.mark.parametrize(
    ("line", "flags", "said"),
    [
        ('engine = "dask"', {}, "engine is no more: host says where trainings run"),
        ("rent = 8", {}, "rent is no more: host takes the number: host runpod:8"),
        ("margins = 0.1", {}, "unknown key margins; known: .*margin,"),
        ("margin = 1.5", {}, r"sweep.toml: scoring.margin: .*less than 1 \(given: 1.5\)"),
        ("margin = 0.1", {"margin": "2"}, r"^--margin: .*less than 1 \(given: '2'\)"),
        ('host = ["local", "gpu1"]', {}, "sweep.toml: placement.host: local is given alone"),
        ("data = []", {}, "data: .*at least 1 item"),
    ],
)
def test_what_is_wrong_in_a_sweeps_file_or_flags_is_named(
    sweep_file: Path, line: str, flags: dict[str, Any], said: str
) -> None:
    sweep_file.write_text(f"{line}\n{sweep_file.read_text()}")
    with pytest.raises((click.UsageError, BadRequest), match=said):
        sweep_parameters(sweep_file, flags)
