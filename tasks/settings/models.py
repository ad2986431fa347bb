"""What `jade.toml` may say, as models: hosts, the endpoint of a bucket, and the file as a whole."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    TypeAdapter,
    ValidationError,
    field_validator,
)
from pydantic.dataclasses import dataclass

from tasks.core.errors import SettingsError
from tasks.core.names import HostAddress, check_pins

T = TypeVar("T")

LOCAL = "local"
"""The name that stands for this machine."""

Tracker = Literal["none", "mlflow"]
"""Who is told of runs beside Prefect."""

PROVIDERS = ("runpod", "ec2", "static")
"""Names that stand for a machine that is taken for a run and given back."""

Workers = int | Literal["arms"] | None
"""Trainings at once: so many; of each arm one, as far as a GPU's memory allows; None: one a core, or four on a GPU."""

DAY_S = 86_400
DEFAULT_ARTIFACTS = "artifacts"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_CHECKED = ConfigDict(extra="forbid")

# True is an int to Python, and no number to anybody.
Seconds = Annotated[StrictInt, Field(ge=1)]


def _listed(given: Any) -> Any:
    """One pin stands for a list of one."""
    return (given,) if isinstance(given, str) else given


@dataclass(frozen=True, config=_CHECKED)
class HostEntry:
    """One `[hosts.NAME]` section. No secret is among its fields: it names a key's file, never a key.

    Attributes:
        name: What `--host` says.
        host: Address, DNS name, or name of a section in `~/.ssh/config`.
        port: Of the SSH server; None: as `~/.ssh/config` says, else 22.
        user: Who logs in; None: as `~/.ssh/config` says, else root.
        key: Private key's file; None: the agent's keys, then the usual files in `~/.ssh`.
        fingerprint: Pins (`SHA256:...`); if there are any, no other server key counts.
        jump: Name of the host to go through.
        trust_first_use: Whether the first key that the server shows is accepted and remembered.
        folder: Where everything of ours lies over there; `~/` is the account's home.
        python: Program that trains: a plain name or an absolute path.
        device: Where trainings run if nothing else is said.
        time_limit_s: The host ends a job after this long.
        connect_timeout_s: How long a connection and the login may take; None: half a minute.
    """

    name: str
    host: str
    port: Annotated[StrictInt, Field(ge=1, le=65_535)] | None = None
    user: str | None = None
    key: str | None = None
    fingerprint: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    jump: str | None = None
    trust_first_use: StrictBool = False
    folder: str = "~/.jade"
    python: str = "python3"
    device: Literal["cpu", "cuda"] = "cpu"
    time_limit_s: Seconds = DAY_S
    connect_timeout_s: Seconds | None = None

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name == LOCAL:
            raise ValueError(f"{LOCAL!r} is this machine; give the host another name")
        if name in PROVIDERS:
            raise ValueError(f"{name!r} stands for machines that are rented; give the host another name")
        if not _NAME.fullmatch(name):
            raise ValueError("a host's name has letters, digits, '-' and '_', at most 64 of them")
        return name

    @field_validator("host")
    @classmethod
    def _check_host(cls, host: str) -> str:
        HostAddress(host)
        try:
            is_alone = parse_address(host) == (host, None, None)
        except SettingsError:
            is_alone = False
        if not is_alone:
            raise ValueError("must be an address or a name alone, with port and user beside it")
        return host

    @field_validator("user")
    @classmethod
    def _check_user(cls, user: str | None) -> str | None:
        if user is not None:
            HostAddress("any", 22, user)
        return user

    @field_validator("fingerprint")
    @classmethod
    def _check_pins(cls, pins: tuple[str, ...]) -> tuple[str, ...]:
        check_pins(pins)
        return pins

    @field_validator("folder")
    @classmethod
    def _check_folder(cls, folder: str) -> str:
        below_home = folder.startswith("~/") and folder.strip("~/")
        if not folder.isprintable() or not (below_home or folder.lstrip("-~$") == folder != ""):
            raise ValueError("must be a path such as /data/jade, or ~/.jade below the home there")
        return folder

    @field_validator("python")
    @classmethod
    def _check_python(cls, python: str) -> str:
        is_path = python.startswith("/") and " -" not in python
        if not python.isprintable() or not (is_path or re.fullmatch(r"[^\s/~$-][^\s/~$]*", python)):
            raise ValueError(
                "must be one program without flags, its name or its absolute path. That of a conda environment is such "
                "as /opt/conda/envs/NAME/bin/python"
            )
        return python

    @property
    def address(self) -> HostAddress:
        """Where it listens, and as whom to log in, as far as its section says."""
        return HostAddress(self.host, self.port or 22, self.user or "root")

    @property
    def remote_folder(self) -> str:
        """`folder` as the host's commands take it: relative paths start at the account's home."""
        return self.folder.removeprefix("~/").rstrip("/")


