"""From what a user writes to a store: a folder or `s3://bucket/prefix`, and the settings of an S3 endpoint."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tasks.artifacts.base import ArtifactStore, check_path, check_run_id
from tasks.artifacts.errors import ArtifactNotFound, BadStoreAddress, NameRefused
from tasks.artifacts.local import LocalStore

SMALLEST_PART_BYTES = 5 * 2**20
MOST_PARTS = 10_000

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


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
        pause_s: Before the second attempt; doubled each time, up to 20 s, and jittered.
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
    pause_s: float = 0.5
    part_bytes: int = 16 * 2**20

    def __post_init__(self) -> None:
        if self.endpoint_url is not None and not re.match(r"https?://[^/\s]+", self.endpoint_url):
            raise BadStoreAddress(self.endpoint_url, "an endpoint URL starts with http:// or https:// and a host")
        for name in ("connect_timeout_s", "credentials_timeout_s", "read_timeout_s", "slowest_bytes_per_s", "attempts"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if self.pause_s < 0:
            raise ValueError(f"pause_s must not be negative, is {self.pause_s}")
        if self.part_bytes < SMALLEST_PART_BYTES:
            raise ValueError(f"part_bytes must be at least {SMALLEST_PART_BYTES}, as S3 wants, not {self.part_bytes}")


@dataclass(frozen=True)
class S3Address:
    """A bucket and what all keys in it start with.

    Attributes:
        bucket: Its name.
        prefix: Without slashes at its ends; may be empty.
    """

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


def open_store(address: str | Path, settings: S3Settings | None = None) -> ArtifactStore:
    """Return the store of that address; nothing is asked of it yet.

    Args:
        address: A folder, or `s3://bucket/prefix`.
        settings: Of the S3 endpoint; AWS itself if not given. Unused for a folder.

    Raises:
        BadStoreAddress: It is neither.
    """
    text = str(address)
    if not _SCHEME.match(text):
        if not text:
            raise BadStoreAddress(text, "it is empty")
        return LocalStore(Path(text).expanduser())
    parsed = parse_s3_address(text)
    from tasks.artifacts.s3 import S3Store  # boto3 takes half a second to import

    return S3Store(parsed, settings or S3Settings())


def parse_s3_address(text: str) -> S3Address:
    """Return the bucket and prefix of `s3://bucket/prefix`.

    Raises:
        BadStoreAddress: It is none.
    """
    scheme, _, rest = text.partition("://")
    if scheme != "s3":
        raise BadStoreAddress(text, f"{scheme.partition(':')[0]}:// is not supported")
    bucket, _, prefix = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise BadStoreAddress(text, f"{bucket!r} is not a bucket's name (3 to 63 lower-case letters, digits, dashes)")
    prefix = prefix.rstrip("/")
    try:
        if prefix:
            check_path(prefix)
    except NameRefused as error:
        raise BadStoreAddress(text, f"its prefix is refused: {error.reason}") from error
    return S3Address(bucket, prefix)


def find_stored_run(store: ArtifactStore, name: str) -> str:
    """Return the run that is meant: its name, a pointer's, or the beginning of a name that only one run has.

    Raises:
        ArtifactNotFound: None or several fit.
    """
    pointed = store.pointers().get(name)
    if pointed is not None:
        return pointed
    runs = store.runs()
    fitting = [run for run in runs if run == name] or [run for run in runs if run.startswith(name)]
    if len(fitting) != 1:
        known = ", ".join(runs[-5:]) or "none"
        hint = f"{len(fitting)} begin so; the last ones there: {known}." if runs else "Nothing is published there."
        raise ArtifactNotFound(f"single run {name!r}", store.place, hint)
    return fitting[0]


def split_run_address(text: str) -> tuple[str, str]:
    """Return store and run of `s3://bucket/prefix/RUN`.

    Raises:
        BadStoreAddress: It is no S3 address, or ends in no run's name.
    """
    parsed = parse_s3_address(text)
    prefix, _, run_id = parsed.prefix.rpartition("/")
    try:
        check_run_id(run_id)
    except NameRefused as error:
        raise BadStoreAddress(text, f"it must end in a run's name: {error.reason}") from error
    return str(S3Address(parsed.bucket, prefix)), run_id
