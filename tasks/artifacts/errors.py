"""What can go wrong between this machine and where runs are kept.

StoreError
├── StoreUserError           the person who called can put it right; exit code 2
│   ├── BadStoreAddress      the address names no store, or what answers there is none
│   ├── NoSuchBucket         the bucket does not exist at that endpoint
│   ├── AccessDenied         no credentials, wrong ones, or no permission
│   ├── StoreFull            the disk, bucket or quota is full
│   ├── ArtifactNotFound     no such run, file or pointer
│   ├── AlreadyPublished     a complete run would be changed by this
│   ├── RunProtected         a pointer stands on the run: it is not deleted
│   ├── FolderTaken          the folder to fetch into holds something else
│   └── RetentionMissing     nobody said which runs to keep
├── PreconditionFailed       somebody else wrote first; read again, then decide
├── RecordChanged            the same of a record beside the runs
├── ArtifactCorrupted        what is stored is not what the manifest says
├── ManifestCorrupted        the manifest itself is not one
├── SourceChanged            a file changed while it was being published
├── StoreRefused             the endpoint or the disk refused something for a reason that has no name here
├── NameRefused              a name would escape its folder, or names no plain file
├── TransferDamaged          transient: the store refused bytes that arrived damaged
├── UploadLost               transient: the store forgot a multipart upload; nothing of it is visible
└── StoreUnavailable         transient: no answer, a cut, or a failure on the store's side

Whether trying again can help is a property of the type (`is_transient`); only such errors are retried.
"""

from __future__ import annotations

from typing import Any


class StoreError(Exception):
    """Base of all errors that this package raises on purpose."""

    exit_code = 1
    is_transient = False

    def __reduce__(self) -> tuple[Any, ...]:
        # Task runners pickle errors, and these are made of evidence, not of a message alone.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[StoreError], args: tuple[Any, ...], evidence: dict[str, Any]) -> StoreError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(evidence)
    return error


class StoreUserError(StoreError):
    """The person who called can put it right; the message says how."""

    exit_code = 2


class BadStoreAddress(StoreUserError):
    """The address names no store, or what answers there is none."""

    def __init__(self, address: str, reason: str) -> None:
        self.address, self.reason = address, reason
        super().__init__(f"{address!r} is no place for artifacts: {reason}. Give a folder or s3://bucket/prefix.")


class NoSuchBucket(StoreUserError):
    """The bucket does not exist at that endpoint."""

    def __init__(self, bucket: str, endpoint: str) -> None:
        self.bucket, self.endpoint = bucket, endpoint
        super().__init__(
            f"There is no bucket {bucket!r} at {endpoint}. Check its name, the endpoint and the region, or create it."
        )


class AccessDenied(StoreUserError):
    """No credentials, wrong ones, or no permission."""

    def __init__(self, place: str, doing: str, evidence: str) -> None:
        self.place, self.doing, self.evidence = place, doing, evidence
        super().__init__(
            f"No permission: {doing} at {place} was refused ({evidence}). "
            "Check the credentials or the owner, what they may do there, and this machine's clock."
        )


class StoreFull(StoreUserError):
    """The disk, bucket or quota is full."""

    def __init__(self, place: str, evidence: str) -> None:
        self.place, self.evidence = place, evidence
        super().__init__(
            f"No space left at {place}: {evidence}. What was stored before is whole. "
            "Free some (`jade artifacts prune --keep-last N`) or choose another place."
        )


class ArtifactNotFound(StoreUserError):
    """There is no such run, file or pointer."""

    def __init__(self, what: str, place: str, hint: str = "") -> None:
        self.what, self.place = what, place
        super().__init__(f"There is no {what} in {place}.{' ' + hint if hint else ''}")


class AlreadyPublished(StoreUserError):
    """The run is published as complete, and its files stay as they are.

    Attributes:
        paths: Those that would have changed or vanished.
    """

    def __init__(self, run_id: str, place: str, paths: tuple[str, ...]) -> None:
        self.run_id, self.place, self.paths = run_id, place, paths
        shown = ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
        super().__init__(
            f"The run {run_id} is complete in {place} and differs from this in {shown}. "
            "Nothing was overwritten. Publish under another name, or delete that run first."
        )


class RunProtected(StoreUserError):
    """A pointer stands on the run, so it is not deleted.

    Attributes:
        pointers: Names of those that do.
    """

    def __init__(self, run_id: str, place: str, pointers: tuple[str, ...]) -> None:
        self.run_id, self.place, self.pointers = run_id, place, pointers
        super().__init__(
            f"The run {run_id} in {place} is what {', '.join(pointers)} points to; it was not deleted. "
            "Point elsewhere first."
        )


