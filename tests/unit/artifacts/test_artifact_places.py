"""A place for runs: the same over a folder and a bucket; what is published there is found from another machine."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jade_model.core.job import load_job
from jade_model.core.training_files import files_of, is_done
from tasks.artifacts.errors import AccessDenied, BadStoreAddress, NoSuchBucket, StoreRefused
from tasks.artifacts.repository import ArtifactPlace, fetch_path, locate_run, open_place, open_run
from tasks.artifacts.training_cache import KeptTrainings, Mirror
from tasks.artifacts.transfer import verify
from tasks.core.errors import RunNotFound
from tasks.core.layout import RunLayout
from tasks.runs.record import read_run_record, recorded_run
from tests.fakes.s3_faults import Fault, faulty_proxy
from tests.fakes.s3_server import Bucket, WithBucket, client_for, s3_endpoint

Another = Callable[[], ArtifactPlace]


def copy_run(source: RunLayout, target: RunLayout) -> None:
    """Fill a run's folder with what a finished comparison left, but for what names it and for figures."""
    for path in source.root.iterdir():
        if path.name not in {"run.json", "manifest.json"}:
            if path.is_dir():
                shutil.copytree(
                    path, target.root / path.name, ignore=shutil.ignore_patterns("*.png"), dirs_exist_ok=True
                )
            else:
                shutil.copy2(path, target.root / path.name)


