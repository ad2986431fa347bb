"""What Prefect is told through the environment: by commands before they import it, and by the local installation."""

from __future__ import annotations

import os
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from tasks.core.errors import SettingsError
from tasks.settings.environment import THREADING
from tasks.settings.load import state_folder

PREFECT_DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
}
TEMPORARY_SERVER = "JADE_TEMPORARY_SERVER"
"""Where the environment says that the server which it names ends with the command, and shows nothing to anybody."""
_ANSWER_LIMIT_S = 10.0


def prepare_prefect(*, quiet: bool, check: bool = True) -> None:
    """Set Prefect's defaults for a command; what the user has set stays, in the environment or in Prefect's own files.

    Must run before `prefect` is imported. Without a server, the command's own has a database of Jade's own: that in
    Prefect's home may be one of a newer Prefect, or of another program's.

    Args:
        quiet: Keep Prefect's own lines off the terminal unless they are warnings, because progress bars are shown.
        check: Ask the server that is set whether it is there and lets us in.

    Raises:
        SettingsError: The temporary server would have nowhere to keep its database, or the server that is set does not
            answer, or wants another password.
    """
    for name, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    if quiet:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "WARNING")
    url = prefect_setting("api", "url")
    if url is not None:
        if check:
            _check_server(url)
        return
    database = prefect_folder() / "prefect.db"
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect")
    try:
        database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Prefect makes the last folder only, and starts a server that fails again and again for as long as it may.
        home.expanduser().mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise SettingsError(
            f"Prefect keeps its files in {home} and {database.parent}, which can't be made: {error}. Name folders that "
            "can with PREFECT_HOME and JADE_STATE_DIR, or a server with PREFECT_API_URL"
        ) from error
    os.environ.setdefault("PREFECT_API_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{database}")


def prefect_folder() -> Path:
    """Return the folder of what a command's own server keeps."""
    return state_folder().absolute() / "prefect"


def too_new(log: str, folder: Path) -> str | None:
    """Return what is wrong, and what to do, where a server's log says that its database is of a newer Prefect.

    Args:
        log: What the server said.
        folder: That holds the database.
    """
    if "Can't locate revision identified by" not in log:
        return None
    return (
        f"the database in {folder} was made by a newer Prefect than ours, {metadata.version('prefect')}. Go on "
        "with the newer Jade, or move that folder away: Prefect's history of runs is in it, the runs' own files are not"
    )


def has_lasting_server() -> bool:
    """Whether a Prefect server is set that outlives this process; for processes that have imported Prefect."""
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    return bool(url) and url != os.environ.get(TEMPORARY_SERVER)


def require_server() -> None:
    """Refuse to go on without a Prefect server that outlives this command.

    Raises:
        SettingsError: None is set, neither by PREFECT_API_URL nor in Prefect's own files.
    """
    if prefect_setting("api", "url") is None:
        raise SettingsError(
            "this needs a Prefect server: start one with `jade up` and set PREFECT_API_URL as it says, or to yours"
        )


def prefect_setting(*path: str) -> str | None:
    """Return a setting of Prefect's as Prefect itself finds it, without importing it; None if it is not set.

    From the environment, `prefect.toml` or `pyproject.toml` of the working folder, or the profile that is active.

    Args:
        path: Its place, such as `api`, `url`.
    """
    name = f"PREFECT_{'_'.join(path).upper()}"
    if os.environ.get(name):
        return os.environ[name]
    for content in (
        _read_toml(Path("prefect.toml")),
        _read_toml(Path("pyproject.toml")).get("tool", {}).get("prefect"),
    ):
        found: Any = content
        for part in path:
            found = found.get(part) if isinstance(found, dict) else None
        if isinstance(found, str) and found:
            return found
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect")
    file = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    profiles = _read_toml(file)
    active = os.environ.get("PREFECT_PROFILE") or profiles.get("active")
    found = profiles.get("profiles", {}).get(active, {}).get(name)
    return found or None


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.expanduser().read_text("utf-8"))
    except (OSError, RuntimeError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        # Prefect itself says what is wrong with it.
        return {}


def _check_server(url: str) -> None:
    import httpx

    headers, auth = {}, None
    if key := prefect_setting("api", "key"):
        headers["Authorization"] = f"Bearer {key}"
    elif secret := prefect_setting("api", "auth_string"):
        user, _, password = secret.partition(":")
        auth = (user, password)
    whose = f"the Prefect server that PREFECT_API_URL or Prefect's profile names, {url},"
    try:
        address = f"{url.rstrip('/')}/admin/version"
        status = httpx.get(address, auth=auth, headers=headers, timeout=_ANSWER_LIMIT_S).status_code
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise SettingsError(f"{whose} is no address ({error}); expected http://HOST:PORT/api") from error
    except httpx.HTTPError as error:
        raise SettingsError(
            f"{whose} does not answer: {error}. Start it (`jade up`, `systemctl start jade-server`), correct the "
            "address, or unset it: a command alone needs no server"
        ) from error
    if status in {401, 403}:
        given = "the password given is wrong" if auth or headers else "none is given"
        raise SettingsError(f"{whose} asks for a password, and {given}: set PREFECT_API_AUTH_STRING=USER:PASSWORD")
    if status != httpx.codes.OK:
        raise SettingsError(f"{whose} answers {status}: is it Prefect's, and does the address end in /api?")


def installation_environment(
    server: Path, *, home: Path, api_url: str, reports: tuple[Path, str] | None
) -> dict[str, str]:
    """Return the environment of the local installation's processes, and of the flows that its worker runs.

    What the user has set for Prefect stays out: the installation is one of its own.

    Args:
        server: File with the settings of every server of ours, a line each: NAME=VALUE.
        home: Where Prefect keeps the database.
        api_url: Of the installation's server.
        reports: Folder whose runs' reports are served, and under which address; None: they are not.
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    if reports is not None:
        ours |= {"JADE_REPORTS_FOLDER": str(reports[0]), "JADE_REPORTS_URL": reports[1]}
    lines = [line for line in server.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return {
        **ours,
        **dict(line.split("=", 1) for line in lines),
        **THREADING,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": api_url,
        "PREFECT_UI_API_URL": api_url,
        "PREFECT_LOGGING_COLORS": "false",
        "PYTHONUNBUFFERED": "1",
    }


def report_address(file: Path) -> str | None:
    """Return where the installation serves a file of a run's report; None where it serves none.

    Args:
        file: `<artifacts>/<run>/report/<name>`.
    """
    url, folder = os.environ.get("JADE_REPORTS_URL"), os.environ.get("JADE_REPORTS_FOLDER")
    if url and folder and file.is_relative_to(folder):
        return f"{url}/{file.relative_to(folder).as_posix()}"
    return None
