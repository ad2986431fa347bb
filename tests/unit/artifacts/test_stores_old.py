"""Stores that an earlier version laid out, frozen in tests/data/stores: read, pruned and gone on with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.artifacts.backend import Backend, Records
from tasks.artifacts.leases import claim, holders, sweep
from tasks.artifacts.local import LocalBackend
from tasks.artifacts.store import ArtifactStore
from tasks.artifacts.transfer import publish_files, publish_run, verify
from tests.fakes.s3_server import Bucket, WithBucket

DATA = Path(__file__).parents[2] / "data" / "stores"
WHOLE, BEGUN = "20261122T101500Z-train-a1b2c3", "20261123T101500Z-train-d4e5f6"
KEY = "ab" * 32


class OldStore:
    """Subclasses give the `backend`."""

    def test_what_was_published_is_found_whole(self, backend: Backend) -> None:
        store = ArtifactStore(backend)
        assert store.runs() == (WHOLE, BEGUN)
        assert store.pointers() == {"latest": WHOLE, "champion": WHOLE}
        assert [store.manifest(run).complete for run in (WHOLE, BEGUN)] == [True, False]
        assert [file.path for file in store.manifest(WHOLE).files] == ["crf/history.jsonl", "run.json"]
        assert verify(store, WHOLE) == verify(store, BEGUN) == ()

    def test_it_is_gone_on_with(self, backend: Backend) -> None:
        store, run = ArtifactStore(backend), DATA / "folder" / BEGUN
        assert publish_files(store, run, BEGUN, ["crf/history.jsonl"]).revision == 2
        assert publish_run(store, run, BEGUN, pointer="latest").complete
        store.point("champion", BEGUN)
        store.delete(WHOLE)
        store.sweep(older_than_s=-60)
        assert store.runs() == (BEGUN,)
        assert verify(store, BEGUN) == ()

    def test_its_claims_and_signs_of_life_count(self, backend: Backend) -> None:
        records = Records(backend)
        assert [holder.run_id for holder in holders(records)] == [BEGUN]
        assert claim(records, "another", KEY) is None  # its run is over
        assert sweep(records, older_than_s=-60) == 1


class TestFolder(OldStore):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        shutil.copytree(DATA / "folder", tmp_path / "folder", copy_function=shutil.copyfile)
        return LocalBackend(tmp_path / "folder")


class TestBucket(WithBucket, OldStore):
    @pytest.fixture
    def backend(self, bucket: Bucket) -> Backend:
        for path in (DATA / "bucket").rglob("*"):
            if path.is_file():
                bucket.overwrite(path.relative_to(DATA / "bucket").as_posix(), path.read_bytes())
        return bucket.backend("some/where")