class PlaceContract:
    """Subclasses give `place`, and `another`: the same place as another machine sees it."""

    def run_in(self, place: ArtifactPlace, small_run: RunLayout) -> RunLayout:
        with recorded_run(place, "compare", {"epochs": 2}) as run:
            assert place.is_running(run.layout.run_id)
            copy_run(small_run, run.layout)
        assert not place.is_running(run.layout.run_id)
        return run.layout

    def test_a_finished_run_is_published_whole_and_is_the_latest(
        self, place: ArtifactPlace, another: Another, small_run: RunLayout
    ) -> None:
        layout = self.run_in(place, small_run)
        there = another()
        assert there.store.manifest(layout.run_id).complete
        assert verify(there.store, layout.run_id) == ()
        assert there.store.pointers() == {"latest": layout.run_id}
        found = there.find_run("latest")
        assert read_run_record(found)["state"] == "completed"
        assert found.comparison_json.read_bytes() == small_run.comparison_json.read_bytes()
        assert there.find_run(layout.run_id[:9]).run_id == layout.run_id
        with pytest.raises(RunNotFound):
            there.find_run("2020")

    def test_a_failed_run_says_why_and_latest_stays(
        self, place: ArtifactPlace, another: Another, small_run: RunLayout
    ) -> None:
        good = self.run_in(place, small_run)
        with pytest.raises(RuntimeError), recorded_run(place, "compare", {}) as run:
            raise RuntimeError("the roof is on fire")
        there = another()
        assert there.store.pointers() == {"latest": good.run_id}
        assert not there.store.manifest(run.layout.run_id).complete
        failed = there.find_run(run.layout.run_id)
        assert json.loads(failed.failed_json.read_text())["message"] == "the roof is on fire"
        states = {fact.run_id: (fact.is_complete, fact.is_running) for fact in there.facts()}
        assert states == {good.run_id: (True, False), run.layout.run_id: (False, False)}

    def test_a_report_that_is_written_again_is_published(
        self, place: ArtifactPlace, another: Another, small_run: RunLayout
    ) -> None:
        layout = self.run_in(place, small_run)
        there = another()
        copy = there.find_run("latest")
        (copy.report / "left_over.svg").write_text("from an older version")
        there.publish_report(copy)
        (copy.report / "left_over.svg").unlink()
        (copy.report / "index.html").write_text("by a newer version")
        there.publish_report(copy)
        assert verify(place.store, layout.run_id) == ()
        assert (another().find_run("latest").report / "index.html").read_text() == "by a newer version"
        assert place.store.manifest(layout.run_id).file("report/left_over.svg") is None
        assert place.store.manifest(layout.run_id).complete

    def test_a_training_is_found_by_its_run_key(
        self, place: ArtifactPlace, another: Another, small_run: RunLayout
    ) -> None:
        trainings = load_job(small_run.job_json).trainings
        with recorded_run(place, "train", {}) as run:
            copy_run(small_run, run.layout)
            mirror = Mirror(KeptTrainings(place), run.layout)
            for training in trainings:
                mirror.publish(training, at_once=True)
            mirror.close()
            there = another()
            kept = KeptTrainings(there)
            new = there.layout("new")
            assert all(kept.is_finished(training) for training in trainings)
            assert all(kept.take_over(training, new) for training in trainings)
            assert all(is_done(training, files_of(training, new.root)) for training in trainings)
        unknown = replace(trainings[0], run_key="0" * 64)
        assert not kept.is_finished(unknown)
        assert not kept.take_over(unknown, new)

    def test_a_checkpoint_counts_once_it_is_published_and_yields_to_the_finished_training(
        self, place: ArtifactPlace, another: Another, small_run: RunLayout
    ) -> None:
        training = load_job(small_run.job_json).trainings[0]
        kept = KeptTrainings(place)
        with recorded_run(place, "train", {}) as run:
            files = files_of(training, run.layout.root)
            assert not kept.remember(training, run.layout)
            begin_training(small_run, run.layout, b"half")
            assert kept.remember(training, run.layout)
            there = KeptTrainings(another())
            assert not there.is_finished(training)
            assert there.take_over(training, another().layout("new"))
            assert files_of(training, another().layout("new").root).resume.read_bytes() == b"half"
            files.resume.unlink()
            copy_run(small_run, run.layout)
            assert kept.remember(training, run.layout)
            assert there.is_finished(training)
        with recorded_run(place, "train", {}) as later:
            begin_training(small_run, later.layout, b"late")
            kept.remember(training, later.layout)
        assert there.take_over(training, another().layout("newer"))
        assert is_done(training, files_of(training, another().layout("newer").root))

    def test_an_index_that_names_what_is_gone_finds_nothing(
        self, place: ArtifactPlace, another: Another, small_run: RunLayout
    ) -> None:
        training = load_job(small_run.job_json).trainings[0]
        layout = self.run_in(place, small_run)
        assert KeptTrainings(place).remember(training, layout)
        with recorded_run(place, "train", {}):
            pass
        place.store.delete(layout.run_id)
        kept = KeptTrainings(another())
        assert not kept.is_finished(training)
        assert not kept.take_over(training, another().layout("new"))

    def test_a_model_is_named_by_run_and_path(
        self, place: ArtifactPlace, another: Another, small_run: RunLayout
    ) -> None:
        layout = self.run_in(place, small_run)
        address = another().address
        assert open_run(f"{address}/{layout.run_id}", None)[1].run_id == layout.run_id
        assert locate_run("latest", address)[1] == layout.run_id
        found = fetch_path("latest/crf", address)
        assert (found / "decoding.json").is_file()
        whole = fetch_path(f"{address}/{layout.run_id}/crf/checkpoint_crf_2.pt", None)
        assert whole.read_bytes() == (small_run.root / "crf" / "checkpoint_crf_2.pt").read_bytes()
        for wrong in ("latest/nothing", "../up/crf", "latest/../../up", "nobody/crf", f"{address}/{layout.run_id}/no"):
            with pytest.raises(RunNotFound):
                fetch_path(wrong, address)


