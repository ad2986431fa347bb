"""Records beside the runs: one contract over both places, and the bad days of a bucket."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.artifacts.backend import Records
from tasks.artifacts.errors import BadStoreAddress, PreconditionFailed, StoreUnavailable
from tasks.artifacts.local import LocalBackend
from tests.fakes.record_contract import NAME, RecordContract
from tests.fakes.s3_faults import Fault, FaultyProxy, Kind, Manner, faulty_proxy
from tests.fakes.s3_server import Bucket, WithBucket, s3_endpoint


class TestLocalRecords(RecordContract):
    @pytest.fixture
    def records(self, tmp_path: Path) -> Records:
        return Records(LocalBackend(tmp_path))

    def test_an_age_is_told_by_the_file_systems_clock(self, records: Records, tmp_path: Path) -> None:
        records.write(NAME, b"one", replaces=None)
        path = tmp_path / ".store" / "records" / NAME
        os.utime(path, (path.stat().st_mtime - 500, path.stat().st_mtime - 500))
        found = records.read(NAME)
        assert found is not None
        assert 499 < records.age_s(found) < 560


class TestS3Records(WithBucket, RecordContract):
    @pytest.fixture
    def records(self, bucket: Bucket) -> Records:
        return Records(bucket.backend())


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultyProxy]:
    with faulty_proxy(s3_endpoint()) as proxy:
        yield proxy


class TestFaults(WithBucket):
    @pytest.fixture
    def records(self, bucket: Bucket, proxy: FaultyProxy) -> Records:
        proxy.faults, proxy.manner = [], "AWS"
        return Records(bucket.backend(endpoint_url=proxy.url))

    @pytest.mark.parametrize("kind", ["answer", "lose answer", "flip upload"])
    def test_a_write_that_is_disturbed_counts_once(self, records: Records, proxy: FaultyProxy, kind: Kind) -> None:
        proxy.faults = [Fault(kind, "PUT", NAME, status=503, code="SlowDown")]
        version = records.write(NAME, b"one", replaces=None)
        proxy.faults = [Fault(kind, "PUT", NAME, status=503, code="SlowDown")]
        version = records.write(NAME, b"two", replaces=version)
        found = records.read(NAME)
        assert found is not None
        assert (found.content, found.version) == (b"two", version)

    @pytest.mark.parametrize("kind", ["answer", "cut answer", "flip answer"])
    def test_a_read_that_is_disturbed_is_read_again(self, records: Records, proxy: FaultyProxy, kind: Kind) -> None:
        records.write(NAME, b"one", replaces=None)
        proxy.faults = [Fault(kind, "GET", NAME, after=1)]
        found = records.read(NAME)
        assert found is not None
        assert found.content == b"one"

    def test_an_endpoint_without_conditional_writes_is_named(self, records: Records, proxy: FaultyProxy) -> None:
        proxy.faults = [Fault("answer", "PUT", NAME, status=501, code="NotImplemented")]
        with pytest.raises(BadStoreAddress, match="it cannot do"):
            records.write(NAME, b"one", replaces=None)

    def test_a_412_on_what_nobody_changed_is_not_taken_for_another_writer(
        self, records: Records, proxy: FaultyProxy
    ) -> None:
        version = records.write(NAME, b"one", replaces=None)
        proxy.faults = [Fault("answer", "PUT", NAME, status=412, code="PreconditionFailed")]
        with pytest.raises(StoreUnavailable, match="although nobody changed"):
            records.write(NAME, b"two", replaces=version)
        assert records.write(NAME, b"two", replaces=version)


class TestWithoutIfMatch(WithBucket, RecordContract):
    """A server, as Swift, that knows `If-None-Match: *` alone."""

    @pytest.fixture
    def records(self, bucket: Bucket, proxy: FaultyProxy) -> Iterator[Records]:
        proxy.faults, proxy.manner = [], "Swift"
        yield Records(bucket.backend(endpoint_url=proxy.url))
        proxy.manner = "AWS"
        assert [key for key in bucket.list_keys() if "/locks/" in key] == []


class TestManners(WithBucket):
    """Servers that make of conditions what others do not."""

    @pytest.fixture
    def records(self, bucket: Bucket, proxy: FaultyProxy, request: pytest.FixtureRequest) -> Iterator[Records]:
        proxy.faults, proxy.manner = [], request.node.callspec.params.get("manner", "Ceph RGW")
        yield Records(bucket.backend(endpoint_url=proxy.url))
        proxy.manner = "AWS"

    @pytest.mark.parametrize("manner", ["Ceph RGW"])
    def test_a_server_that_wants_etags_without_quotation_marks_gets_them(
        self, records: Records, manner: Manner, bucket: Bucket
    ) -> None:
        first = records.write(NAME, b"one", replaces=None)
        second = records.write(NAME, b"two", replaces=first)
        with pytest.raises(PreconditionFailed):
            records.write(NAME, b"three", replaces=first)
        records.remove(NAME, version=second)
        assert bucket.list_keys() == []

    @pytest.mark.parametrize("manner", ["ignores conditions", "ignores If-Match", "refuses If-Match"])
    def test_a_server_without_conditions_is_refused_before_anything_is_kept(
        self, records: Records, manner: Manner, bucket: Bucket, proxy: FaultyProxy
    ) -> None:
        with pytest.raises(BadStoreAddress, match=f"{proxy.url}.*(overwrites an object|very ETag)"):
            records.write(NAME, b"one", replaces=None)
        assert bucket.list_keys() == []
