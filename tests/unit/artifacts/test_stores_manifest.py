from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.artifacts.errors import ArtifactNotFound, ManifestCorrupted, NameRefused, StoreUserError
from tasks.artifacts.manifest import (
    Manifest,
    check_path,
    check_tree,
    describe_file,
    describe_folder,
    manifest_bytes,
    parse_manifest,
)
from tasks.artifacts.retention import RunFacts, plan_prune
from tasks.core.names import FileEntry
from tests.fakes.store_contract import UNSAFE_PATHS, make_run

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def small_manifest() -> Manifest:
    files = (FileEntry("b", 0, EMPTY_SHA256), FileEntry("a/x.pt", 7, "0" * 64))
    return Manifest("run", 3, True, NOW, files)


def test_a_manifest_lists_what_people_would(tmp_path: Path) -> None:
    manifest = Manifest("run", 1, True, NOW, describe_folder(make_run(tmp_path)))
    assert [file.path for file in manifest.files] == [
        "crf/checkpoint_crf_2.pt",
        "crf/history.jsonl",
        "crf/manifest.json",
        "job.json",
        "report/index.html",
        "run.json",
    ]
    assert manifest.file("crf/history.jsonl") == FileEntry("crf/history.jsonl", 0, EMPTY_SHA256)


def test_the_folders_own_manifest_is_not_part_of_it(tmp_path: Path) -> None:
    make_run(tmp_path)
    first = describe_folder(tmp_path)
    (tmp_path / "manifest.json").write_bytes(manifest_bytes(Manifest("run", 1, True, NOW, first)))
    assert describe_folder(tmp_path) == first


def test_written_and_read_it_is_the_same() -> None:
    manifest = small_manifest()
    data = manifest_bytes(manifest)
    assert parse_manifest(data, "m", run_id="run", revision=3) == manifest
    assert [item["path"] for item in json.loads(data)["files"]] == ["a/x.pt", "b"]


def test_equal_manifests_have_equal_bytes() -> None:
    zone = NOW.astimezone(tz=None) + timedelta(microseconds=5)
    files = tuple(reversed(small_manifest().files))
    assert manifest_bytes(Manifest("run", 3, True, zone, files)) == manifest_bytes(small_manifest())


def test_no_single_bit_can_change_unnoticed() -> None:
    manifest = small_manifest()
    data = manifest_bytes(manifest)
    noticed = 0
    for place in range(len(data)):
        for bit in (1, 4, 32):
            damaged = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
            try:
                assert parse_manifest(damaged, "m", run_id="run") == manifest
            except ManifestCorrupted:
                noticed += 1
    assert noticed > len(data)


@pytest.mark.parametrize("data", [b"", b"[1]", b"\xff", b"null", b'{"sha256": "x", "schema_version": 1}'])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestCorrupted, match=r"^m is not a manifest"):
        parse_manifest(data, "m", run_id="run")


@pytest.mark.parametrize("where", [{"run_id": "other"}, {"run_id": "run", "revision": 4}])
def test_a_manifest_in_the_wrong_place_is_refused(where: dict[str, object]) -> None:
    with pytest.raises(ManifestCorrupted):
        parse_manifest(manifest_bytes(small_manifest()), "m", **where)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", [*UNSAFE_PATHS, "manifest.json"])
def test_no_file_name_of_a_manifest_leaves_its_folder(path: str) -> None:
    with pytest.raises((ValueError, NameRefused)):
        Manifest("run", 1, True, NOW, (FileEntry(path, 0, EMPTY_SHA256),))
    good = json.loads(manifest_bytes(small_manifest()))
    good["files"][0]["path"] = path
    with pytest.raises(ManifestCorrupted):
        parse_manifest(json.dumps(good).encode(), "m", run_id="run")


def test_sizes_and_digests_are_checked() -> None:
    for size, digest in ((-1, EMPTY_SHA256), (0, "x"), (0, EMPTY_SHA256.upper()), ("1", EMPTY_SHA256)):
        with pytest.raises(ValueError, match="FileEntry"):
            FileEntry("a", size, digest)  # type: ignore[arg-type]


@given(st.lists(st.lists(st.sampled_from(["a", "b", "a!", "a.b"]), min_size=1, max_size=3).map("/".join), max_size=6))
def test_paths_that_cannot_be_one_folder_are_refused(paths: list[str]) -> None:
    clash = any(
        one == other or other.startswith(one + "/")
        for i, one in enumerate(paths)
        for j, other in enumerate(paths)
        if i != j
    )
    if clash:
        with pytest.raises(NameRefused):
            check_tree(paths)
    else:
        check_tree(paths)


@given(st.text(max_size=30))
def test_a_path_that_passes_stays_in_its_folder(path: str) -> None:
    try:
        check_path(path)
    except NameRefused:
        return
    inside = Path("/root/run")
    assert (inside / path).resolve().is_relative_to(inside)
    assert (inside / path).resolve() != inside
    assert path.isprintable()


def test_what_is_no_plain_file_is_not_described(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/etc/hostname")
    for name in ("folder", "link", "../x"):
        with pytest.raises(NameRefused):
            describe_file(tmp_path, name)
    with pytest.raises(ArtifactNotFound):
        describe_file(tmp_path, "nothing")


run_facts = st.builds(
    RunFacts,
    run_id=st.uuids().map(str),
    published_at=st.none() | st.integers(0, 400 * 24).map(lambda hours: NOW - timedelta(hours=hours)),
    size=st.integers(0, 10**9),
    pointers=st.sampled_from([(), (), ("latest",), ("champion", "latest")]),
    is_running=st.sampled_from([False, False, True]),
)


@given(
    st.lists(run_facts, max_size=12, unique_by=lambda run: run.run_id),
    st.none() | st.integers(0, 12),
    st.none() | st.floats(0, 400),
)
def test_prune_deletes_exactly_what_no_rule_keeps(
    runs: list[RunFacts], keep_last: int | None, keep_days: float | None
) -> None:
    if keep_last is None and keep_days is None:
        with pytest.raises(StoreUserError, match="--keep-last"):
            plan_prune(runs, now=NOW)
        return
    plan = {d.run_id: d for d in plan_prune(runs, keep_last=keep_last, keep_days=keep_days, now=NOW)}
    assert plan.keys() == {run.run_id for run in runs}
    for run in runs:
        published = run.published_at
        newer = [
            other
            for other in runs
            if published and other.published_at and (other.published_at, other.run_id) > (published, run.run_id)
        ]
        is_kept = (
            run.is_running
            or bool(run.pointers)
            or published is None
            or len(newer) < (keep_last or 0)
            or (keep_days is not None and NOW - published <= timedelta(days=keep_days))
        )
        assert plan[run.run_id].delete == (not is_kept)
        assert plan[run.run_id].reason
        assert plan[run.run_id].size == run.size


def test_retention_that_makes_no_sense_is_refused() -> None:
    for rules in ({"keep_last": -1}, {"keep_days": -0.5}):
        with pytest.raises(ValueError, match="negative"):
            plan_prune([], now=NOW, **rules)
