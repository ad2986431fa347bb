"""What every store must do, whatever is behind it: subclasses give the `store` and ways to damage what it holds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.artifacts.errors import (
    AlreadyPublished,
    ArtifactCorrupted,
    ArtifactNotFound,
    ManifestCorrupted,
    NameRefused,
    PreconditionFailed,
    RunProtected,
    SourceChanged,
)
from tasks.artifacts.manifest import MANIFEST_NAME, Manifest, describe_file, describe_folder
from tasks.artifacts.retention import gather_facts, plan_prune, prune
from tasks.artifacts.store import ArtifactStore
from tasks.artifacts.transfer import fetch_file, publish_files, publish_run, verify
from tasks.core.names import FileEntry

RUN = "20261122T101500Z-compare-a1b2c3"
WEIGHTS = "crf/checkpoint_crf_2.pt"
UNSAFE_RUNS = ["", ".", "..", ".store", "a/b", "../up", "/abs", "a\\b", "a\nb", "-x", "x" * 200]
UNSAFE_PATHS = ["../up", "a/../../up", "/absolute", "", ".", "a//b", "a\\b", "line\nbreak", "x" * 2000]

Damage = Callable[[str, FileEntry, bytes | None], None]
"""Replaces the stored content of a run's file; None removes it."""
DamageManifest = Callable[[str, bytes], None]


def make_run(folder: Path) -> Path:
    """A folder with a run's files, some of them awkward: empty, of equal content, in folders, larger than a chunk."""
    contents = {
        "run.json": b'{"state": "completed"}',
        "job.json": b"{}",
        WEIGHTS: b"weights" * 300_000,
        "crf/manifest.json": b"{}",
        "crf/history.jsonl": b"",
        "report/index.html": b"<h1>old</h1>",
        ".hidden.tmp": b"not part of it",
    }
    for name, data in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def put_all(store: ArtifactStore, folder: Path, manifest: Manifest) -> None:
    for file in manifest.files:
        store.put(manifest.run_id, file, folder / file.path)


def fetch_all(store: ArtifactStore, manifest: Manifest, folder: Path) -> None:
    for file in manifest.files:
        fetch_file(store, manifest.run_id, file, folder / file.path)


class WithSource:
    """A run's folder to publish."""

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        return make_run(tmp_path / "source")


