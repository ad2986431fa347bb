from __future__ import annotations

import errno
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.artifacts.errors import (
    AccessDenied,
    ArtifactCorrupted,
    NameRefused,
    StoreError,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from tasks.artifacts.local import LocalBackend, disk_errors, write_chunks
from tasks.artifacts.store import ArtifactStore
from tasks.artifacts.transfer import publish_files, publish_run, verify
from tests.fakes.store_contract import RUN, WEIGHTS, WithSource, make_run, tree

ROOT = Path(__file__).parents[3]

# Publishes, and is killed just before the n-th rename or removal: the points between which something changes.
PUBLISH_AND_DIE = """
import os, signal, sys
from pathlib import Path
from tasks.artifacts.local import LocalBackend
from tasks.artifacts.store import ArtifactStore
from tasks.artifacts.transfer import publish_run

places, source = map(Path, sys.argv[1:])

def die_at_the_end(event, _):
    global left
    if event in ("os.rename", "os.remove"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

for left in range(60):
    publisher = os.fork()
    if publisher == 0:
        store = ArtifactStore(LocalBackend(places / f"store{left}"))
        sys.addaudithook(die_at_the_end)
        publish_run(store, source, "run", complete=False, pointer="latest")
        sys.exit()
    ended = os.waitstatus_to_exitcode(os.waitpid(publisher, 0)[1])
    print(ended, flush=True)
    if ended == 0:
        break
assert not {"boto3", "prefect", "torch", "jade_model", "numpy"} & set(sys.modules)
"""


class TestFolder(WithSource):
    def test_a_run_is_a_readable_tree(self, source: Path, tmp_path: Path) -> None:
        publish_run(ArtifactStore(LocalBackend(tmp_path / "store")), source, RUN, pointer="latest")
        found = tree(tmp_path / "store" / RUN)
        assert found.keys() - tree(source).keys() == {"manifest.json"}
        assert {name: found[name] for name in tree(source)} == tree(source)

    def test_a_run_that_lies_there_already_is_not_copied(self, tmp_path: Path) -> None:
        folder = make_run(tmp_path / RUN)
        before = {path: path.stat().st_ino for path in folder.rglob("*")}
        store = ArtifactStore(LocalBackend(tmp_path))
        assert publish_run(store, folder, RUN) == store.manifest(RUN)
        assert {path: path.stat().st_ino for path in before} == before
        assert verify(store, RUN) == ()

    def test_files_of_equal_content_stay_apart(self, source: Path, tmp_path: Path) -> None:
        store = ArtifactStore(LocalBackend(tmp_path / "store"))
        publish_run(store, source, RUN)
        run = tmp_path / "store" / RUN
        assert (run / "job.json").read_bytes() == (run / "crf/manifest.json").read_bytes()
        assert (run / "job.json").stat().st_ino != (run / "crf/manifest.json").stat().st_ino

    def test_links_in_the_store_lead_nowhere(self, source: Path, tmp_path: Path) -> None:
        store = ArtifactStore(LocalBackend(tmp_path / "store"))
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "checkpoint_crf_2.pt").write_bytes((source / WEIGHTS).read_bytes())
        (tmp_path / "store" / RUN).mkdir(parents=True)
        (tmp_path / "store" / RUN / "crf").symlink_to(outside)
        with pytest.raises(NameRefused, match="a link leads it out"):
            publish_run(store, source, RUN)
        publish_run(store, source, "other")
        file = store.manifest("other").file(WEIGHTS)
        assert file is not None
        (tmp_path / "store/other" / WEIGHTS).unlink()
        (tmp_path / "store/other" / WEIGHTS).symlink_to(outside / "checkpoint_crf_2.pt")
        with pytest.raises(NameRefused, match="link"):
            list(store.read("other", file))
        assert [problem.path for problem in verify(store, "other")] == [WEIGHTS]

    def test_a_publisher_that_is_killed_anywhere_leaves_a_whole_run_or_none(self, source: Path, tmp_path: Path) -> None:
        command = [sys.executable, "-c", PUBLISH_AND_DIE, str(tmp_path), str(source)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        *killed, last = map(int, done.stdout.split())
        assert set(killed) == {-9}
        assert last == 0
        outcomes = []
        for step in range(len(killed) + 1):
            place = tmp_path / f"store{step}"
            store = ArtifactStore(LocalBackend(place))
            outcomes.append(len(store.runs()))
            assert store.runs() == () or verify(store, "run") == ()
            assert set(store.pointers()) <= {"latest"}
            # And the same command again completes it.
            assert publish_run(store, source, "run", complete=False, pointer="latest").revision == 1
            assert verify(store, "run") == ()
            store.sweep(older_than_s=-1)
            assert [path.name for path in place.rglob("*.part")] == []
        assert outcomes == sorted(outcomes)
        assert set(outcomes) == {0, 1}

    def test_a_damaged_pointer_is_not_followed(self, source: Path, tmp_path: Path) -> None:
        store = ArtifactStore(LocalBackend(tmp_path))
        publish_run(store, source, RUN, pointer="latest")
        (tmp_path / ".store/pointers/latest").write_text("../../etc")
        with pytest.raises(ArtifactCorrupted, match="the pointer latest"):
            store.pointers()

    def test_who_only_reads_changes_nothing(self, source: Path, tmp_path: Path) -> None:
        store = ArtifactStore(LocalBackend(tmp_path))
        publish_run(store, source, RUN, pointer="latest")
        shutil.rmtree(tmp_path / ".store/locks")
        assert (store.runs(), store.pointers(), verify(store, RUN)) == ((RUN,), {"latest": RUN}, ())
        assert not (tmp_path / ".store/locks").exists()

    def test_a_file_is_no_store(self, source: Path) -> None:
        with pytest.raises(StoreRefused, match=r"run\.json refused"):
            publish_run(ArtifactStore(LocalBackend(source / "run.json")), source, RUN)

    def test_mirrored_checkpoints_replace_the_file(self, source: Path, tmp_path: Path) -> None:
        store = ArtifactStore(LocalBackend(tmp_path / "store"))
        for epoch in ("1", "2"):
            (source / "resume.pt").write_text(epoch)
            publish_files(store, source, RUN, ["resume.pt"])
            assert (tmp_path / "store" / RUN / "resume.pt").read_text() == epoch


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EACCES, AccessDenied),
        (errno.EROFS, AccessDenied),
        (errno.EIO, StoreUnavailable),
        (errno.ELOOP, NameRefused),
        (errno.ENAMETOOLONG, StoreRefused),
    ],
)
def test_errors_of_the_disk_say_what_happened(number: int, kind: type[StoreError]) -> None:
    with pytest.raises(kind, match="/store/file") as caught, disk_errors("/store", "storing weights.pt"):
        raise OSError(number, os.strerror(number), "/store/file")
    assert caught.value.is_transient == (number == errno.EIO)


