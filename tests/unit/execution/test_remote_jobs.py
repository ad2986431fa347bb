"""A run's trainings on another host: sent, found again, fetched, refused. The host is this machine in a folder."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from jade_model.core.files import sha256_file
from jade_model.core.job import Job, load_job
from jade_model.core.training_files import files_of, is_done
from jade_model.core.windows import Windows
from tasks.artifacts.leases import load_records
from tasks.core.errors import HostNotReady, TrainingFailed
from tasks.core.layout import RunLayout
from tasks.core.names import FileEntry
from tasks.execution.base import Event
from tasks.execution.bundle import job_key
from tasks.execution.fetching import fetch_checkpoint, fetch_training, manifest_entries, move_training
from tasks.execution.fleet import FleetExecutor
from tasks.execution.found_jobs import find_ours
from tasks.execution.lanes import HostLane, Station
from tasks.execution.queue import QueueRules
from tasks.execution.remote import RemoteBatch
from tasks.execution.run import TrainingRun
from tasks.experiments.plan import Plan, write_job
from tasks.hosts import errors
from tasks.hosts.host import CommandResult, RemotePlace
from tasks.hosts.job import find_job, job_status, list_jobs, stop_job
from tests.fakes.local_host import LocalHost
from tests.helpers.processes import wait_until
from tests.helpers.waiting_trainer import waiting_python

PLAN = Plan({"soft_span": "seed_soft_span"}, 12, seeds=1, folds=2, split="grouped", ensemble=1)
ONE = replace(PLAN, folds=1)


class FaultyHost(LocalHost):
    """This machine, with faults: each call is shown to `fault`, which may raise."""

    fault: Callable[[str], None] = staticmethod(lambda doing: None)

    def run(self, command: str, *, timeout_s: float, stdin: bytes = b"", check: bool = True) -> CommandResult:
        self.fault(command.partition("\n")[0])
        return super().run(command, timeout_s=timeout_s, stdin=stdin, check=check)

    def put(self, files: Mapping[str, Path], folder: str, *, timeout_s: float) -> tuple[FileEntry, ...]:
        self.fault(f"put {folder}")
        return super().put(files, folder, timeout_s=timeout_s)

    def get(self, entries: Sequence[FileEntry], folder: str, into: Path, *, timeout_s: float) -> None:
        self.fault(f"get {folder}")
        super().get(entries, folder, into, timeout_s=timeout_s)


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JADE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr("tasks.execution.remote.POLL_S", 0.1)
    monkeypatch.setattr("tasks.core.retry.LONGEST_PAUSE_S", 0.0)


@pytest.fixture
def place(tmp_path: Path) -> RemotePlace:
    return RemotePlace("jade", str(waiting_python(tmp_path / "python", 0.6)), 600)


@pytest.fixture
def host(tmp_path: Path, place: RemotePlace) -> Iterator[FaultyHost]:
    host = FaultyHost(tmp_path / "host", name="ci")
    yield host
    host.fault = lambda doing: None
    for handle, _ in list_jobs(host, place.jobs):
        stop_job(host, handle, grace_s=1)


@pytest.fixture
def notes() -> list[str]:
    return []


def run_of(folder: Path, windows: Windows, plan: Plan = PLAN) -> Job:
    folder.mkdir(parents=True)
    return write_job(RunLayout(folder), [windows], plan)


def train(
    folder: Path,
    host: LocalHost,
    place: RemotePlace,
    notes: list[str],
    heard: Callable[[Event], object] = lambda _: None,
    *,
    device: str = "cpu",
) -> TrainingRun:
    """Train a run on one host, as `--host ci` does."""
    job = load_job(folder / "job.json")
    lane = HostLane(host.name, lambda: host, replace(place, device=device, workers=1))
    rules = QueueRules(batch_s=float("inf"), max_host_failures=1)
    executor = FleetExecutor(folder, job, [lane], rules=rules, note=notes.append)
    training = TrainingRun(job, RunLayout(folder), executor)
    try:
        for event in training.run(job.trainings, lambda item: item.title):
            heard(event)
    finally:
        executor.stop()
    return training


def begun(folder: Path, host: LocalHost, place: RemotePlace) -> RemoteBatch:
    """Start a run's job, and do no more: all that a process which is killed leaves."""
    batch = RemoteBatch(
        Station("ci", host, replace(place, workers=1)),
        load_job(folder / "job.json"),
        folder,
        note=lambda _: None,
        lock=threading.Lock(),
    )
    batch.start(is_ready=True)
    return batch


def wait_until_over(host: LocalHost, place: RemotePlace, key: str) -> None:
    def is_over() -> bool:
        handle = find_job(host, place.jobs, key)
        return handle is not None and job_status(host, handle).is_over

    wait_until(is_over)


