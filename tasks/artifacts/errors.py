"""What can go wrong between this machine and where runs are kept; whether trying again can help is told by the type."""

from __future__ import annotations

from tasks.core.errors import EvidencedError


class StoreError(EvidencedError):
    """Base of all errors that this package raises on purpose."""


class StoreUserError(StoreError):
    """The person who called can put it right; the message says how."""

    exit_code = 2


class BadStoreAddress(StoreUserError):
    """The address names no store, or what answers there is none."""

    text = "{address!r} is no place for artifacts: {reason}. Give a folder or s3://bucket/prefix."


class NoSuchBucket(StoreUserError):
    """The bucket does not exist at that endpoint."""

    text = "There is no bucket {place}. Check its name, the endpoint and the region, or create it."


class AccessDenied(StoreUserError):
    """No credentials, wrong ones, or no permission."""

    text = (
        "No permission at {place}: {doing} was refused ({evidence}). "
        "Check the credentials or the owner, what they may do there, and this machine's clock."
    )


class StoreFull(StoreUserError):
    """The disk, bucket or quota is full."""

    text = (
        "No space left at {place}: {evidence}. What was stored before is whole. "
        "Free some (`jade artifacts prune --keep-last N`) or choose another place."
    )


class ArtifactNotFound(StoreUserError):
    """There is no such run, file or pointer."""

    text = "There is no {what} in {place}. {hint}"


class AlreadyPublished(StoreUserError):
    """The run is published as complete, and `paths` of it would change or vanish."""

    text = (
        "The run {run_id} is complete in {place} and differs from this in {paths}. "
        "Nothing was overwritten. Publish under another name, or delete that run first."
    )


class RunProtected(StoreUserError):
    """A pointer stands on the run, so it is not deleted."""

    text = "The run {run_id} in {place} is what {pointers} points to; it was not deleted. Point elsewhere first."


class PreconditionFailed(StoreError):
    """Somebody else wrote, or removed, an object since it was read."""

    text = "Somebody else changed {what} in {place} first. Nothing was overwritten. {evidence}"


class ArtifactCorrupted(StoreError):
    """What is stored is not what the manifest says: `expected` and `found` are digests, or sizes."""

    text = "{path} is damaged: expected {expected}, found {found}. It was not used."


class ManifestCorrupted(StoreError):
    """The manifest is not one, or its content does not fit its own digest."""

    text = (
        "{path} is not a manifest that can be trusted: {reason}. Publish the run again from its folder, or delete it."
    )


class SourceChanged(StoreError):
    """A file changed while it was being published; what had been stored of it is not visible."""

    text = "{path} changed while it was being published: {expected} became {found}. Publish it again."


class StoreRefused(StoreError):
    """The endpoint or the disk refused something for a reason that has no name here."""

    text = "{place} refused {doing}: {evidence}"


class NameRefused(StoreError):
    """A name would escape its folder, is listed twice, or names no plain file."""

    text = "The name {name!r} is refused: {reason}"


class StoreUnavailable(StoreError):
    """No answer, a cut, damage on the way, or a failure on the store's side."""

    is_transient = True
    text = "{place} failed during {doing}: {reason}"