def test_a_stream_that_breaks_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")

    def chunks() -> object:
        yield b"half"
        raise ArtifactCorrupted("file", "a", "b")

    with pytest.raises(ArtifactCorrupted):
        write_chunks(tmp_path / "file", chunks())  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_full_disk_loses_nothing(source_folder: Path, tmp_path: Path) -> None:
    """A real one: a small file system in a user and mount namespace of its own."""
    script = (
        'set -e; mount -t tmpfs -o size=1m none "$1"; exec "$2" -c \''
        "import sys\n"
        "from pathlib import Path\n"
        "from tasks.artifacts.local import LocalBackend\n"
        "from tasks.artifacts.store import ArtifactStore\n"
        "from tasks.artifacts.errors import StoreFull\n"
        "from tasks.artifacts.transfer import publish_files, publish_run, verify\n"
        "store, source = ArtifactStore(LocalBackend(Path(sys.argv[1]))), Path(sys.argv[2])\n"
        'publish_files(store, source, "run", ["run.json"])\n'
        "try:\n"
        '    publish_run(store, source, "run")\n'
        "except StoreFull as error:\n"
        '    assert verify(store, "run") == () and len(store.manifest("run").files) == 1\n'
        '    assert not list(Path(sys.argv[1]).rglob("*.part"))\n'
        "    print(error)\n"
        '\' "$1" "$3"'
    )
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    probe = subprocess.run(
        [*command[:4], "mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)],
        capture_output=True,
        check=False,
    )
    if probe.returncode:
        pytest.skip(f"no file system can be mounted here: {probe.stderr.decode().strip()}")
    ended = subprocess.run(
        [*command, str(disk), sys.executable, str(source_folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "No space left" in ended.stdout
    assert "What was stored before is whole" in ended.stdout


@pytest.fixture
def source_folder(tmp_path: Path) -> Path:
    return make_run(tmp_path / "source")


def test_errors_survive_pickling() -> None:
    for error in (ArtifactCorrupted("a.pt", "x", "y"), StoreUnavailable("s3://b", "storing", "reset")):
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301
        assert (type(copy), str(copy), copy.__dict__) == (type(error), str(error), error.__dict__)