def left_behind(tmp_path: Path) -> list[str]:
    return [path.name for name in ("runs", "jobs") for path in (tmp_path / "host" / "jade" / name).glob("*")]


def starts(folder: Path) -> list[int]:
    events = [json.loads(line) for line in RunLayout(folder).remote_log.read_text().splitlines()]
    return [event["first_epoch"] for event in events if event["event"] == "training_started"]


def test_nothing_is_left_on_the_host_but_the_sources(
    small_windows: Windows, host: FaultyHost, place: RemotePlace, tmp_path: Path, notes: list[str]
) -> None:
    job = run_of(tmp_path / "run", small_windows)
    training = train(tmp_path / "run", host, place, notes)
    training.raise_if_failed()
    assert set(training.seconds) == {item.run_key for item in job.trainings}
    assert left_behind(tmp_path) == []
    assert load_records() == []
    assert notes == []


def test_what_is_done_already_needs_no_host(
    small_run: RunLayout, place: RemotePlace, tmp_path: Path, notes: list[str]
) -> None:
    host = FaultyHost(tmp_path / "host")

    def refuse(doing: str) -> None:
        raise AssertionError(doing)

    host.fault = refuse
    training = train(small_run.root, host, place, notes)
    assert set(training.seconds.values()) == {0.0}


def test_what_a_flow_left_that_was_killed_once_all_results_were_here_is_removed_by_the_next(
    small_windows: Windows, host: FaultyHost, place: RemotePlace, tmp_path: Path, notes: list[str]
) -> None:
    job = run_of(tmp_path / "run", small_windows)
    batch = begun(tmp_path / "run", host, place)
    wait_until_over(host, place, batch.key)
    for training in job.trainings:
        fetch_training(host, place.run(batch.key), training, tmp_path / "run")
    assert left_behind(tmp_path) != []
    train(tmp_path / "run", host, place, notes)
    assert left_behind(tmp_path) == []
    assert load_records() == []
    assert notes == []


def test_connections_lost_at_every_kind_of_call_cost_nothing(
    small_windows: Windows, host: FaultyHost, place: RemotePlace, tmp_path: Path, notes: list[str]
) -> None:
    job = run_of(tmp_path / "run", small_windows)
    seen: set[str] = set()

    def cut_once(doing: str) -> None:
        kind = " ".join(doing.split()[:4])
        if kind not in seen:
            seen.add(kind)
            raise errors.ConnectionLost("ci", doing, "cut by the test")

    host.fault = cut_once
    train(tmp_path / "run", host, place, notes).raise_if_failed()
    assert all(is_done(training, files_of(training, tmp_path / "run")) for training in job.trainings)
    assert {"put", "get"} < {kind.split()[0] for kind in seen}
    assert {"# jade: start job", "# jade: look at", "# jade: list jobs", "# jade: remove job"} < seen
    assert left_behind(tmp_path) == []


def test_an_attempt_that_left_some_results_is_attached_to_all_the_same(
    small_windows: Windows, host: FaultyHost, place: RemotePlace, tmp_path: Path, notes: list[str]
) -> None:
    job = run_of(tmp_path / "first", small_windows)
    batch = begun(tmp_path / "first", host, place)
    wait_until_over(host, place, batch.key)
    run_of(tmp_path / "second", small_windows)
    fetch_training(host, place.run(batch.key), job.trainings[0], tmp_path / "second")
    train(tmp_path / "second", host, place, notes).raise_if_failed()
    assert notes == ["ci: attached to the job that does these trainings already"]
    assert all(is_done(training, files_of(training, tmp_path / "second")) for training in job.trainings)
    assert starts(tmp_path / "second") == [1, 1]
    assert left_behind(tmp_path) == []


def test_a_job_of_other_trainings_is_left_alone(
    small_windows: Windows, host: FaultyHost, place: RemotePlace, tmp_path: Path, notes: list[str]
) -> None:
    run_of(tmp_path / "others", small_windows, replace(ONE, arms={"crf": "seed_crf"}))
    others = begun(tmp_path / "others", host, place)
    run_of(tmp_path / "run", small_windows, ONE)
    train(tmp_path / "run", host, place, notes).raise_if_failed()
    assert find_job(host, place.jobs, others.key) is not None
    assert notes == []


def test_what_others_train_is_stopped_on_a_rented_machine_alone(
    small_windows: Windows, tmp_path: Path, host: FaultyHost
) -> None:
    place = RemotePlace("jade", str(waiting_python(tmp_path / "python", 60.0)), 600)
    run_of(tmp_path / "others", small_windows, replace(ONE, arms={"crf": "seed_crf"}))
    begun(tmp_path / "others", host, place)
    job = run_of(tmp_path / "run", small_windows, ONE)
    leased = Station("static-1", host, place, is_rented=True)
    assert find_ours(leased, job) == []
    assert [status.is_over for _, status in list_jobs(host, place.jobs)] == [False]
    assert find_ours(replace(leased, place=replace(place, provider="runpod")), job) == []
    assert [status.is_over for _, status in list_jobs(host, place.jobs)] == [True]