def begin_training(source: RunLayout, target: RunLayout, weights: bytes) -> None:
    """Let the first training look as if it had got to its second checkpoint."""
    import hashlib

    training = load_job(source.job_json).trainings[0]
    files = files_of(training, target.root)
    files.folder.mkdir(parents=True)
    files.resume.write_bytes(weights)
    entry = {"path": files.resume.name, "size": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    told: dict[str, Any] = {"run_key": training.run_key, "epoch": 1, "complete": False, "files": [entry]}
    files.manifest.write_text(json.dumps(told))


class TestFolder(PlaceContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> ArtifactPlace:
        return open_place(tmp_path / "artifacts")

    @pytest.fixture
    def another(self, tmp_path: Path) -> Another:
        return lambda: open_place(tmp_path / "artifacts")

    def test_an_entry_that_leads_out_of_the_artifacts_is_ignored(
        self, place: ArtifactPlace, tmp_path: Path, small_run: RunLayout
    ) -> None:
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "manifest.json").write_text("{}")
        training = load_job(small_run.job_json).trainings[0]
        (place.folder / ".trainings").mkdir(parents=True)
        (place.folder / ".trainings" / training.run_key).write_text("../outside\n")
        assert not KeptTrainings(place).take_over(training, place.layout("new"))

    def test_what_was_never_published_is_listed_all_the_same(self, place: ArtifactPlace) -> None:
        left = place.layout("20260101T000000Z-compare-aaaaaa")
        left.root.mkdir(parents=True)
        left.run_json.write_text("{}")
        (fact,) = place.facts()
        assert (fact.run_id, fact.is_complete, fact.size) == (left.run_id, False, 2)


class TestBucket(WithBucket, PlaceContract):
    @pytest.fixture(autouse=True)
    def settings(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("JADE_S3_ENDPOINT_URL", s3_endpoint())
        monkeypatch.setenv("JADE_S3_REGION", "us-east-1")
        monkeypatch.setenv("JADE_CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.setattr("tasks.artifacts.s3.connect", client_for)

    @pytest.fixture
    def place(self, bucket: Bucket) -> ArtifactPlace:
        return open_place(f"s3://{bucket.name}/some/where")

    @pytest.fixture
    def another(self, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: ArtifactPlace) -> Another:
        monkeypatch.setenv("JADE_CACHE_DIR", str(tmp_path / "another"))
        return lambda: open_place(place.address)

    def test_a_working_copy_becomes_what_is_published(self, place: ArtifactPlace, small_run: RunLayout) -> None:
        layout = self.run_in(place, small_run)
        layout.comparison_json.write_text("damaged")
        shutil.rmtree(layout.report)
        assert place.find_run("latest").comparison_json.read_bytes() == small_run.comparison_json.read_bytes()
        assert (layout.report / "index.html").is_file()
        place.store.point("latest", self.run_in(place, small_run).run_id)
        place.prune(keep_last=1, keep_days=None)
        assert not layout.root.exists()

    def test_a_working_copy_that_cannot_be_written_is_the_stores_error(
        self, place: ArtifactPlace, small_run: RunLayout
    ) -> None:
        layout = self.run_in(place, small_run)
        (layout.root / "manifest.json").unlink(missing_ok=True)
        (layout.root / "manifest.json").mkdir()
        with pytest.raises(StoreRefused, match=r"writing manifest\.json.*directory"):
            place.find_run("latest")

    def test_only_what_is_asked_for_is_fetched(
        self, place: ArtifactPlace, another: Another, small_run: RunLayout
    ) -> None:
        layout = self.run_in(place, small_run)
        fetch_path(f"{layout.run_id}/crf", place.address)
        fetched = another().layout(layout.run_id).root
        assert [path.name for path in fetched.iterdir()] == ["crf"]

    def test_trainings_that_could_not_be_published_are_taken_from_the_working_copy(
        self, place: ArtifactPlace, small_run: RunLayout, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trainings = load_job(small_run.job_json).trainings

        def lose_the_key_at_the_end() -> None:
            with recorded_run(cut, "compare", {}) as run:
                copy_run(small_run, run.layout)
                proxy.faults = [Fault("answer", "PUT", "/blobs/", 999, 403, "ExpiredToken")]
                mirror = Mirror(KeptTrainings(cut), run.layout)
                for training in trainings:
                    mirror.publish(training, at_once=True)
                mirror.close()

        with faulty_proxy(s3_endpoint()) as proxy:
            monkeypatch.setenv("JADE_S3_ENDPOINT_URL", proxy.url)
            cut = replace(open_place(place.address), folder=place.folder)
            with pytest.raises(AccessDenied, match=f"lies in {place.folder}.*same command"):
                lose_the_key_at_the_end()
        monkeypatch.setenv("JADE_S3_ENDPOINT_URL", s3_endpoint())
        kept = KeptTrainings(place)
        new = place.layout("20260101T000000Z-compare-aaaaaa")
        for training in trainings:
            assert kept.is_finished(training)
            assert kept.take_over(training, new)
            assert is_done(training, files_of(training, new.root))
        # And from then on others find them.
        monkeypatch.setenv("JADE_CACHE_DIR", str(place.folder / "another"))
        elsewhere = KeptTrainings(open_place(place.address))
        assert all(elsewhere.is_finished(training) for training in trainings)

    def test_a_damaged_working_copy_is_no_finished_training(self, place: ArtifactPlace, small_run: RunLayout) -> None:
        training = load_job(small_run.job_json).trainings[0]
        layout = place.layout("20260101T000000Z-compare-aaaaaa")
        layout.root.mkdir(parents=True)
        copy_run(small_run, layout)
        kept = KeptTrainings(place)
        kept.remember(training, layout)
        place.store.delete(layout.run_id)
        assert kept.is_finished(training)
        files_of(training, layout.root).last.write_bytes(b"damaged")
        assert not kept.is_finished(training)

    def test_nothing_begins_where_nothing_can_be_kept(self, bucket: Bucket, tmp_path: Path) -> None:
        place = open_place("s3://no-such-bucket-anywhere/x")
        with pytest.raises(NoSuchBucket), recorded_run(place, "compare", {}):
            raise AssertionError
        assert not place.folder.exists()

    def test_an_address_that_is_none_is_refused(self) -> None:
        with pytest.raises(BadStoreAddress, match="gs:// is not supported"):
            open_place("gs://bucket/x")
        with pytest.raises(BadStoreAddress, match="'' is not a bucket's name"):
            open_place("s3://")
        with pytest.raises(RunNotFound, match="names no run"):
            fetch_path("s3://bucket/prefix/latest/crf", None)


def test_a_disk_that_is_full_for_a_while_ends_no_publishing(small_run: RunLayout, tmp_path: Path) -> None:
    first, second = load_job(small_run.job_json).trainings[:2]
    notes: list[str] = []
    place = open_place(tmp_path / "artifacts")
    kept = KeptTrainings(place)
    layout = place.layout("20260101T000000Z-compare-aaaaaa")
    copy_run(small_run, layout)
    (place.folder / ".trainings").write_text("no folder, so that nothing can be written below it")
    mirror = Mirror(kept, layout, notes.append)
    mirror.publish(first, at_once=True)
    while not notes:
        time.sleep(0.01)
    (place.folder / ".trainings").unlink()
    mirror.publish(second, at_once=True)
    mirror.close()
    assert notes[0].startswith(f"{first.title}: not published yet: ")
    assert (kept.is_finished(first), kept.is_finished(second)) == (False, True)


def test_the_settings_say_where_runs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_place().folder == tmp_path / "artifacts"
    (tmp_path / "jade.toml").write_text('artifacts = "elsewhere"\n')
    assert open_place().folder == tmp_path / "elsewhere"
    monkeypatch.setenv("JADE_ARTIFACTS", str(tmp_path / "by-environment"))
    assert open_place().folder == tmp_path / "by-environment"
    assert open_place("flag").folder == tmp_path / "flag"
    assert os.environ["JADE_ARTIFACTS"]
