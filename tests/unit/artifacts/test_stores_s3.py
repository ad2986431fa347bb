from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.artifacts.errors import (
    AccessDenied,
    ArtifactCorrupted,
    BadStoreAddress,
    NoSuchBucket,
    SourceChanged,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from tasks.artifacts.manifest import describe_file
from tasks.artifacts.repository import open_place
from tasks.artifacts.retention import gather_facts, plan_prune, prune
from tasks.artifacts.s3 import S3Backend
from tasks.artifacts.store import ArtifactStore
from tasks.artifacts.transfer import fetch_file, publish_files, publish_run, verify
from tasks.core.errors import RunNotFound
from tasks.core.names import FileEntry
from tasks.settings.models import S3Settings
from tests.fakes.s3_faults import Fault, FaultyProxy, Kind, faulty_proxy
from tests.fakes.s3_server import Bucket, WithBucket, client_for, s3_endpoint
from tests.fakes.store_contract import RUN, WEIGHTS, WithSource, fetch_all, tree

BIG = "crf/big.pt"
BIG_BYTES = 5 * 2**20 + 1000


def add_big_file(folder: Path) -> FileEntry:
    (folder / BIG).write_bytes(os.urandom(BIG_BYTES))
    return describe_file(folder, BIG)


class TestBucket(WithBucket, WithSource):
    def test_content_lies_under_its_digest_and_the_manifest_beside_it(self, bucket: Bucket, source: Path) -> None:
        published = publish_run(bucket.store(), source, RUN, pointer="latest")
        digests = {file.sha256 for file in published.files}
        assert set(bucket.list_keys()) == {
            f"runs/ours/manifests/{RUN}/00000001.json",
            "runs/ours/pointers/latest",
            *(f"runs/ours/blobs/{RUN}/{digest}" for digest in digests),
        }
        assert bucket.content("runs/ours/pointers/latest") == f"{RUN}\n".encode()
        assert len(digests) < len(published.files)  # equal content is stored once

    def test_stores_of_one_bucket_do_not_see_each_other(self, bucket: Bucket, source: Path) -> None:
        stores = [bucket.store(prefix) for prefix in ("", "a", "a/b")]
        for number, store in enumerate(stores):
            publish_files(store, source, f"run{number}", ["run.json"])
            store.point("latest", f"run{number}")
        for number, store in enumerate(stores):
            assert store.runs() == (f"run{number}",)
            assert store.pointers() == {"latest": f"run{number}"}
            assert store.sweep(older_than_s=-2) == 0
        assert all(verify(store, f"run{number}") == () for number, store in enumerate(stores))

    def test_a_large_file_goes_in_parts_and_comes_back(self, bucket: Bucket, source: Path, tmp_path: Path) -> None:
        file = add_big_file(source)
        store = bucket.store()
        assert store.put(RUN, file, source / BIG)
        assert not store.put(RUN, file, source / BIG)
        assert bucket.client.head_object(Bucket=bucket.name, Key=blob(file))["ETag"].endswith('-2"')
        fetch_file(store, RUN, file, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == (source / BIG).read_bytes()
        assert bucket.uploads() == []

    def test_a_large_file_that_changed_leaves_no_upload(self, bucket: Bucket, source: Path) -> None:
        file = add_big_file(source)
        for changed in (b"x" * BIG_BYTES, b"x" * (BIG_BYTES - 1), b"x" * (BIG_BYTES + 1)):
            (source / BIG).write_bytes(changed)
            with pytest.raises(SourceChanged):
                bucket.store().put(RUN, file, source / BIG)
        assert bucket.uploads() == bucket.list_keys() == []

    def test_a_sweep_aborts_uploads_of_dead_writers(self, bucket: Bucket, source: Path) -> None:
        for run in ("dead", "alive"):
            key = f"runs/ours/blobs/{run}/{'0' * 64}"
            started = bucket.client.create_multipart_upload(Bucket=bucket.name, Key=key)
            bucket.client.upload_part(
                Bucket=bucket.name, Key=key, UploadId=started["UploadId"], PartNumber=1, Body=b"x"
            )
        bucket.store().sweep(older_than_s=3600, running=["alive"])
        assert bucket.uploads() == [f"runs/ours/blobs/alive/{'0' * 64}"]

    def test_a_sweep_takes_what_belongs_to_nothing_and_is_old(self, bucket: Bucket, source: Path) -> None:
        store = bucket.store()
        publish_run(store, source, RUN)
        (source / "left").write_bytes(b"x" * 1000)
        store.put("dead", describe_file(source, "left"), source / "left")
        store.put("alive", describe_file(source, "left"), source / "left")
        assert store.sweep(older_than_s=3600) == 0
        # Clocks of stores count whole seconds: -2 makes everything old.
        assert store.sweep(older_than_s=-2, running=["alive"]) == 1000
        assert store.put("dead", describe_file(source, "left"), source / "left")
        assert not store.put("alive", describe_file(source, "left"), source / "left")
        assert verify(store, RUN) == ()

    def test_a_sweep_leaves_to_another_what_that_deletes_meanwhile(self, bucket: Bucket, source: Path) -> None:
        store = bucket.store()
        publish_run(store, source, RUN)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "head", lambda _: None)
            assert store.sweep(older_than_s=-2) == 0
        assert verify(store, RUN) == ()

    def test_a_sweep_takes_what_newer_revisions_replaced(self, bucket: Bucket, source: Path) -> None:
        store = bucket.store()
        for epoch in range(3):
            (source / "resume.pt").write_text(f"{epoch}")
            publish_files(store, source, RUN, ["resume.pt"])
        assert len(bucket.list_keys()) == 6
        assert store.sweep(older_than_s=3600) == 0
        assert store.sweep(older_than_s=-2) > 2
        assert len(bucket.list_keys()) == 2
        assert store.manifest(RUN).revision == 3
        assert verify(store, RUN) == ()

    def test_no_such_bucket(self, bucket: Bucket, source: Path) -> None:
        store = ArtifactStore(S3Backend("s3://not-there", bucket.settings, client_for(bucket.settings)))
        file = describe_file(source, "run.json")
        for action in (store.runs, store.pointers, lambda: store.put(RUN, file, source / "run.json")):
            with pytest.raises(NoSuchBucket, match=r"not-there \(http://127") as caught:
                action()
            assert caught.value.exit_code == 2

    def test_no_credentials(self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        with pytest.raises(AccessDenied, match="credentials"):
            S3Backend(f"s3://{bucket.name}", bucket.settings).now()

    def test_no_such_profile(self, bucket: Bucket) -> None:
        with pytest.raises(AccessDenied, match="nobody"):
            S3Backend(f"s3://{bucket.name}", S3Settings(profile="nobody"))

    @pytest.mark.parametrize(
        ("profile", "limit_s", "message"),
        [
            ("credential_process = sleep 60", 0.5, r"no credentials came within 0\.5 s.*credential_process"),
            ("credential_process = sh -c 'echo the vault is locked >&2; exit 3'", 60, "the vault is locked"),
            ("credential_process = echo nonsense", 60, "getting credentials"),
            ("sso_start_url = https://x\nsso_region = us-east-1\nsso_account_id = 1\nsso_role_name = r", 60, "SSO"),
        ],
    )
    def test_credentials_that_do_not_come_are_named_at_once(
        self,
        profile: str,
        limit_s: float,
        message: str,
        bucket: Bucket,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        (tmp_path / "config").write_text(f"[default]\n{profile}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        began = time.monotonic()
        settings = replace(bucket.settings, credentials_timeout_s=limit_s)
        with pytest.raises(AccessDenied, match=message):
            S3Backend(f"s3://{bucket.name}", settings).now()
        assert time.monotonic() - began < 50

    def test_credentials_that_are_to_be_renewed_may_not_hang_either(
        self, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        soon = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
        told = {"Version": 1, "AccessKeyId": "test", "SecretAccessKey": "test", "Expiration": soon}
        script = tmp_path / "credentials.sh"
        once = tmp_path / "asked"
        script.write_text(f"test -e {once} && exec sleep 60; touch {once}; echo '{json.dumps(told)}'")
        (tmp_path / "config").write_text(f"[default]\ncredential_process = sh {script}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        backend = S3Backend(f"s3://{bucket.name}", replace(bucket.settings, credentials_timeout_s=3))
        with pytest.raises(AccessDenied, match="no credentials came within"):
            backend.now()

    def test_a_bucket_that_keeps_versions_is_told_of(self, bucket: Bucket, source: Path) -> None:
        for is_versioned in (False, True):
            if is_versioned:
                bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
            store = bucket.store()
            publish_files(store, source, RUN, ["run.json"])
            plan = plan_prune(gather_facts(store, lambda _: False), keep_last=0, now=datetime.now(UTC))
            assert prune(store, plan, lambda _: False).versions_remain == is_versioned

    def test_nobody_listens(self, bucket: Bucket) -> None:
        store = bucket.store(endpoint_url="http://127.0.0.1:9", attempts=3)
        with pytest.raises(StoreUnavailable, match=r"http://127.0.0.1:9.* given up after .* EndpointConnectionError"):
            store.runs()


def blob(file: FileEntry) -> str:
    return f"runs/ours/blobs/{RUN}/{file.sha256}"


@pytest.fixture(scope="module")
def shared_proxy() -> Iterator[FaultyProxy]:
    with faulty_proxy(s3_endpoint()) as proxy:
        yield proxy


class TestFaults(WithBucket, WithSource):
    """Each fault of wire or endpoint: nothing lost, nothing half-written, and the message says what happened."""

    @pytest.fixture
    def proxy(self, shared_proxy: FaultyProxy) -> FaultyProxy:
        shared_proxy.faults, shared_proxy.requests, shared_proxy.manner = [], [], "AWS"
        return shared_proxy

    @pytest.fixture
    def store(self, bucket: Bucket, proxy: FaultyProxy) -> ArtifactStore:
        return bucket.store(endpoint_url=proxy.url)

    @pytest.mark.parametrize("kind", ["answer", "reset upload", "lose answer", "cut answer", "flip upload"])
    def test_a_passing_fault_during_any_request_is_overcome(
        self, kind: Kind, store: ArtifactStore, proxy: FaultyProxy, bucket: Bucket, source: Path, tmp_path: Path
    ) -> None:
        add_big_file(source)
        proxy.faults = [
            Fault(kind, method, where)
            for method, where in (
                ("PUT", "/blobs/"),
                ("PUT", "partNumber=2"),
                ("POST", "uploadId="),
                ("PUT", "/manifests/"),
                ("PUT", "/pointers/"),
                ("GET", "list-type=2"),
                ("GET", "/manifests/"),
                ("GET", "/blobs/"),
            )
            if kind != "flip upload" or ("/blobs/" in where and method == "PUT") or "partNumber" in where
        ]
        if kind == "cut answer":
            proxy.faults = [fault for fault in proxy.faults if fault.method == "GET"]
        publish_run(store, source, RUN, pointer="latest")
        assert verify(store, RUN) == ()
        fetch_all(store, store.manifest(RUN), tmp_path / "back")
        assert tree(tmp_path / "back") == tree(source)
        assert store.pointers() == {"latest": RUN}
        assert store.manifest(RUN).revision == 1
        assert bucket.uploads() == []
        assert [fault for fault in proxy.faults if fault.times] == []

    def test_500_for_good_is_reported_with_attempts_and_leaves_nothing(
        self, store: ArtifactStore, proxy: FaultyProxy, bucket: Bucket, source: Path
    ) -> None:
        proxy.faults = [Fault("answer", "PUT", "/blobs/", 99)]
        with pytest.raises(StoreUnavailable, match=r"storing .* given up after .*HTTP 500 InternalError") as caught:
            store.put(RUN, describe_file(source, "run.json"), source / "run.json")
        assert caught.value.is_transient
        assert proxy.count("PUT") == 8
        assert bucket.list_keys() == []

    def test_a_failed_upload_in_parts_is_aborted(
        self, store: ArtifactStore, proxy: FaultyProxy, bucket: Bucket, source: Path
    ) -> None:
        file = add_big_file(source)
        for fault in (
            Fault("answer", "PUT", "partNumber=1", 99, 503, "SlowDown"),
            Fault("reset upload", "PUT", "partNumber=2", 99, after=100),
            Fault("flip upload", "PUT", "partNumber=1", 99),
            Fault("answer", "POST", "uploadId=", 99),
        ):
            proxy.faults = [fault]
            with pytest.raises(StoreUnavailable, match=BIG):
                store.put(RUN, file, source / BIG)
            assert bucket.uploads() == bucket.list_keys() == []

    def test_an_upload_whose_beginning_was_never_answered_is_begun_again_and_swept(
        self, store: ArtifactStore, proxy: FaultyProxy, bucket: Bucket, source: Path
    ) -> None:
        file = add_big_file(source)
        proxy.faults = [Fault("lose answer", "POST", "?uploads")]
        assert store.put(RUN, file, source / BIG)
        assert bucket.content(blob(file)) == (source / BIG).read_bytes()
        assert bucket.uploads() == [blob(file)]  # nobody knows its name
        store.sweep(older_than_s=3600)  # to the endpoint's stand-in, each upload is years old
        assert bucket.uploads() == []
        assert bucket.list_keys() == [blob(file)]

    def test_a_completion_whose_answer_is_lost_counts(
        self, store: ArtifactStore, proxy: FaultyProxy, bucket: Bucket, source: Path
    ) -> None:
        file = add_big_file(source)
        proxy.faults = [
            Fault("lose answer", "POST", "uploadId="),
            Fault("answer", "POST", "uploadId=", 1, 404, "NoSuchUpload"),
        ]
        assert store.put(RUN, file, source / BIG)
        assert bucket.content(blob(file)) == (source / BIG).read_bytes()

    def test_a_commit_whose_answer_is_lost_is_not_taken_for_another_writer(
        self, store: ArtifactStore, proxy: FaultyProxy, bucket: Bucket, source: Path
    ) -> None:
        proxy.faults = [Fault("lose answer", "PUT", "/manifests/")]
        assert publish_run(store, source, RUN) == store.manifest(RUN)
        assert proxy.count(f"PUT /{bucket.name}/runs/ours/manifests/") == 2

    def test_a_cut_download_asks_for_the_rest_alone(
        self, store: ArtifactStore, proxy: FaultyProxy, bucket: Bucket, source: Path, tmp_path: Path
    ) -> None:
        file = add_big_file(source)
        bucket.store().put(RUN, file, source / BIG)
        proxy.faults = [Fault("cut answer", "GET", "/blobs/", 2, after=2 * 2**20 + 5)]
        proxy.bytes_answered = 0
        fetch_file(store, RUN, file, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == (source / BIG).read_bytes()
        assert (proxy.count("GET"), proxy.bytes_answered) == (3, file.size)

    def test_a_download_that_is_cut_for_good_leaves_no_file(
        self, store: ArtifactStore, proxy: FaultyProxy, bucket: Bucket, source: Path, tmp_path: Path
    ) -> None:
        publish_run(bucket.store(), source, RUN)
        proxy.faults = [Fault("cut answer", "GET", "/blobs/", 99, after=10)]
        (tmp_path / "into").mkdir()
        with pytest.raises(StoreUnavailable, match=r"reading .* bytes|IncompleteRead"):
            fetch_all(store, store.manifest(RUN), tmp_path / "into")
        assert tree(tmp_path / "into") == {}
        with pytest.raises(StoreUnavailable):
            verify(store, RUN)  # that the store cannot be asked says nothing about the run

    def test_a_server_that_stalls_is_given_up_in_time(
        self, bucket: Bucket, proxy: FaultyProxy, source: Path, tmp_path: Path
    ) -> None:
        file = publish_run(bucket.store(), source, RUN).file(WEIGHTS)
        assert file is not None
        store = bucket.store(endpoint_url=proxy.url, read_timeout_s=0.1, attempts=2)
        proxy.faults = [Fault("stall answer", "GET", "/blobs/", 99, after=1000)]
        with pytest.raises(StoreUnavailable, match=r"no byte came for 0\.1 s"):
            fetch_file(store, RUN, file, tmp_path / "back")
        assert list(tmp_path.glob("back*")) == []

    def test_a_server_that_crawls_is_given_up_in_time(
        self, bucket: Bucket, proxy: FaultyProxy, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = add_big_file(source)
        bucket.store().put(RUN, file, source / BIG)
        store = bucket.store(endpoint_url=proxy.url)
        monkeypatch.setattr("tasks.artifacts.store.READ_ATTEMPTS", 1)
        clock = itertools.count(0, 100)  # each piece comes within the read limit, all of them too late
        monkeypatch.setattr("tasks.artifacts.s3.time", SimpleNamespace(monotonic=lambda: next(clock)))
        with pytest.raises(StoreUnavailable, match=r"only \d+ bytes came in 220 s"):
            fetch_file(store, RUN, file, tmp_path / "back")
        assert list(tmp_path.glob("back*")) == []

    def test_a_byte_that_flips_on_the_way_is_read_again(
        self, store: ArtifactStore, proxy: FaultyProxy, bucket: Bucket, source: Path, tmp_path: Path
    ) -> None:
        file = publish_run(bucket.store(), source, RUN).file(WEIGHTS)
        assert file is not None
        proxy.faults = [Fault("flip answer", "GET", file.sha256)]
        fetch_file(store, RUN, file, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == (source / WEIGHTS).read_bytes()
        proxy.faults = [Fault("flip answer", "GET", file.sha256)]
        assert verify(store, RUN) == ()
        proxy.faults = [Fault("flip answer", "GET", file.sha256, 99)]
        with pytest.raises(ArtifactCorrupted, match=f"expected {file.sha256}, found"):
            fetch_file(store, RUN, file, tmp_path / "again")
        assert not (tmp_path / "again").exists()

    def test_a_server_that_tells_another_checksum_has_not_stored_it(
        self, store: ArtifactStore, proxy: FaultyProxy, bucket: Bucket, source: Path
    ) -> None:
        file = describe_file(source, WEIGHTS)
        proxy.faults = [Fault("wrong checksum", "PUT", "/blobs/")]
        assert store.put(RUN, file, source / WEIGHTS)
        assert bucket.content(blob(file)) == (source / WEIGHTS).read_bytes()
        proxy.faults = [Fault("wrong checksum", "PUT", "/blobs/", 99)]
        with pytest.raises(StoreUnavailable, match="checksum AAAA"):
            store.put("other", file, source / WEIGHTS)
        assert bucket.list_keys() == [blob(file)]

    def test_what_is_stored_and_provably_damaged_is_stored_again(
        self, store: ArtifactStore, proxy: FaultyProxy, bucket: Bucket, source: Path
    ) -> None:
        file = describe_file(source, WEIGHTS)
        bucket.overwrite(blob(file), b"X" * file.size)
        proxy.faults = [Fault("wrong checksum", "HEAD", "/blobs/"), Fault("answer", "PUT", "/blobs/", 99)]
        with pytest.raises(StoreUnavailable):
            store.put(RUN, file, source / WEIGHTS)
        assert bucket.list_keys() == [blob(file)]  # nothing is removed before there is something better
        proxy.faults = [Fault("wrong checksum", "HEAD", "/blobs/")]
        assert store.put(RUN, file, source / WEIGHTS)
        assert bucket.content(blob(file)) == (source / WEIGHTS).read_bytes()

    @pytest.mark.parametrize(
        ("status", "code", "kind", "message"),
        [
            (403, "AccessDenied", AccessDenied, r"storing .* refused \(HTTP 403 AccessDenied: made up\)"),
            (403, "SignatureDoesNotMatch", AccessDenied, "Check the credentials"),
            (403, "RequestTimeTooSkewed", AccessDenied, "clock"),
            (400, "ExpiredToken", AccessDenied, "ExpiredToken"),
            (404, "NoSuchBucket", NoSuchBucket, "There is no bucket"),
            (507, "XMinioStorageFull", StoreFull, "What was stored before is whole"),
            (501, "NotImplemented", BadStoreAddress, "cannot do storing"),
            (301, "PermanentRedirect", BadStoreAddress, "region or endpoint"),
            (400, "EntityTooLarge", StoreRefused, "EntityTooLarge"),
        ],
    )
    def test_a_refusal_is_not_tried_again(
        self,
        status: int,
        code: str,
        kind: type[Exception],
        message: str,
        store: ArtifactStore,
        proxy: FaultyProxy,
        bucket: Bucket,
        source: Path,
    ) -> None:
        proxy.faults = [Fault("answer", "PUT", "/blobs/", 99, status, code)]
        with pytest.raises(kind, match=message):
            store.put(RUN, describe_file(source, "run.json"), source / "run.json")
        # boto3 itself asks once more where a redirection sends it to another region.
        assert proxy.count("PUT") == (2 if status == 301 else 1)
        assert bucket.list_keys() == []

    def test_no_permission_to_look_is_no_empty_store(
        self, store: ArtifactStore, proxy: FaultyProxy, source: Path
    ) -> None:
        proxy.faults = [Fault("answer", method, "", 99, 403, "AccessDenied") for method in ("GET", "HEAD")]
        for action in (
            store.runs,
            store.pointers,
            lambda: store.manifest(RUN),
            lambda: store.delete(RUN),
            lambda: store.put(RUN, describe_file(source, "run.json"), source / "run.json"),
        ):
            with pytest.raises(AccessDenied):
                action()

    def test_a_server_that_wants_its_own_checksum_with_many_deletions_is_pruned(
        self, store: ArtifactStore, proxy: FaultyProxy, bucket: Bucket, source: Path
    ) -> None:
        publish_run(store, source, RUN)
        proxy.manner = "Swift"
        store.delete(RUN)
        assert bucket.list_keys() == []

    def test_something_that_is_no_s3(self, store: ArtifactStore, proxy: FaultyProxy) -> None:
        proxy.faults = [Fault("answer", "GET", "", 99, 404, "Not Found")]
        with pytest.raises(BadStoreAddress, match="no S3 answers there"):
            store.runs()

    def test_a_sweep_leaves_young_uploads_alone(self, store: ArtifactStore, proxy: FaultyProxy) -> None:
        # moto gives every upload the same date, long ago.
        listing = (
            "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated><Upload><Key>runs/ours/blobs/{run}/0</Key>"
            "<UploadId>{age}</UploadId><Initiated>{at}</Initiated></Upload></ListMultipartUploadsResult>"
        )
        for age_s, aborts in ((3500, 0), (3700, 1)):
            at = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
            body = listing.format(run=RUN, age=age_s, at=at).encode()
            proxy.faults = [Fault("answer", "GET", "uploads", status=200, body=body)]
            store.sweep(older_than_s=3600)
            assert proxy.count("DELETE") == aborts

    def test_a_delete_that_is_cut_leaves_a_whole_run_or_none(
        self, store: ArtifactStore, proxy: FaultyProxy, bucket: Bucket, source: Path
    ) -> None:
        for number in range(3):
            (source / "resume.pt").write_text(f"{number}")
            publish_files(bucket.store(), source, RUN, ["resume.pt", "run.json"])
        seen = []
        for _ in range(9):
            proxy.faults = [Fault("answer", "DELETE", "", 99, skip=1)]
            try:
                store.delete(RUN)
                break
            except StoreUnavailable:
                seen.append(store.runs())
                if store.runs():
                    assert store.manifest(RUN).revision == 3
                    assert verify(store, RUN) == ()
        assert seen == sorted(seen, reverse=True)
        assert {(RUN,), ()} == set(seen)
        proxy.faults = []
        store.delete(RUN)
        assert bucket.list_keys() == []

    def test_two_writers_of_one_large_file_both_end_well(self, bucket: Bucket, source: Path) -> None:
        file = add_big_file(source)
        errors: list[BaseException] = []

        def put() -> None:
            try:
                bucket.store().put(RUN, file, source / BIG)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=put) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert bucket.content(blob(file)) == (source / BIG).read_bytes()
        assert bucket.uploads() == []


class TestAddress:
    @pytest.mark.parametrize(
        "address",
        ["s3://", "s3://B", "s3://bucket/../up", "s3://bucket//a", "gs://bucket", "s3://bucket/a\nb", "s3:/bucket"],
    )
    def test_what_is_no_bucket_is_refused(self, address: str) -> None:
        with pytest.raises(BadStoreAddress, match="no place for artifacts"):
            open_place(address)

    def test_a_run_is_found_by_name_pointer_or_beginning(self, tmp_path: Path) -> None:
        (tmp_path / "source").mkdir()
        (tmp_path / "source/run.json").write_text("{}")
        place = open_place(tmp_path / "store")
        with pytest.raises(RunNotFound, match="the newest there: none"):
            place.find("latest")
        for name in ("run1", "run10", "other"):
            publish_run(place.store, tmp_path / "source", name, pointer="latest")
        assert [place.find(name) for name in ("run1", "run10", "o", "latest")] == ["run1", "run10", "other", "other"]
        with pytest.raises(RunNotFound, match="2 runs called 'run'"):
            place.find("run")

    def test_settings_are_checked(self) -> None:
        with pytest.raises(ValueError, match="endpoint URL"):
            S3Settings("localhost:9000")
        for wrong in ({"attempts": 0}, {"part_bytes": 1}, {"read_timeout_s": 0.0}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                S3Settings(**wrong)
