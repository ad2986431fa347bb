"""What the settings say of where runs are kept: the `[s3]` section, and the environment above it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.core.errors import SettingsError

DEFAULT_ARTIFACTS = "artifacts"
S3_KEYS: dict[str, type] = {"endpoint_url": str, "region": str, "path_style": bool, "profile": str}
"""Keys of the `[s3]` section; `JADE_S3_<KEY>` in the environment says the same."""

_AWS_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_SWITCHES = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_SMALLEST_PART_BYTES = 5 * 2**20


@dataclass(frozen=True)
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
        part_bytes: Of a multipart upload; files that are larger than it are sent in parts.
    """

    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool = False
    profile: str | None = None
    connect_timeout_s: float = 10.0
    credentials_timeout_s: float = 60.0
    read_timeout_s: float = 60.0
    slowest_bytes_per_s: float = 32 * 2**10
    attempts: int = 5
    part_bytes: int = 16 * 2**20

    def __post_init__(self) -> None:
        if self.endpoint_url is not None and not re.match(r"https?://[^/\s]+", self.endpoint_url):
            raise ValueError(
                f"an endpoint URL starts with http:// or https:// and a host, which {self.endpoint_url!r} does not"
            )
        for name in ("connect_timeout_s", "credentials_timeout_s", "read_timeout_s", "slowest_bytes_per_s", "attempts"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if self.part_bytes < _SMALLEST_PART_BYTES:
            raise ValueError(f"part_bytes must be at least {_SMALLEST_PART_BYTES}, as S3 wants, not {self.part_bytes}")


def check_s3_table(table: Any) -> dict[str, Any]:
    """Return a settings file's `[s3]` section if it is one.

    Raises:
        SettingsError: A key is unknown or of another type.
    """
    if not isinstance(table, dict):
        raise SettingsError(f"s3 must be a section, [s3], not {table!r}")
    if unknown := sorted(set(table) - set(S3_KEYS)):
        hint = " Credentials come from the usual AWS chain." if any("key" in name for name in unknown) else ""
        raise SettingsError(f"s3: unknown {', '.join(unknown)}; known: {', '.join(S3_KEYS)}.{hint}")
    for name, value in table.items():
        if not isinstance(value, S3_KEYS[name]):
            raise SettingsError(f"s3: {name} must be {S3_KEYS[name].__name__}, not {value!r}")
    return dict(table)


def s3_from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what the environment says of the keys of the `[s3]` section.

    Raises:
        SettingsError: `JADE_S3_PATH_STYLE` is neither true nor false.
    """
    found: dict[str, Any] = {}
    for name, kind in S3_KEYS.items():
        variable = f"JADE_S3_{name.upper()}"
        text = environment.get(variable)
        if not text:
            continue
        if kind is bool:
            if text.lower() not in _SWITCHES:
                raise SettingsError(f"{variable} must be true or false, not {text!r}")
            found[name] = _SWITCHES[text.lower()]
        else:
            found[name] = text
    return found


def s3_settings(values: Mapping[str, Any], environment: Mapping[str, str]) -> S3Settings:
    """Return the settings of the endpoint; one that is named takes the bucket in the path unless told otherwise.

    Args:
        values: Keys of the `[s3]` section.
        environment: Whose `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` counts where no endpoint is among them.

    Raises:
        SettingsError: The endpoint is no URL.
    """
    named = {name: environment[name] for name in _AWS_ENDPOINTS if environment.get(name)}
    if environment.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        named = {}
    source, endpoint = next(iter(named.items()), ("", None))
    if values.get("endpoint_url"):
        source, endpoint = "s3: endpoint_url", values["endpoint_url"]
    try:
        return S3Settings(**{"path_style": bool(endpoint), **values, "endpoint_url": endpoint})
    except ValueError as error:
        raise SettingsError(f"{source}: {error}") from error
