"""Jade without its checkout: a wheel installed elsewhere, in an empty folder."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from helpers.homes import clean_environment
from helpers.servers import ROOT, PrefectServer

pytestmark = pytest.mark.system


@pytest.fixture
def jade(tmp_path: Path) -> Path:
    """Build the wheel and install it; all that it depends on comes from where the tests run."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # Found after what is installed there; files of its own such as the checkout's .pth are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    python = str(tmp_path / "venv" / "bin" / "python")
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--ignore-installed",
    ]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    return tmp_path / "venv" / "bin" / "jade"


def test_an_installed_wheel_compares_in_an_empty_folder(
    jade: Path, prefect_server: PrefectServer, small_file: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    env = clean_environment(
        tmp_path / "home", PREFECT_API_URL=prefect_server.url, JADE_STATE_DIR=str(tmp_path / "state")
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(jade), *arguments], cwd=empty, env=env, capture_output=True, text=True, timeout=500, check=False
        )

    flags = ["--data", str(small_file), "--arms", "soft_span,crf", "--folds", "2", "--epochs", "1", "--json"]
    done = run("compare", *flags)
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout)
    assert Path(told["report"]).is_file()
    assert Path(told["folder"]).is_relative_to(empty)
    code = json.loads((Path(told["folder"]) / "run.json").read_text())["code"]
    assert code["commit"] is None, "it is not the checkout that ran"
    refused = run("up")
    assert refused.returncode == 1
    assert "from a checkout" in refused.stderr
