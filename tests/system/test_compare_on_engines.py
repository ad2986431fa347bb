"""`jade compare` with its trainings on a Dask cluster, or shared out over SSH hosts: the figures of a plain one."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tasks.core.layout import RunLayout
from tests.fakes.sshd import SSHD, running_sshd
from tests.helpers.command_line import CommandLine, figures

pytestmark = [pytest.mark.slow_system, pytest.mark.skipif(SSHD is None, reason="no sshd here")]


HOST = """
[hosts.{name}]
host = "127.0.0.1"
port = {sshd.port}
user = "{sshd.user}"
key = "{sshd.user_key}"
fingerprint = "{sshd.fingerprint}"
folder = "{folder}"
python = "{python}"
"""


@pytest.mark.parametrize(
    "engine",
    ["dask", "hosts"],
)
def test_a_comparison_on_another_engine_gives_the_same_figures(
    engine: str, database: Path, small_run: RunLayout, small_file: Path, tmp_path: Path
) -> None:
    flags = ["--data", str(small_file), "--artifacts", str(tmp_path / "artifacts"), "--recipe", "seed", "--epochs", "2"]
    flags += ["--folds", "2", "--arms", "soft_span,crf", "--json"]
    with ExitStack() as servers:
        settings = ""
        for name in ("a", "b") if engine == "hosts" else ():
            sshd = servers.enter_context(running_sshd(tmp_path / name))
            settings += HOST.format(name=name, sshd=sshd, folder=tmp_path / name / "jade", python=sys.executable)
        jade = CommandLine(tmp_path, database, settings)
        where = (
            ["--host", "a", "--host", "b", "--workers", "1"]
            if engine == "hosts"
            else ["--host", "dask", "--workers", "2"]
        )
        done = json.loads(jade("compare", *flags, *where).stdout)
    assert not list((tmp_path / "state" / "runs").glob("*.json"))
    found = json.loads((Path(done["folder"]) / "comparison.json").read_text())
    assert figures(found) == figures(json.loads(small_run.comparison_json.read_text()))