def test_the_newest_checkpoint_of_a_job_that_was_stopped_is_gone_on_from(
    small_windows: Windows, host: FaultyHost, tmp_path: Path, notes: list[str]
) -> None:
    place = RemotePlace("jade", str(waiting_python(tmp_path / "python", 6.0)), 600)
    (training,) = run_of(tmp_path / "run", small_windows, ONE).trainings

    def interrupt(event: Event) -> None:
        if event.kind == "epoch" and event.data["epoch"] == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", host, place, notes, interrupt)
    assert "ci: stopped; nothing of run runs there any more" in notes
    train(tmp_path / "run", host, place, notes).raise_if_failed()
    first, second = starts(tmp_path / "run")
    assert (first, second > 4) == (1, True)
    assert is_done(training, files_of(training, tmp_path / "run"))
    assert left_behind(tmp_path) == []


def test_a_job_that_somebody_stops_ends_the_run(
    small_windows: Windows, host: FaultyHost, place: RemotePlace, tmp_path: Path, notes: list[str]
) -> None:
    job = run_of(tmp_path / "run", small_windows, ONE)

    def stop(event: Event) -> None:
        if event.kind == "epoch" and event.data["epoch"] == 1:
            handle = find_job(host, place.jobs, job_key(job.trainings))
            assert handle is not None
            stop_job(host, handle, grace_s=1)

    with pytest.raises(errors.JobStopped):
        train(tmp_path / "run", host, place, notes, stop)
    assert load_records() == []


