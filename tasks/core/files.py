"""One file as manifests name it: of a run in a store, or on its way to or from a host."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, NonNegativeInt
from pydantic.dataclasses import dataclass

from tasks.core.names import name_fault

MAX_NAME_BYTES = 900
"""An S3 key has at most 1024, and a prefix goes before."""


def _inside(path: str) -> str:
    if fault := name_fault(path, MAX_NAME_BYTES):
        raise ValueError(f"the name {fault[0]!r} is refused: {fault[1]}")
    return path


@dataclass(frozen=True, config=ConfigDict(strict=True))
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
