"""`prefect deployment run compare/nightly` on rented machines: RunPod's fake and moto, with real SSH servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.command_line import figures
from helpers.processes import command_lines_seen, wait_until
from helpers.servers import PrefectServer

from tasks.core.layout import RunLayout
from tests.fakes.sshd import SSHD
from tests.helpers.rented_site import Site, lent_by, rented_site
from tests.helpers.waiting_trainer import waiting_python

pytestmark = pytest.mark.skipif(SSHD is None, reason="no sshd here")

AN_HOUR_S = 3600


@pytest.fixture
def site(request: pytest.FixtureRequest, deployed: PrefectServer, small_file: Path, tmp_path: Path) -> Iterator[Site]:
    with (
        lent_by(request.param, tmp_path / "machines") as provider,
        rented_site(deployed, provider, small_file, tmp_path) as found,
    ):
        yield found


@pytest.mark.parametrize(
    "site",
    [pytest.param("runpod", marks=pytest.mark.system), pytest.param("ec2", marks=pytest.mark.slow_system)],
    indirect=True,
)
def test_a_night_on_a_rented_machine_gives_the_figures_of_a_local_one_leaves_nothing_and_shows_no_secret(
    site: Site, small_run: RunLayout
) -> None:
    with command_lines_seen() as lines:
        run = site.start()
        # Keys are there before a machine is asked for, and go with it.
        wait_until(lambda: site.provider.costing() > 0, 200, lambda: site.deployments.told(run))
        secrets = site.secrets()
        assert len(secrets) >= 3
        site.deployments.completed(run)
    (found,) = site.folder.glob("artifacts/*/comparison.json")
    assert figures(json.loads(found.read_text())) == figures(json.loads(small_run.comparison_json.read_text()))
    assert site.provider.costing() == 0
    record = json.loads((found.parent / "run.json").read_text())
    (machine,) = record["rental"]["machines"]
    assert machine["state"] == "terminated"
    assert 0 < record["rental"]["cost_usd"] < machine["price_usd_per_hour"]
    artifacts = site.deployments.ask("POST", "artifacts/filter", {"flow_runs": {"id": {"any_": [run]}}})
    shown = {item["key"]: str(item["data"]) for item in artifacts}
    assert "rental" in shown
    assert f"| cost so far | {record['rental']['cost_usd']:.2f} USD |" in shown["run"]
    assert "1 so far, 0 replaced" in shown["run"]
    assert site.jade("rented")["machines"] == []
    # What was written by whomever, Prefect's database and logs included; keys to log in are gone with the machine.
    places = [site.folder, Path(site.env["PREFECT_HOME"])]
    files = [path for place in places for path in place.rglob("*") if path.is_file() and "machines" not in path.parts]
    assert any(path.name.startswith("prefect.db") for path in files)
    for secret in secrets:
        assert not [path for path in files if secret.encode() in path.read_bytes()]
        assert not [line for line in lines if secret in line]
    assert any("jade_model" in line for line in lines), "the machine's own processes were not looked at"


@pytest.mark.slow_system  # in CI, test_rental_kills.py kills at every step that a rental takes
@pytest.mark.parametrize("site", ["runpod"], indirect=True)
def test_a_flow_that_is_killed_is_cleaned_up_by_its_worker_and_one_killed_with_it_by_the_reaper(site: Site) -> None:
    site.train_with(waiting_python(site.folder / "waiting-python", unit_s=24.0))
    first = site.start(fresh=True)
    site.wait_for_epochs(first)
    site.kill_flow(first)
    wait_until(lambda: site.provider.costing() == 0, 100, lambda: site.deployments.told(first))
    assert site.deployments.wait(first)["state_type"] == "CRASHED"
    for log in site.folder.glob("artifacts/*/remote.log"):
        log.unlink()
    second = site.start(fresh=True)
    site.wait_for_epochs(second)
    site.kill_worker()
    site.kill_flow(second)
    # For a quarter of an hour the same command may still attach to it.
    assert [item["deed"] for item in site.jade("reap")] == ["left"]
    assert site.provider.costing() == 1
    site.let_time_pass(AN_HOUR_S / 3)
    assert [item["deed"] for item in site.jade("reap", "--dry-run")] == ["freed"]
    assert site.provider.costing() == 1
    (freed,) = site.jade("reap")
    assert freed["deed"] == "freed"
    assert freed["why"].startswith("nobody has controlled it for 2")
    assert site.provider.costing() == 0
    assert site.jade("rented")["machines"] == []
