"""`jade compare` on machines rented from EC2: moto behind, each instance a real SSH server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.command_line import CommandLine, figures

from tasks.layout import RunLayout
from tests.fakes.ec2_world import CREDENTIALS, SECRET_KEY, Ec2World, ec2_world
from tests.fakes.sshd import SSHD

pytestmark = [
    pytest.mark.slow_system,
    pytest.mark.xdist_group("ec2"),
    pytest.mark.skipif(SSHD is None, reason="no sshd here"),
]


@pytest.fixture
def ec2(tmp_path: Path) -> Iterator[Ec2World]:
    with ec2_world(tmp_path / "machines") as world:
        yield world
        assert world.others_untouched()


@pytest.fixture
def jade(tmp_path: Path, ec2: Ec2World, database: Path) -> CommandLine:
    settings = f"""
[ec2]
region = "us-east-1"
endpoint_url = "{ec2.server.url}"
instance_types = ["g4dn.xlarge", "g5.xlarge"]
user = "{ec2.provisioner._settings.user}"
ssh_port = {ec2.server.ssh_port}
admit = "127.0.0.1"
python = "{sys.executable}"
device = "cpu"
look_s = 0.2
"""
    return CommandLine(tmp_path, database, settings, **CREDENTIALS)


def test_a_comparison_on_a_rented_machine_gives_the_figures_of_a_local_one_and_leaves_nothing(
    jade: CommandLine, ec2: Ec2World, small_run: RunLayout, small_file: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "artifacts"
    flags = ["--data", str(small_file), "--artifacts", str(kept), "--recipe", "seed", "--epochs", "2", "--folds", "2"]
    flags += ["--arms", "soft_span,crf", "--workers", "1", "--json"]
    # Its own shutdown ends its cost, so that no reaper need have been seen.
    done = jade("compare", *flags, "--host", "ec2", "--gpu", "NVIDIA T4", "--max-hours", "1")
    (folder,) = (path.parent for path in kept.glob("*/comparison.json"))
    assert figures(json.loads((folder / "comparison.json").read_text())) == figures(
        json.loads(small_run.comparison_json.read_text())
    )
    assert (ec2.costing(), ec2.groups(), ec2.key_pairs()) == (0, [], [])
    (machine,) = json.loads((folder / "run.json").read_text())["rental"]["machines"]
    assert machine["state"] == "released"
    assert "is freed" in done.stderr
    assert SECRET_KEY not in done.stderr + done.stdout
    for path in folder.rglob("*"):
        assert path.is_dir() or SECRET_KEY.encode() not in path.read_bytes()
