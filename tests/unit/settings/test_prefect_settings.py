"""Where Prefect's server is, as Prefect itself finds it, and what is said of one that is not there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks.core.errors import SettingsError
from tasks.settings.prefect import PREFECT_DEFAULTS, prefect_setting, prepare_prefect, require_server, too_new


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of Prefect's, and an environment that names no server."""
    names = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_API_KEY", "PREFECT_PROFILE")
    for name in (*names, "PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"):
        # Set first, so that what a test leaves there is undone.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in PREFECT_DEFAULTS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("JADE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prefect").mkdir()
    return tmp_path


def write_profile(home: Path, **settings: str) -> None:
    lines = "".join(f'{name} = "{value}"\n' for name, value in settings.items())
    (home / "prefect" / "profiles.toml").write_text(f'active = "mine"\n[profiles.mine]\n{lines}')


@contextmanager
def answering(status: Callable[[str | None], int]) -> Iterator[str]:
    """Stand in for a server; yield its address. What it answers hangs on the authorization that it is given."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status(self.headers["Authorization"]))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/api"
        server.shutdown()


def test_a_profile_or_a_project_file_counts_where_the_environment_says_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prefect_setting("api", "url") is None
    with pytest.raises(SettingsError, match="`jade up`"):
        require_server()
    write_profile(home, PREFECT_API_URL="http://profile/api")
    assert prefect_setting("api", "url") == "http://profile/api"
    require_server()
    (home / "pyproject.toml").write_text('[tool.prefect.api]\nurl = "http://project/api"\n')
    assert prefect_setting("api", "url") == "http://project/api"
    monkeypatch.setenv("PREFECT_API_URL", "http://environment/api")
    assert prefect_setting("api", "url") == "http://environment/api"


def test_a_command_without_a_server_has_a_database_of_its_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    prepare_prefect(quiet=False)
    assert os.environ["PREFECT_API_DATABASE_CONNECTION_URL"] == f"sqlite+aiosqlite:///{home}/state/prefect/prefect.db"
    assert (home / "state" / "prefect").is_dir()
    (home / "file").touch()
    monkeypatch.setenv("JADE_STATE_DIR", str(home / "file" / "state"))
    with pytest.raises(SettingsError, match=r"file/state/prefect.*PREFECT_HOME.*JADE_STATE_DIR.*PREFECT_API_URL"):
        prepare_prefect(quiet=False)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:9/api", r"does not answer: .*`jade up`"),
        ("localhost", r"is no address .*expected http://HOST:PORT/api"),
        ("ftp://host/api", "is no address"),
        ("http://127.0.0.1:port/api", "is no address"),
    ],
)
def test_a_server_that_is_not_there_is_told_of_in_one_sentence(
    url: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", url)
    with pytest.raises(SettingsError, match=said):
        prepare_prefect(quiet=False)
    prepare_prefect(quiet=False, check=False)


def test_a_missing_and_a_wrong_password_are_told_apart(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = "Basic amFkZTpyaWdodA=="  # jade:right
    with answering(lambda given: 200 if given == right else 401) as url:
        write_profile(home, PREFECT_API_URL=url)
        with pytest.raises(SettingsError, match="and none is given: set PREFECT_API_AUTH_STRING"):
            prepare_prefect(quiet=False)
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", "jade:wrong")
        with pytest.raises(SettingsError, match="the password given is wrong") as refused:
            prepare_prefect(quiet=False)
        assert "jade:wrong" not in str(refused.value)
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", "jade:right")
        prepare_prefect(quiet=False)


def test_another_program_on_the_port_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(lambda _: 404) as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        with pytest.raises(SettingsError, match=r"answers 404: is it Prefect's"):
            prepare_prefect(quiet=False)


def test_a_database_of_a_newer_prefect_is_named_with_the_way_out(tmp_path: Path) -> None:
    log = "...\nalembic.util.exc.CommandError: Can't locate revision identified by '5a1c9d'\nfailed"
    said = too_new(log, tmp_path)
    assert said is not None
    assert f"the database in {tmp_path} was made by a newer Prefect" in said
    assert "move that folder away" in said
    assert too_new("address already in use", tmp_path) is None
