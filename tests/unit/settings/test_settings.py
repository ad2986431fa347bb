"""Settings: which place wins, what a file may say, and how hosts get in and out of one."""

from __future__ import annotations

import pickle
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.core.errors import BadRequest, SettingsError
from tasks.hosts.ssh import open_host
from tasks.settings.load import (
    forget_host,
    load_settings,
    save_host,
    section_of,
    state_folder,
    user_settings_file,
    with_host,
    without_host,
)
from tasks.settings.models import HostEntry

PIN = "SHA256:" + "A" * 43
GPU = HostEntry("gpu", "203.0.113.7", port=36470, key="~/.ssh/id_ed25519", fingerprint=(PIN,), device="cuda")


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("JADE_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("JADE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("JADE_HOST", raising=False)
    return tmp_path


def write_here(text: str) -> None:
    Path("jade.toml").write_text(text)


def write_user(text: str) -> None:
    user_settings_file().parent.mkdir(exist_ok=True)
    user_settings_file().write_text(text)


def test_without_any_file_everything_is_this_machine() -> None:
    assert load_settings().host == "local"
    assert load_settings().hosts == {}


def test_environment_comes_before_the_working_folder_and_that_before_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    write_user('host = "a"\n')
    assert load_settings().host == "a"
    write_here('host = "b"\n')
    assert load_settings().host == "b"
    monkeypatch.setenv("JADE_HOST", "c")
    assert load_settings().host == "c"


def test_a_host_is_taken_whole_from_the_file_that_comes_first() -> None:
    write_user(section_of(GPU) + '[hosts.other]\nhost = "h"\n')
    write_here('[hosts.gpu]\nhost = "198.51.100.1"\n')
    settings = load_settings()
    assert settings.entry("gpu") == HostEntry("gpu", "198.51.100.1")
    assert settings.sources["gpu"] == Path.cwd() / "jade.toml"
    assert settings.entry("other").host == "h"


def test_folders_follow_the_systems_conventions(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JADE_CONFIG_DIR")
    monkeypatch.delenv("JADE_STATE_DIR")
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert user_settings_file() == Path("/home/ada/.config/jade/jade.toml")
    assert state_folder() == Path("/var/state/jade")


def test_an_unknown_host_is_answered_with_the_closest_name() -> None:
    write_here(section_of(GPU))
    with pytest.raises(BadRequest, match=r"no host is called 'gpo'; known: gpu\. Did you mean 'gpu'") as caught:
        load_settings().entry("gpo")
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 -- our own bytes
    assert (str(again), again.facts["known"], again.exit_code) == (str(caught.value), ["gpu"], 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("host = ", "not a readable TOML file"),
        ("hots = 1\n", "unknown hots; known: host, hosts"),
        ("host = 1\n", "host: Input should be a valid string (given: 1)"),
        ("[hosts.a]\nport = 22\n", "hosts.a.host is missing"),
        ('[hosts.a]\nhost = "h"\nport = "22"\n', "hosts.a.port: Input should be a valid integer (given: '22')"),
        ('[hosts.a]\nhost = "h"\nport = true\n', "hosts.a.port: Input should be a valid integer (given: True)"),
        ('[hosts.a]\nhost = "h"\nport = 0\n', "hosts.a.port: Input should be greater than or equal to 1"),
        ('[hosts.a]\nhost = "h"\npasword = "x"\n', "unknown hosts.a.pasword; known: name, host, port"),
        ('[hosts.a]\nhost = "-oProxyCommand=x"\n', "must be a plain name"),
        ('[hosts.a]\nhost = "h"\nfingerprint = "MD5:x"\n', "a pin is SHA256:"),
        ('[hosts.a]\nhost = "h"\ndevice = "tpu"\n', "hosts.a.device: Input should be 'cpu' or 'cuda'"),
        ('[hosts.a]\nhost = "h"\npython = "../python"\n', "hosts.a.python: must be one program"),
        ('[hosts.a]\nhost = "h"\nfolder = "~/"\n', "hosts.a.folder: must be a path"),
        ('[hosts.local]\nhost = "h"\n', "'local' is this machine"),
        ("hosts = 1\n", "hosts: Input should be a valid dictionary"),
        ('artifacts = ""\n', "artifacts: String should have at least 1 character"),
        ("[s3]\npath_style = 3\nregon = 1\n", "unknown s3.regon; known: endpoint_url, region"),
        ('[s3]\nsecret_key = "x"\n', "Credentials come from the usual AWS chain"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_file_and_the_reason(text: str, said: str) -> None:
    write_here(text)
    with pytest.raises(SettingsError, match=r"jade\.toml") as caught:
        load_settings()
    assert said in str(caught.value)


def test_adding_and_removing_a_host_leaves_the_rest_of_the_file_alone() -> None:
    before = '# mine\nhost = "old"  # note\n\n[hosts.old]\nhost = "h"\n# end\n'
    write_user(before)
    save_host(GPU, replace=False)
    assert user_settings_file().read_text().startswith(before)
    assert load_settings().entry("gpu") == GPU
    with pytest.raises(SettingsError, match="--replace"):
        save_host(GPU, replace=False)
    save_host(replace(GPU, port=1), replace=True)
    assert load_settings().entry("gpu").port == 1
    forget_host("gpu")
    assert user_settings_file().read_text() == before
    with pytest.raises(BadRequest):
        forget_host("gpu")


def test_a_host_of_the_working_folder_is_not_removed_from_elsewhere() -> None:
    write_here(section_of(GPU))
    with pytest.raises(SettingsError, match="remove its section there"):
        forget_host("gpu")


def test_hosts_written_in_another_form_are_refused_rather_than_damaged() -> None:
    text = 'hosts = { gpu = { host = "h" } }\n'
    for change in (lambda: with_host(text, GPU), lambda: without_host(text, "gpu")):
        with pytest.raises(SettingsError, match="edit it by hand"):
            change()


def test_a_section_is_valid_toml_whatever_stands_in_it() -> None:
    entry = replace(GPU, key='/odd "name"\\key ü', jump="gate", trust_first_use=True, time_limit_s=60)
    read = tomllib.loads(with_host("", entry))["hosts"]["gpu"]
    assert read["key"] == entry.key
    assert set(read) == {"host", "port", "key", "fingerprint", "jump", "trust_first_use", "device", "time_limit_s"}


def test_jumps_in_a_circle_and_to_nowhere_are_refused() -> None:
    write_here('[hosts.a]\nhost = "a"\njump = "b"\n[hosts.b]\nhost = "b"\njump = "a"\n[hosts.c]\nhost="c"\njump="d"\n')
    with pytest.raises(SettingsError, match="circle: a -> b -> a"):
        open_host(load_settings(), "a")
    with pytest.raises(BadRequest, match="'d'"):
        open_host(load_settings(), "c")


@pytest.mark.parametrize(
    ("environment", "file", "endpoint"),
    [
        ({}, "", None),
        ({"AWS_ENDPOINT_URL": "http://all:1"}, "", "http://all:1"),
        ({"AWS_ENDPOINT_URL": "http://all:1", "AWS_ENDPOINT_URL_S3": "http://s3:1"}, "", "http://s3:1"),
        ({"AWS_ENDPOINT_URL_S3": "http://s3:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, "", None),
        ({"AWS_ENDPOINT_URL_S3": "http://s3:1"}, '[s3]\nendpoint_url = "http://file:1"\n', "http://file:1"),
    ],
)
def test_the_endpoint_of_the_aws_environment_counts_as_one_that_is_named(
    environment: dict[str, str], file: str, endpoint: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "jade.toml").write_text(file)
    found = load_settings().s3
    assert (found.endpoint_url, found.path_style) == (endpoint, endpoint is not None)


def test_a_variable_that_makes_no_sense_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JADE_S3_PATH_STYLE", "maybe")
    with pytest.raises(SettingsError, match=r"JADE_S3_PATH_STYLE: path_style: .* valid boolean.*'maybe'"):
        load_settings()
    monkeypatch.setenv("JADE_S3_PATH_STYLE", "yes")
    assert load_settings().s3.path_style