@dataclass(frozen=True, config=_CHECKED)
class S3Settings:
    """How to reach an S3-compatible endpoint. Credentials are not among them: they come from the usual AWS chain.

    Attributes:
        endpoint_url: `https://...` of the endpoint; None for AWS itself.
        region: None for what the AWS chain says.
        path_style: Whether the bucket stands in the path rather than in the host name; most endpoints that are not
            AWS want that.
        profile: Of the AWS configuration files; None for the usual one.
        connect_timeout_s: For one connection.
        credentials_timeout_s: For the credentials to come, wherever the AWS configuration fetches them.
        read_timeout_s: For one answer, or one piece of it, to arrive.
        slowest_bytes_per_s: A download that is slower on the whole counts as hung.
        attempts: For each request, the first included; only transient errors are tried again.
        part_bytes: Of a multipart upload, at least what S3 wants; files that are larger than it are sent in parts.
    """

    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool = False
    profile: str | None = None
    connect_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    credentials_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    read_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    slowest_bytes_per_s: Annotated[float, Field(gt=0)] = 32 * 2**10
    attempts: Annotated[int, Field(gt=0)] = 5
    part_bytes: Annotated[int, Field(ge=5 * 2**20)] = 16 * 2**20

    @field_validator("endpoint_url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is not None and not re.match(r"https?://[^/\s]+", url):
            raise ValueError("an endpoint URL starts with http:// or https:// and a host")
        return url


def _named(given: Any) -> Any:
    """A host's section does not repeat the name that stands in its heading."""
    if not isinstance(given, dict):
        return given
    return {name: {"name": name, **table} if isinstance(table, dict) else table for name, table in given.items()}


@dataclass(frozen=True, config=_CHECKED)
class SettingsFile:
    """All that a `jade.toml` may say; a provider's section is checked by whoever rents of it."""

    host: str = LOCAL
    hosts: Annotated[dict[str, HostEntry], BeforeValidator(_named)] = Field(default_factory=dict)
    artifacts: Annotated[str, Field(min_length=1)] = DEFAULT_ARTIFACTS
    ledger: str = ""
    track: Tracker = "none"
    s3: S3Settings = Field(default_factory=S3Settings)
    runpod: dict[str, Any] = Field(default_factory=dict)
    ec2: dict[str, Any] = Field(default_factory=dict)
    static: dict[str, Any] = Field(default_factory=dict)


def checked(kind: type[T], values: Any, where: str) -> T:
    """Return values as a model.

    Args:
        kind: The model, a dataclass of pydantic's.
        values: As TOML, a command or the environment gave them.
        where: That was, for messages.

    Raises:
        SettingsError: Something is missing, unknown, or makes no sense; all of it is named.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise SettingsError(f"{where}: {'; '.join(_problem(kind, item) for item in error.errors())}") from error


def _problem(kind: type[Any], problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path)
    if problem["type"] == "missing":
        return f"{name} is missing"
    if problem["type"] == "unexpected_keyword_argument":
        section: type[Any] = {"hosts": HostEntry, "s3": S3Settings}.get(path[0], kind) if len(path) > 1 else kind
        hint = ". Credentials come from the usual AWS chain" if section is S3Settings and "key" in path[-1] else ""
        return f"unknown {name}; known: {', '.join(section.__dataclass_fields__)}{hint}"
    said = problem["msg"].removeprefix("Value error, ")
    return f"{name}: {said} (given: {problem['input']!r})" if name else said


def parse_address(text: str) -> tuple[str, int | None, str | None]:
    """Read an address as people write it: `HOST`, `USER@HOST`, `HOST:PORT`, `[IPV6]:PORT` or `ssh://USER@HOST:PORT`.

    Returns:
        Host, port and user; None where it names none.

    Raises:
        SettingsError: It is none of these.
    """
    user, _, place = text.strip().removeprefix("ssh://").rstrip("/").rpartition("@")
    if found := re.fullmatch(r"\[([^\[\]]+)\](?::(\d+))?", place) or re.fullmatch(r"([^:]+):(\d+)", place):
        host, port = found[1], int(found[2]) if found[2] else None
    else:
        host, port = place, None
    if (
        not host
        or host.startswith("-")
        or re.search(r"[\s/@\[\]]", host + user)
        or (":" in host and host.count(":") < 2)
    ):
        raise SettingsError(f"an address is HOST, USER@HOST, HOST:PORT or ssh://USER@HOST:PORT, not {text!r}")
    return host, port, user or None