class SeamContract(WithSource):
    """`ArtifactStore` itself."""

    def test_what_is_put_is_invisible_until_it_is_committed(self, store: ArtifactStore, source: Path) -> None:
        manifest = Manifest(RUN, 1, True, datetime.now(UTC), describe_folder(source))
        put_all(store, source, manifest)
        assert store.runs() == ()
        with pytest.raises(ArtifactNotFound, match=RUN):
            store.manifest(RUN)
        store.commit(manifest, None)
        assert store.runs() == (RUN,)
        assert store.manifest(RUN) == manifest

    def test_what_is_read_is_what_was_put(self, store: ArtifactStore, source: Path) -> None:
        manifest = publish_run(store, source, RUN)
        assert len(manifest.files) == 6
        for file in manifest.files:
            assert b"".join(store.read(RUN, file)) == (source / file.path).read_bytes()

    def test_content_is_stored_once(self, store: ArtifactStore, source: Path) -> None:
        file = describe_file(source, WEIGHTS)
        assert store.put(RUN, file, source / WEIGHTS)
        assert not store.put(RUN, file, source / WEIGHTS)

    def test_a_source_that_is_not_what_was_said_is_refused(self, store: ArtifactStore, source: Path) -> None:
        file = describe_file(source, WEIGHTS)
        for changed in (b"weights" * 299_999 + b"WEIGHTS", b"short", b"weights" * 300_001):
            (source / WEIGHTS).write_bytes(changed)
            with pytest.raises(SourceChanged, match="changed while"):
                store.put(RUN, file, source / WEIGHTS)
        with pytest.raises(ArtifactNotFound, match="never put"):
            store.commit(Manifest(RUN, 1, True, datetime.now(UTC), (file,)), None)
        assert store.runs() == ()

    def test_a_commit_that_is_made_again_is_silent(self, store: ArtifactStore, source: Path) -> None:
        manifest = publish_run(store, source, RUN)
        store.commit(manifest, store.head(RUN))
        assert store.manifest(RUN) == manifest

    def test_a_commit_on_top_of_something_unseen_is_refused(self, store: ArtifactStore, source: Path) -> None:
        first = publish_run(store, source, RUN)
        other = Manifest(RUN, 1, True, datetime(2020, 1, 1, tzinfo=UTC), first.files)
        with pytest.raises(PreconditionFailed, match="while revision 1 was written"):
            store.commit(other, None)
        assert store.manifest(RUN) == first

    def test_of_many_writers_at_once_one_wins(self, store: ArtifactStore, source: Path) -> None:
        files = (describe_file(source, "run.json"),)
        store.put(RUN, files[0], source / "run.json")
        won: list[datetime] = []
        barrier = threading.Barrier(6)

        def write(number: int) -> None:
            manifest = Manifest(RUN, 1, True, datetime(2026, 1, number, tzinfo=UTC), files)
            barrier.wait()
            try:
                store.commit(manifest, None)
                won.append(manifest.published_at)
            except PreconditionFailed:
                pass

        threads = [threading.Thread(target=write, args=(number,)) for number in range(1, 7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [store.manifest(RUN).published_at]

    def test_a_new_revision_replaces_the_old_one_whole(self, store: ArtifactStore, source: Path) -> None:
        first = publish_run(store, source, RUN, complete=False)
        (source / "run.json").write_bytes(b"new")
        (source / "job.json").unlink()
        second = publish_run(store, source, RUN)
        assert second.revision == 2
        assert b"".join(store.read(RUN, store.manifest(RUN).file("run.json") or first.files[0])) == b"new"
        assert store.manifest(RUN).file("job.json") is None
        assert verify(store, RUN) == ()

    def test_no_run_name_becomes_a_path_unchecked(self, store: ArtifactStore, source: Path) -> None:
        file = describe_file(source, "run.json")
        actions: list[Callable[[str], object]] = [
            lambda run_id: store.put(run_id, file, source / "run.json"),
            store.manifest,
            lambda run_id: list(store.read(run_id, file)),
            lambda run_id: store.point("latest", run_id),
            store.delete,
        ]
        for run_id in UNSAFE_RUNS:
            for action in actions:
                with pytest.raises(NameRefused):
                    action(run_id)

    def test_no_pointer_name_becomes_a_path_unchecked(self, store: ArtifactStore, source: Path) -> None:
        publish_run(store, source, RUN)
        for name in ("../latest", "", "a/b", ".x"):
            with pytest.raises(NameRefused):
                store.point(name, RUN)

    def test_damage_is_found_when_it_is_read(self, store: ArtifactStore, damage: Damage, source: Path) -> None:
        file = publish_run(store, source, RUN).file(WEIGHTS)
        assert file is not None
        data = (source / WEIGHTS).read_bytes()
        for damaged in (b"X" + data[1:], data[:-1], data + b"x", b""):
            damage(RUN, file, damaged)
            with pytest.raises(ArtifactCorrupted) as caught:
                list(store.read(RUN, file))
            assert caught.value.expected in {file.sha256, f"{file.size} bytes"}
            assert WEIGHTS in str(caught.value)
        damage(RUN, file, None)
        with pytest.raises(ArtifactNotFound):
            list(store.read(RUN, file))

    def test_a_pointer_moves_to_what_is_there_only(self, store: ArtifactStore, source: Path) -> None:
        publish_run(store, source, RUN, pointer="latest")
        with pytest.raises(ArtifactNotFound, match="stays where it was"):
            store.point("latest", "another")
        assert store.pointers() == {"latest": RUN}
        publish_run(store, source, "another", pointer="latest")
        store.point("champion", RUN)
        assert store.pointers() == {"latest": "another", "champion": RUN}

    def test_what_is_pointed_to_is_not_deleted(self, store: ArtifactStore, source: Path) -> None:
        publish_run(store, source, RUN, pointer="champion")
        with pytest.raises(RunProtected, match="champion"):
            store.delete(RUN)
        assert verify(store, RUN) == ()

    def test_deleting_twice_does_nothing_more(self, store: ArtifactStore, source: Path) -> None:
        publish_run(store, source, RUN)
        publish_run(store, source, "another")
        store.delete(RUN)
        store.delete(RUN)
        assert store.runs() == ("another",)
        assert verify(store, "another") == ()
        assert publish_run(store, source, RUN).revision == 1


class TransferContract(WithSource):
    """Publishing, fetching, verifying and pruning."""

    def test_a_run_comes_back_as_it_went(self, store: ArtifactStore, source: Path, tmp_path: Path) -> None:
        fetch_all(store, publish_run(store, source, RUN), tmp_path / "fetched")
        assert tree(tmp_path / "fetched") == tree(source)

    def test_publishing_again_changes_nothing(self, store: ArtifactStore, source: Path) -> None:
        assert publish_run(store, source, RUN) == publish_run(store, source, RUN) == store.manifest(RUN)

    def test_a_complete_run_keeps_its_files(self, store: ArtifactStore, source: Path) -> None:
        published = publish_run(store, source, RUN)
        (source / WEIGHTS).write_bytes(b"other weights")
        with pytest.raises(AlreadyPublished, match=r"checkpoint_crf_2\.pt") as caught:
            publish_run(store, source, RUN)
        assert caught.value.paths == (WEIGHTS,)
        with pytest.raises(AlreadyPublished):
            publish_files(store, source, RUN, [WEIGHTS], may_replace=["report/", "run.json"])
        with pytest.raises(AlreadyPublished):
            publish_files(store, source, RUN, [], remove=["job.json"])
        assert store.manifest(RUN) == published
        assert verify(store, RUN) == ()

    def test_the_report_of_a_complete_run_may_be_written_again(self, store: ArtifactStore, source: Path) -> None:
        publish_run(store, source, RUN)
        (source / "report/index.html").write_bytes(b"<h1>new</h1>")
        (source / "report/figure.svg").write_bytes(b"<svg/>")
        publish_files(store, source, RUN, ["report/index.html", "report/figure.svg"], may_replace=["report/"])
        manifest = store.manifest(RUN)
        assert (manifest.complete, manifest.revision, len(manifest.files)) == (True, 2, 7)
        assert verify(store, RUN) == ()

    def test_checkpoints_are_mirrored_while_the_run_goes_on(self, store: ArtifactStore, source: Path) -> None:
        resume = "crf/resume_crf_2.pt"
        for epoch in (b"epoch 1", b"epoch 2"):
            (source / resume).write_bytes(epoch)
            manifest = publish_files(store, source, RUN, [resume])
            assert (manifest.complete, [file.path for file in manifest.files]) == (False, [resume])
            assert b"".join(store.read(RUN, manifest.files[0])) == epoch
        (source / resume).unlink()
        assert publish_run(store, source, RUN).complete
        assert store.manifest(RUN).file(resume) is None

    def test_mirroring_from_several_sides_loses_nothing(self, store: ArtifactStore, source: Path) -> None:
        names = [f"arm{number}/resume.pt" for number in range(5)]
        for name in names:
            (source / name).parent.mkdir()
            (source / name).write_bytes(name.encode())
        threads = [threading.Thread(target=publish_files, args=(store, source, RUN, [name])) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [file.path for file in store.manifest(RUN).files] == names
        assert verify(store, RUN) == ()

    def test_an_empty_folder_and_links_are_not_published(
        self, store: ArtifactStore, source: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "empty").mkdir()
        for folder in ("empty", "nowhere"):
            with pytest.raises(ArtifactNotFound):
                publish_run(store, tmp_path / folder, RUN)
        (source / "link").symlink_to("/etc/hostname")
        with pytest.raises(NameRefused, match="link"):
            publish_run(store, source, RUN)
        assert store.runs() == ()

    def test_a_damaged_file_is_not_fetched(
        self, store: ArtifactStore, damage: Damage, source: Path, tmp_path: Path
    ) -> None:
        file = publish_run(store, source, RUN).file(WEIGHTS)
        assert file is not None
        damage(RUN, file, b"X" * file.size)
        with pytest.raises(ArtifactCorrupted, match=file.sha256):
            fetch_file(store, RUN, file, tmp_path / "into" / "weights")
        assert list((tmp_path / "into").iterdir()) == []

    def test_verify_names_every_file_that_is_not_whole(
        self, store: ArtifactStore, damage: Damage, source: Path
    ) -> None:
        manifest = publish_run(store, source, RUN)
        assert verify(store, RUN) == ()
        weights, job = manifest.file(WEIGHTS), manifest.file("run.json")
        assert weights is not None
        assert job is not None
        damage(RUN, weights, b"X" * weights.size)
        damage(RUN, job, None)
        assert [(problem.path, problem.kind) for problem in verify(store, RUN)] == [
            (WEIGHTS, "damaged"),
            ("run.json", "missing"),
        ]
        with pytest.raises(ArtifactNotFound):
            verify(store, "another")

    def test_lost_content_comes_back_by_publishing_again(
        self, store: ArtifactStore, damage: Damage, source: Path
    ) -> None:
        file = publish_run(store, source, RUN).file(WEIGHTS)
        assert file is not None
        for damaged in (None, b"short"):
            damage(RUN, file, damaged)
            publish_run(store, source, RUN)
            assert verify(store, RUN) == ()

    def test_a_damaged_manifest_is_noticed_and_replaced(
        self, store: ArtifactStore, damage_manifest: DamageManifest, source: Path
    ) -> None:
        publish_run(store, source, RUN)
        for damaged in (b"{}", b"\xff"):
            damage_manifest(RUN, damaged)
            with pytest.raises(ManifestCorrupted, match="Publish the run again"):
                store.manifest(RUN)
            assert [problem.path for problem in verify(store, RUN)] == [MANIFEST_NAME]
            with pytest.raises(ManifestCorrupted):
                publish_files(store, source, RUN, ["job.json"])
            publish_run(store, source, RUN)
            assert verify(store, RUN) == ()

    def test_prune_takes_the_old_and_spares_the_promoted_and_the_running(
        self, store: ArtifactStore, source: Path
    ) -> None:
        names = [f"run{number}" for number in range(6)]
        for name in names:
            publish_files(store, source, name, ["run.json"])
        store.point("champion", "run0")

        def is_running(name: str) -> bool:
            return name == "run1"

        facts = gather_facts(store, is_running)
        plan = plan_prune(facts, keep_last=2, now=datetime.now(UTC))
        assert [d.run_id for d in prune(store, plan, is_running, dry_run=True).deleted] == ["run3", "run2"]
        assert len(store.runs()) == 6
        store.point("latest", "run3")  # somebody promotes between plan and deletion
        outcome = prune(store, plan, is_running)
        assert [decision.run_id for decision in outcome.deleted] == ["run2"]
        assert outcome.freed_bytes == facts[0].size
        assert store.runs() == ("run0", "run1", "run3", "run4", "run5")

    def test_a_run_that_somebody_deletes_meanwhile_is_not_told_of(
        self, store: ArtifactStore, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish_files(store, source, RUN, ["run.json"])
        monkeypatch.setattr(store, "runs", lambda: ("deleted", RUN))
        assert [facts.run_id for facts in gather_facts(store, lambda _: False)] == [RUN]

    def test_a_run_that_starts_between_plan_and_deletion_stays(self, store: ArtifactStore, source: Path) -> None:
        publish_files(store, source, RUN, ["run.json"])
        plan = plan_prune(gather_facts(store, lambda _: False), keep_last=0, now=datetime.now(UTC))
        assert [decision.delete for decision in plan] == [True]
        assert prune(store, plan, lambda _: True).deleted == ()
        assert store.runs() == (RUN,)

    def test_prune_leaves_alone_what_it_cannot_read(
        self, store: ArtifactStore, damage_manifest: DamageManifest, source: Path
    ) -> None:
        publish_run(store, source, RUN)
        damage_manifest(RUN, b"{}")
        plan = plan_prune(gather_facts(store, lambda _: False), keep_last=0, now=datetime.now(UTC))
        assert "cannot be read" in plan[0].reason
        assert prune(store, plan, lambda _: False, sweep_age_s=-2).deleted == ()
        publish_run(store, source, RUN)
        assert verify(store, RUN) == ()
