from __future__ import annotations

from pathlib import Path

import pytest

from tasks.artifacts.local import LocalBackend
from tasks.artifacts.store import ArtifactStore
from tasks.core.names import FileEntry
from tests.fakes.s3_server import Bucket, WithBucket
from tests.fakes.store_contract import Damage, DamageManifest, SeamContract, TransferContract


class TestLocalStore(SeamContract, TransferContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ArtifactStore:
        return ArtifactStore(LocalBackend(tmp_path / "store"))

    @pytest.fixture
    def damage(self, tmp_path: Path) -> Damage:
        def replace(run_id: str, file: FileEntry, data: bytes | None) -> None:
            path = tmp_path / "store" / run_id / file.path
            path.unlink() if data is None else path.write_bytes(data)

        return replace

    @pytest.fixture
    def damage_manifest(self, tmp_path: Path) -> DamageManifest:
        def replace(run_id: str, data: bytes) -> None:
            (tmp_path / "store" / run_id / "manifest.json").write_bytes(data)

        return replace


class TestS3Store(WithBucket, SeamContract, TransferContract):
    @pytest.fixture
    def store(self, bucket: Bucket) -> ArtifactStore:
        return bucket.store()

    @pytest.fixture
    def damage(self, bucket: Bucket) -> Damage:
        def replace(run_id: str, file: FileEntry, data: bytes | None) -> None:
            key = f"runs/ours/blobs/{run_id}/{file.sha256}"
            if data is None:
                bucket.client.delete_object(Bucket=bucket.name, Key=key)
            else:
                bucket.overwrite(key, data)

        return replace

    @pytest.fixture
    def damage_manifest(self, bucket: Bucket) -> DamageManifest:
        def replace(run_id: str, data: bytes) -> None:
            newest = max(key for key in bucket.list_keys() if f"/manifests/{run_id}/" in key)
            bucket.overwrite(newest, data)

        return replace
