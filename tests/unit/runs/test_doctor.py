"""`jade doctor`: what is well, what is not, and what to do; no part holds it up."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.ports import free_port

from flows.cli import run


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"STATE_DIR": "state", "CONFIG_DIR": "config", "CACHE_DIR": "cache"}.items():
        monkeypatch.setenv(f"JADE_{name}", str(tmp_path / value))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    for name in ("PREFECT_API_URL", "RUNPOD_API_KEY", "AWS_ACCESS_KEY_ID", "JADE_HOST", "JADE_ARTIFACTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that takes connections and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def examined(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, dict[str, dict[str, Any]]]:
    code = run(["doctor", "--json", *flags])
    told = json.loads(capsys.readouterr().out)
    assert told["is_well"] == (code == 0)
    return code, {finding["subject"]: finding for finding in told["findings"]}


def test_a_bare_machine_is_well_and_nothing_is_left_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = examined(capsys)
    assert code == 0
    assert {"Python", "torch", "disk of the runs", "state folder", "store", "Prefect server", "clock"} <= set(found)
    assert "none set" in found["Prefect server"]["found"]
    assert not list(tmp_path.iterdir())


def test_every_problem_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], silent_port: int
) -> None:
    (tmp_path / "artifacts").write_text("no folder")
    (tmp_path / "jade.toml").write_text(
        f'[hosts.gone]\nhost = "127.0.0.1"\nport = {free_port()}\n'
        f'[hosts.silent]\nhost = "127.0.0.1"\nport = {silent_port}\n'
        "[runpod]\n"
    )
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_port()}/api")
    code, found = examined(capsys, "--timeout-s", "20")
    assert code == 1
    problems = {name for name, row in found.items() if row["verdict"] == "problem"}
    assert {"disk of the runs", "store", "Prefect server", "clock", "host gone", "host silent"} <= problems
    assert "jade up" in found["Prefect server"]["advice"]
    assert "jade hosts check gone" in found["host gone"]["advice"]
    assert "RUNPOD_API_KEY" in found["provider runpod"]["advice"]


def test_a_part_that_does_not_answer_is_a_problem_and_no_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], silent_port: int
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{silent_port}/api")
    code, found = examined(capsys, "--timeout-s", "3")
    assert code == 1
    assert found["Prefect server"]["found"] == "no answer within 3 s"
    assert found["Prefect server"]["advice"]