class FolderTaken(StoreUserError):
    """The folder to fetch into holds something else."""

    def __init__(self, folder: str, run_id: str) -> None:
        self.folder, self.run_id = folder, run_id
        super().__init__(
            f"{folder} exists and is not the run {run_id} as it is published. Nothing was written; "
            "choose another folder, or move that one away."
        )


class RetentionMissing(StoreUserError):
    """Nobody said which runs to keep."""

    def __init__(self) -> None:
        super().__init__("Say what to keep: the newest N runs (--keep-last), runs of the last D days (--keep-days).")


class PreconditionFailed(StoreError):
    """Somebody else wrote first; nothing was overwritten."""

    def __init__(self, run_id: str, place: str, expected_revision: int, found_revision: int) -> None:
        self.run_id, self.place = run_id, place
        self.expected_revision, self.found_revision = expected_revision, found_revision
        super().__init__(
            f"Somebody else wrote the run {run_id} in {place} first: expected revision {expected_revision}, "
            f"found {found_revision}. Nothing was overwritten."
        )


class RecordChanged(StoreError):
    """Somebody else wrote, or removed, a record since it was read; nothing was overwritten."""

    def __init__(self, name: str, place: str) -> None:
        self.name, self.place = name, place
        super().__init__(f"Somebody else changed the record {name} in {place} first. Nothing was overwritten.")


class ArtifactCorrupted(StoreError):
    """What is stored is not what the manifest says.

    Attributes:
        expected: SHA-256, or a size.
        found: The same of what is there.
    """

    def __init__(self, path: str, expected: str, found: str) -> None:
        self.path, self.expected, self.found = path, expected, found
        super().__init__(f"{path} is damaged: expected {expected}, found {found}. It was not used.")


class ManifestCorrupted(StoreError):
    """The manifest is not one, or its content does not fit its own digest.

    Attributes:
        revision: That of the damaged one where its place tells it, else 0.
    """

    def __init__(self, path: str, reason: str, revision: int = 0) -> None:
        self.path, self.reason, self.revision = path, reason, revision
        super().__init__(
            f"{path} is not a manifest that can be trusted: {reason}. "
            "Publish the run again from its folder, or delete it."
        )


class SourceChanged(StoreError):
    """A file changed while it was being published; what had been stored of it is not visible."""

    def __init__(self, path: str, expected: str, found: str) -> None:
        self.path, self.expected, self.found = path, expected, found
        super().__init__(f"{path} changed while it was being published: {expected} became {found}. Publish it again.")


class StoreRefused(StoreError):
    """The endpoint or the disk refused something for a reason that has no name here."""

    def __init__(self, place: str, doing: str, evidence: str) -> None:
        self.place, self.doing, self.evidence = place, doing, evidence
        super().__init__(f"{place} refused {doing}: {evidence}")


class NameRefused(StoreError):
    """A name would escape its folder, is listed twice, or names no plain file."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(f"The name {name!r} is refused: {reason}")


class TransferDamaged(StoreError):
    """The store refused bytes that arrived damaged; nothing of them was kept."""

    is_transient = True

    def __init__(self, place: str, doing: str, evidence: str) -> None:
        self.place, self.doing, self.evidence = place, doing, evidence
        super().__init__(f"Bytes arrived damaged at {place} during {doing} and were refused there ({evidence}).")


class UploadLost(StoreError):
    """The store no longer knows a multipart upload that was under way; nothing of it is visible."""

    is_transient = True

    def __init__(self, place: str, doing: str, evidence: str) -> None:
        self.place, self.doing, self.evidence = place, doing, evidence
        super().__init__(f"{place} forgot a multipart upload during {doing} ({evidence}). Nothing of it is visible.")


class StoreUnavailable(StoreError):
    """No answer, a cut, or a failure on the store's side."""

    is_transient = True

    def __init__(self, place: str, doing: str, reason: str, attempts: int = 1, tried_s: float = 0.0) -> None:
        self.place, self.doing, self.reason = place, doing, reason
        self.attempts, self.tried_s = attempts, tried_s
        times = "once" if attempts == 1 else f"{attempts} times over {tried_s:.1f} s"
        super().__init__(f"{place} failed during {doing}: tried {times}, last reason: {reason}")

    def after(self, attempts: int, tried_s: float) -> StoreUnavailable:
        """Return the same error, saying how often and how long it was tried."""
        return StoreUnavailable(self.place, self.doing, self.reason, attempts, tried_s)
