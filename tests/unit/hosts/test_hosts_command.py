"""`jade hosts` against an SSH server in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli import run
from tasks.hosts.keys import load_private_key
from tests.fakes.ssh_server import FakeSshServer, running_fake_server, write_private_key


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JADE_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("JADE_STATE_DIR", str(tmp_path / "state"))
    for name in ("JADE_HOST", "SSH_AUTH_SOCK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    write_private_key(tmp_path / "id_ed25519")
    return tmp_path / "id_ed25519"


@pytest.fixture
def server(tmp_path: Path, key: Path) -> Iterator[FakeSshServer]:
    with running_fake_server(tmp_path / "host", [load_private_key(key)]) as running:
        yield running


def add(server: FakeSshServer, key: Path, *flags: str) -> int:
    where = ["--host", "127.0.0.1", "--port", str(server.port), "--user", "tester", "--key", str(key)]
    return run(["hosts", "add", "ci", *where, "--python", sys.executable, *flags])


def test_a_host_is_added_listed_checked_and_removed(
    server: FakeSshServer, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(server, key, "--fingerprint", server.fingerprint) == 0
    written = (tmp_path / "config" / "jade.toml").read_text()
    assert server.fingerprint in written
    assert "PRIVATE" not in written
    capsys.readouterr()
    assert run(["hosts", "list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["port"], listed["is_default"]) == ("ci", server.port, False)
    assert run(["hosts", "check", "ci", "--json"]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert checked["is_ready"] is True
    found = {row["subject"]: row for row in checked["findings"]}
    assert found["host key"]["found"] == server.fingerprint
    assert found["torch"]["verdict"] == "ok"
    assert run(["hosts", "remove", "ci"]) == 0
    capsys.readouterr()
    assert run(["hosts", "check", "ci"]) == 2
    assert "no host is called 'ci'; none is known" in capsys.readouterr().err


def test_a_server_with_another_key_is_a_problem_that_shows_both(
    server: FakeSshServer, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pin = "SHA256:" + "A" * 43
    assert add(server, key, "--fingerprint", pin) == 0
    assert run(["hosts", "check", "ci", "--json"]) == 1
    shown = capsys.readouterr().out
    assert pin in shown
    assert server.fingerprint in shown


def test_nobody_vouching_for_a_server_is_a_problem_until_first_use_is_asked_for(
    server: FakeSshServer, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(server, key) == 0
    assert run(["hosts", "check", "ci"]) == 1
    assert "is unknown" in " ".join(capsys.readouterr().out.split())
    assert add(server, key, "--trust-first-use", "--replace") == 0
    assert run(["hosts", "check", "ci"]) == 0
    assert server.known_hosts_line.split()[-1] in (tmp_path / "state" / "known_hosts").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "local", "--host", "h"], "'local' is this machine"),
        (["add", "a b", "--host", "h"], "a host's name has letters"),
        (["add", "a", "--host", "h", "--fingerprint", "x"], "a pin is SHA256:"),
        (["add", "a", "--host", "h", "--jump", "gate"], "no host is called 'gate'"),
        (["add", "a"], "--host"),
        (["remove", "a"], "no host is called 'a'"),
        (["add", "a", "--host", "ssh root@h -p 22"], "an address is HOST, USER@HOST, HOST:PORT"),
        (["add", "a", "--host", "root@h", "--user", "me"], "--host names user root, --user says me"),
        (["add", "a", "--host", "h:0"], "port"),
        (["add", "a", "--host", "h", "--key", "nowhere"], "there is no file nowhere; --key names the private key"),
        (
            ["add", "a", "--host", "h", "--key", "id.pub"],
            "id.pub is a public key; --key names the private key's file: id",
        ),
        (["add", "a", "--host", "h", "--folder", "~"], "folder: must be a path such as /data/jade, or ~/.jade"),
        (["add", "a", "--host", "h", "--folder", "$HOME/x"], "folder: must be a path"),
        (["add", "a", "--host", "h", "--python", "conda run -n x python"], "such as /opt/conda/envs/NAME/bin/python"),
        (["add", "a", "--host", "h", "--python", "~/venv/bin/python"], "python: must be one program"),
        (["add", "a", "--host", "h", "--python", "/usr/bin/python -u"], "python: must be one program without flags"),
    ],
)
def test_bad_input_exits_with_2_and_writes_nothing(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("id.pub").write_text("ssh-ed25519 AAAA me\n")
    assert run(["hosts", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "config").exists()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1.2.3.4", "root@1.2.3.4:22"),
        ("me@1.2.3.4", "me@1.2.3.4:22"),
        ("1.2.3.4:36470", "root@1.2.3.4:36470"),
        ("ssh://me@gpu.example:2222/", "me@gpu.example:2222"),
        ("[2001:db8::1]:2222", "root@2001:db8::1:2222"),
        ("2001:db8::1", "root@2001:db8::1:22"),
    ],
)
def test_an_address_is_taken_as_people_write_it(written: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["hosts", "add", "a", "--host", written]) == 0
    assert f"a is {meant}, in" in capsys.readouterr().out


def test_a_name_of_ssh_config_is_shown_as_what_it_stands_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Host gpu\n  HostName 192.0.2.1\n  Port 2222\n  User me\n")
    assert run(["hosts", "add", "a", "--host", "gpu"]) == 0
    assert "a is me@192.0.2.1:2222, in" in capsys.readouterr().out
    assert 'host = "gpu"' in (tmp_path / "config" / "jade.toml").read_text()
    (tmp_path / ".ssh" / "config").write_text("Host gpu\n  ProxyCommand nc %h %p\n")
    assert run(["hosts", "add", "b", "--host", "gpu"]) == 2
    assert "ProxyCommand, which is not supported" in capsys.readouterr().err
    assert "hosts.b" not in (tmp_path / "config" / "jade.toml").read_text()