def test_a_host_that_stays_out_of_reach_is_told_of_and_its_job_goes_on(
    small_windows: Windows,
    host: FaultyHost,
    tmp_path: Path,
    notes: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = RemotePlace("jade", str(waiting_python(tmp_path / "python", 60.0)), 600)
    job = run_of(tmp_path / "run", small_windows, ONE)
    monkeypatch.setattr("tasks.execution.remote.PATIENCE_S", 0.1)

    def gone(doing: str) -> None:
        raise errors.HostUnreachable("ci", 300.0, 9, "timed out")

    def lose(event: Event) -> None:
        host.fault = gone

    training = train(tmp_path / "run", host, place, notes, lose)
    with pytest.raises(errors.HostUnreachable):
        training.raise_if_failed()
    assert any("may still train there" in note for note in notes)
    assert [record.key for record in load_records()] == [job_key(job.trainings)]
    host.fault = lambda doing: None
    ((_, status),) = list_jobs(host, place.jobs)
    assert not status.is_over


def test_a_job_that_fails_says_why_and_where(
    small_windows: Windows, host: FaultyHost, tmp_path: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.execution.remote.check_ready", lambda host, place, **_: None)
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho expected arrays with other bytes; exit 2\n")
    broken.chmod(0o755)
    run_of(tmp_path / "run", small_windows)
    batch_place = RemotePlace("jade", str(broken), 600)
    training = train(tmp_path / "run", host, batch_place, notes)
    with pytest.raises(TrainingFailed, match="train on ci: the training process exited with 2") as caught:
        training.raise_if_failed()
    assert "expected arrays with other bytes" in str(caught.value)
    assert load_records() == []


@pytest.mark.parametrize("only_gpu", [False, True])
def test_a_host_that_cannot_train_trains_nothing(
    only_gpu: bool,
    small_windows: Windows,
    host: FaultyHost,
    place: RemotePlace,
    tmp_path: Path,
    notes: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_of(tmp_path / "run", small_windows)

    def refuse(host: object, place: object, *, is_quick: bool = False) -> None:
        if not (only_gpu and is_quick):
            raise HostNotReady("no torch, or no GPU")

    monkeypatch.setattr("tasks.execution.remote.check_ready", refuse)
    training = train(tmp_path / "run", host, place, notes, device="cuda" if only_gpu else "cpu")
    with pytest.raises(HostNotReady, match="no GPU"):
        training.raise_if_failed()
    assert list_jobs(host, place.jobs) == ()
    assert load_records() == []


def test_a_finished_job_whose_results_were_removed_is_done_again(
    small_windows: Windows, host: FaultyHost, place: RemotePlace, tmp_path: Path, notes: list[str]
) -> None:
    (training,) = run_of(tmp_path / "run", small_windows, ONE).trainings
    batch = begun(tmp_path / "run", host, place)
    wait_until_over(host, place, batch.key)
    host.run(f"rm -r {place.run(batch.key)}", timeout_s=60)
    train(tmp_path / "run", host, place, notes).raise_if_failed()
    assert is_done(training, files_of(training, tmp_path / "run"))


class TestFetching:
    @pytest.fixture
    def remote(self, small_run: RunLayout, host: FaultyHost, tmp_path: Path) -> Path:
        """A finished training on the host; returns its folder there."""
        training = load_job(small_run.job_json).trainings[0]
        there = tmp_path / "host" / "run" / training.output_dir
        there.mkdir(parents=True)
        for path in (small_run.root / training.output_dir).iterdir():
            if path.is_file():
                (there / path.name).write_bytes(path.read_bytes())
        return there

    def fetch(self, small_run: RunLayout, host: FaultyHost, tmp_path: Path) -> Path:
        training = load_job(small_run.job_json).trainings[0]
        fetch_training(host, "run", training, tmp_path / "into")
        assert is_done(training, files_of(training, tmp_path / "into"))
        return tmp_path / "into" / training.output_dir

    def test_all_that_the_manifest_names_comes_and_the_manifest(
        self, small_run: RunLayout, host: FaultyHost, remote: Path, tmp_path: Path
    ) -> None:
        (remote / "intruder.txt").write_text("not named")
        into = self.fetch(small_run, host, tmp_path)
        named = {item["path"] for item in json.loads((remote / "manifest.json").read_text())["files"]}
        assert {path.name for path in into.iterdir()} == named | {"manifest.json"}

    def test_a_flipped_byte_is_found_and_no_manifest_is_written(
        self, small_run: RunLayout, host: FaultyHost, remote: Path, tmp_path: Path
    ) -> None:
        path = next(remote.glob("checkpoint_*"))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(errors.TransferCorrupted):
            self.fetch(small_run, host, tmp_path)
        assert not list((tmp_path / "into").rglob("manifest.json"))

    @pytest.mark.parametrize(
        ("change", "kind"),
        [
            ({"path": "../../job.json"}, errors.NameRefused),
            ({"path": "/etc/passwd"}, errors.NameRefused),
            ({"path": "decoding.json"}, errors.NameRefused),
            ({"size": 2**40}, errors.NameRefused),
            ({"size": -1}, errors.NameRefused),
            ({"sha256": "0"}, errors.NameRefused),
            ({"size": "1"}, errors.NameRefused),
            ({"path": 7}, errors.NameRefused),
        ],
    )
    def test_a_manifest_that_lies_chooses_nothing(
        self, small_run: RunLayout, change: dict[str, object], kind: type[Exception]
    ) -> None:
        training = load_job(small_run.job_json).trainings[0]
        files = files_of(training, small_run.root)
        manifest = json.loads(files.manifest.read_text())
        manifest["files"][0] |= change
        with pytest.raises(kind):
            manifest_entries(json.dumps(manifest).encode(), training, files)

    @pytest.mark.parametrize("change", [{"run_key": "0" * 64}, {"complete": False}, {"files": []}, {"files": None}])
    def test_a_manifest_of_something_else_is_refused(self, small_run: RunLayout, change: dict[str, object]) -> None:
        training = load_job(small_run.job_json).trainings[0]
        files = files_of(training, small_run.root)
        manifest = json.loads(files.manifest.read_text()) | change
        with pytest.raises(errors.TransferCorrupted):
            manifest_entries(json.dumps(manifest).encode(), training, files)

    def test_what_is_no_manifest_is_refused(self, small_run: RunLayout) -> None:
        training = load_job(small_run.job_json).trainings[0]
        for content in (b"", b"[]", b"\xff", b'"x"'):
            with pytest.raises(errors.TransferCorrupted):
                manifest_entries(content, training, files_of(training, small_run.root))

    def test_a_checkpoint_that_is_behind_does_not_replace_what_is_here(
        self, small_run: RunLayout, host: FaultyHost, tmp_path: Path
    ) -> None:
        training = load_job(small_run.job_json).trainings[0]
        there = tmp_path / "host" / "run" / training.output_dir
        there.mkdir(parents=True)
        name = files_of(training, small_run.root).resume.name
        for epoch, moved in ((4, True), (2, False), (6, True)):
            (there / name).write_bytes(b"weights")
            digest = sha256_file(there / name)
            entry = {"path": name, "size": 7, "sha256": digest}
            told = {"run_key": training.run_key, "epoch": epoch, "complete": False, "files": [entry]}
            (there / "manifest.json").write_text(json.dumps(told))
            assert fetch_checkpoint(host, "run", training, tmp_path / "came")
            assert move_training(training, tmp_path / "came", tmp_path / "into") is moved
