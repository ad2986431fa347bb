"""Names from outside, before they become paths, addresses or files: one rule for hosts, stores and settings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, NonNegativeInt
from pydantic.dataclasses import dataclass as checked_dataclass

MAX_NAME_BYTES = 900
"""An S3 key has at most 1024, and a prefix goes before."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def name_fault(path: object, max_bytes: int) -> tuple[str, str] | None:
    """Say why a relative file name could leave its folder, or confuse a shell, a terminal or a log.

    Args:
        path: What is said to be a name.
        max_bytes: It may have, as UTF-8.

    Returns:
        The name as it can be shown, and the reason; None: it may be used.
    """
    if not isinstance(path, str) or not path:
        return str(path), "it is empty or no text"
    if path.startswith("/"):
        return path, "it is absolute"
    if any(part in {"", ".", ".."} for part in path.split("/")):
        return path, "a part of it is empty, '.' or '..'"
    if "\\" in path or not path.isprintable():
        return path, "it has a backslash or a character that cannot be shown"
    if len(path.encode("utf-8", "surrogatepass")) > max_bytes:
        return path[:80] + "...", f"it is longer than {max_bytes} bytes"
    return None


@dataclass(frozen=True)
class HostAddress:
    """Where an SSH server listens, and as whom to log in."""

    host: str
    port: int = 22
    user: str = "root"

    def __post_init__(self) -> None:
        # What starts with a dash would be an option to programs that get it on their command line.
        for what, value in (("host", self.host), ("user", self.user)):
            if not value or value.startswith("-") or any(c.isspace() or not c.isprintable() for c in value):
                raise ValueError(f"{what} must be a plain name or address, not {value!r}")
        if not 0 < self.port < 65536:
            raise ValueError(f"port must lie in 1..65535, not {self.port}")

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}"


def check_pins(pins: tuple[str, ...]) -> None:
    """Refuse fingerprints of server keys that are not as `ssh-keygen -l` prints them.

    Raises:
        ValueError: For the first such pin.
    """
    for pin in pins:
        digest = pin.removeprefix("SHA256:")
        if digest == pin or len(digest) != 43:
            raise ValueError(f"a pin is SHA256: and 43 characters of base64 as ssh-keygen -l prints it, not {pin!r}")


def is_plain_name(name: object) -> bool:
    """Whether it is 1 to 128 letters, digits, dots, dashes and underscores, the first a letter or digit."""
    return isinstance(name, str) and _PLAIN_NAME.fullmatch(name) is not None


def _inside(path: str) -> str:
    if fault := name_fault(path, MAX_NAME_BYTES):
        raise ValueError(f"the name {fault[0]!r} is refused: {fault[1]}")
    return path


@checked_dataclass(frozen=True, config=ConfigDict(strict=True))
class FileEntry:
    """A file's name, size and digest; a ValueError says what is wrong with one of them.

    Attributes:
        path: Relative, with forward slashes; never leaves its folder.
        size: Bytes.
        sha256: 64 lower-case hexadecimal digits.
    """

    path: Annotated[str, AfterValidator(_inside)]
    size: NonNegativeInt
    sha256: Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
