"""`prefect deployment run compare/nightly` on a real server and worker."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers.deployments import Deployments
from helpers.servers import ROOT, PrefectServer

from tasks.core.layout import RunLayout
from tasks.experiments.report import write_run_report

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def nightly(deployed: PrefectServer, small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Run the deployment on small data; return the flow run's id and the artifacts folder."""
    artifacts = tmp_path_factory.mktemp("nightly")
    parameters = {"data": [str(small_file)], "epochs": 2, "seeds": 1, "folds": 2, "artifacts": str(artifacts)}
    given = json.dumps(parameters)
    return started(deployed, "compare/nightly", "--watch", "--params", given), artifacts


def started(server: PrefectServer, deployment: str, *how: str) -> str:
    """Start a deployment as a person does; return the flow run's id."""
    (run,) = re.findall(r"UUID: (\S+)", server.prefect("deployment", "run", deployment, *how, timeout_s=400))
    return str(run)


def test_it_completes_and_leaves_a_report(nightly: tuple[str, Path]) -> None:
    (run,) = [path for path in nightly[1].iterdir() if not path.name.startswith(".")]
    assert json.loads((run / "run.json").read_text())["state"] == "completed"
    assert (run / "report" / "index.html").is_file()
    assert set(json.loads((run / "comparison.json").read_text())["arms"]) == {"soft_span", "crf", "single_span"}


def test_the_ui_shows_tasks_that_a_person_recognises(deployed: PrefectServer, nightly: tuple[str, Path]) -> None:
    found = deployed.read("task_runs", flow_runs={"id": {"any_": [nightly[0]]}})
    assert {str(task["name"]) for task in found} == {
        "prepare-data",
        "train-soft-span-seed0",
        "train-crf-seed0",
        "train-single-span-seed0",
        "optimise-thresholds-and-compare",
        "compare-with-earlier-nights",
        "write-report",
        "publish-report",
    }
    assert {task["state_type"] for task in found} == {"COMPLETED"}


def test_report_table_link_and_progress_are_artifacts(deployed: PrefectServer, nightly: tuple[str, Path]) -> None:
    found = {str(item["key"]): item for item in deployed.read("artifacts", flow_runs={"id": {"any_": [nightly[0]]}})}
    assert {"comparison-report", "comparison", "html-report", "train-crf-seed0"} <= set(found)
    assert found["comparison-report"]["type"] == "markdown"
    assert "Verdict" in str(found["comparison-report"]["data"])
    assert found["train-crf-seed0"]["data"] == 100.0
    page = str(found["run"]["data"])
    trainings = re.search(r"\| trainings \| (\d+) done, 0 under way, 0 left, of (\d+) \|", page)
    assert trainings is not None, page
    assert trainings[1] == trainings[2]
    assert "| crf |" in page
    assert "cost so far" not in page


def test_the_deployment_is_scheduled_and_limited_to_one_at_a_time(deployed: PrefectServer) -> None:
    (deployment,) = [item for item in deployed.read("deployments") if item["name"] == "nightly"]
    assert deployment["schedules"][0]["schedule"]["cron"] == "0 2 * * *"  # type: ignore[index]
    (pull,) = deployment["pull_steps"]  # type: ignore[misc]
    assert pull["prefect.deployments.steps.set_working_directory"]["directory"] == str(ROOT)
    assert deployment["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"  # type: ignore[index]


def test_the_form_shows_data_as_required_and_scoring_placement_and_rental_as_groups(deployed: PrefectServer) -> None:
    schemas: dict[str, Any] = {
        str(item["entrypoint"]).rpartition(":")[2]: item["parameter_openapi_schema"]
        for item in deployed.read("deployments")
    }
    for flow, groups in (
        ("compare", {"scoring", "placement", "rental"}),
        ("sweep", {"scoring", "placement", "rental"}),
        ("retrain", {"placement", "rental"}),
    ):
        schema = schemas[flow]
        assert schema["required"] == ["data"]
        refs = {name: field["$ref"] for name, field in schema["properties"].items() if "$ref" in field}
        assert refs.keys() == groups
        fields = {name: schema["definitions"][ref.rpartition("/")[2]]["properties"] for name, ref in refs.items()}
        assert fields["placement"].keys() == {"host", "device", "workers"}
        assert {"gpu", "max_price", "budget"} < fields["rental"].keys()
        assert all(field.get("description") for field in schema["properties"].values())
        assert all(field.get("description") for group in fields.values() for field in group.values())


def test_what_is_given_is_overridden_alone_and_the_deployments_data_stay(
    deployed: PrefectServer, tmp_path: Path
) -> None:
    deployments = Deployments.of(deployed)
    own = deployments.find("compare/on-demand")["parameters"]
    data = {"data": [str(tmp_path / "mine.parquet")], "rental": {"budget": 5.0}}
    deployments.change("compare/on-demand", parameters=own | data)
    later = ("--start-in", "100 days")
    try:
        given = ("-p", "epochs=2", "-p", 'placement={"host": ["gpu1"]}')
        run = started(deployed, "compare/on-demand", *later, *given)
        parameters = deployments.run(run)["parameters"]
        assert parameters == {**own, **data, "epochs": 2, "placement": {"host": ["gpu1"]}}
        deployments.ask("DELETE", f"flow_runs/{run}")
        with pytest.raises(AssertionError, match="should be non-empty"):
            deployments.start("compare/on-demand", {"data": []})
        deployments.change("compare/on-demand", parameters={"seeds": 1})
        with pytest.raises(AssertionError, match="'data' is a required property"):
            deployments.start("compare/on-demand", {"epochs": 2})
    finally:
        deployments.change("compare/on-demand", parameters=own)


def test_the_run_page_shows_in_a_browser(
    deployed: PrefectServer, nightly: tuple[str, Path], browse: Callable[[str], str]
) -> None:
    page = browse(f"{deployed.url.removesuffix('/api')}/runs/flow-run/{nightly[0]}")
    assert "compare-" in page
    assert "Completed" in page


def test_the_html_report_shows_in_a_browser(nightly: tuple[str, Path], browse: Callable[[str], str]) -> None:
    (report,) = nightly[1].glob("*/report/index.html")
    page = browse(report.as_uri())
    for words in ("Verdict", "single_span", "largest move"):
        assert words.replace("_", " ") in page.replace("_", " ")


def test_a_sweep_on_demand_ranks_its_arms_and_shows_how_far_it_was(
    deployed: PrefectServer, small_file: Path, tmp_path: Path
) -> None:
    grid = {"recipe": ["seed_soft_span"], "training.learning_rate": [0.001, 0.01]}
    parameters = {"data": [str(small_file)], "grid": grid, "epochs": 1, "seeds": 1, "folds": 2}
    given = json.dumps(parameters | {"artifacts": str(tmp_path)})
    run = started(deployed, "sweep/on-demand", "--watch", "--params", given)
    (results,) = tmp_path.glob("*/results.parquet")
    assert pq.read_table(results, columns=["state"])["state"].to_pylist() == ["done"] * 4
    assert len(json.loads((results.parent / "sweep.json").read_text())["ranking"]) == 2
    (page,) = (results.parent / "report").glob("*.md")
    before = page.read_text()
    page.unlink()
    assert write_run_report(RunLayout(results.parent)).markdown == page
    assert page.read_text() == before
    assert Deployments.of(deployed).run(run)["state_type"] == "COMPLETED"
    found = {str(item["key"]): item for item in deployed.read("artifacts", flow_runs={"id": {"any_": [run]}})}
    assert {"sweep-report", "sweep", "sweep-page"} <= set(found)
    assert found["sweep-seed-0"]["data"] == 100.0
