"""A run's trainings on another host: followed, fetched, attached to, stopped. The host is this machine in a folder."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.processes import processes_of_group

from jade_model.core.job import Job, load_job
from jade_model.core.training_files import files_of, is_done
from jade_model.core.windows import Windows
from tasks.artifacts.publisher import Mirror
from tasks.artifacts.remote_records import RemoteRun, load_records, save_record
from tasks.artifacts.repository import open_place
from tasks.artifacts.training_cache import kept_trainings
from tasks.core.errors import HostNotReady, TrainingFailed
from tasks.core.layout import RunLayout
from tasks.execution.bundle import job_key
from tasks.execution.fetching import fetch_training, manifest_entries
from tasks.execution.jobs import FollowedJob, Part, running_job
from tasks.execution.remote import RemoteTrainingJob, running_remote_job
from tasks.experiments.plan import Plan, write_job
from tasks.hosts import errors
from tasks.hosts.host import CommandResult, FileEntry, Progress
from tasks.hosts.job import JobHandle, JobSpec, JobState, find_job, job_status, list_jobs, start_job, stop_job
from tasks.hosts.place import RemotePlace
from tests.fakes.local_host import LocalHost

PLAN = Plan({"soft_span": "seed_soft_span"}, 1, seeds=1, folds=2, split="grouped", ensemble=1)
LONG = replace(PLAN, epochs=10_000)
PLACE = RemotePlace("jade", sys.executable, 600)
PART = Part("soft_span", 0)


class FaultyHost(LocalHost):
    """This machine, with faults: each call is shown to `fault`, which may raise."""

    fault: Callable[[str], None] = staticmethod(lambda doing: None)

    def run(self, command: str, *, timeout_s: float, stdin: bytes = b"", check: bool = True) -> CommandResult:
        self.fault(command.partition("\n")[0])
        return super().run(command, timeout_s=timeout_s, stdin=stdin, check=check)

    def put(
        self, files: Mapping[str, Path], folder: str, *, timeout_s: float, progress: Progress | None = None
    ) -> tuple[FileEntry, ...]:
        self.fault(f"put {folder}")
        return super().put(files, folder, timeout_s=timeout_s, progress=progress)

    def get(
        self,
        entries: Sequence[FileEntry],
        folder: str,
        into: Path,
        *,
        timeout_s: float,
        progress: Progress | None = None,
    ) -> None:
        self.fault(f"get {folder}")
        super().get(entries, folder, into, timeout_s=timeout_s, progress=progress)


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JADE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr("tasks.execution.remote.POLL_S", 0.1)
    monkeypatch.setattr("tasks.core.retry.time.sleep", lambda seconds: None)
    monkeypatch.setattr("tasks.execution.remote.check_ready", lambda host, place, **_: None)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[FaultyHost]:
    host = FaultyHost(tmp_path / "host", name="ci")
    yield host
    host.fault = lambda doing: None
    for handle, _ in list_jobs(host, PLACE.jobs):
        stop_job(host, handle, grace_s=1)


@pytest.fixture
def notes() -> list[str]:
    return []


def run_of(folder: Path, windows: Windows, plan: Plan = PLAN) -> Job:
    folder.mkdir(parents=True)
    return write_job(RunLayout(folder), [windows], plan)


def wait(job: FollowedJob, holds: Callable[[], bool] | None = None, timeout_s: float = 110) -> None:
    deadline = time.monotonic() + timeout_s
    while not (holds() if holds else job.ended):
        assert time.monotonic() < deadline, f"not in time: {job.state}, {job.stderr_tail}"
        assert holds is None or not job.ended, job.failure("test")
        job.wait_for_change(job.changes)


def follow(folder: Path, host: LocalHost, notes: list[str]) -> RemoteTrainingJob:
    with running_remote_job(folder, host, PLACE, device="cpu", workers=1, note=notes.append) as job:
        wait(job)
    return job


def fail(folder: Path, host: LocalHost, notes: list[str]) -> None:
    """Follow a job that will not do, as a flow does."""
    with running_remote_job(folder, host, PLACE, device="cpu", workers=1, note=notes.append) as job:
        wait(job)
        raise job.failure("train")


def group_on(host: LocalHost, key: str) -> int:
    handle = find_job(host, PLACE.jobs, key)
    assert handle is not None
    group = job_status(host, handle).process_id
    assert group is not None
    return group


def left_behind(tmp_path: Path) -> list[str]:
    return [path.name for name in ("runs", "jobs") for path in (tmp_path / "host" / "jade" / name).glob("*")]


def test_a_run_trains_there_and_gives_the_very_files_that_it_gives_here(
    small_windows: Windows, host: FaultyHost, tmp_path: Path, notes: list[str]
) -> None:
    for name in ("here", "there"):
        job = run_of(tmp_path / name, small_windows)
    with running_job(tmp_path / "here", device="cpu", workers=1) as local:
        wait(local)
    remote = follow(tmp_path / "there", host, notes)
    assert (remote.exit_status, remote.state[PART].finished, remote.state[PART].epochs_done) == (0, 2, 2)
    for training in job.trainings:
        assert is_done(training, files_of(training, tmp_path / "there"))
        logs = [files_of(training, tmp_path / name).log.read_text() for name in ("here", "there")]
        assert logs[0] == logs[1]
    events = [json.loads(line)["event"] for line in (tmp_path / "there" / "remote.log").read_text().splitlines()]
    assert (events[0], events[-1], events.count("training_done")) == ("job_started", "job_done", 2)
    assert left_behind(tmp_path) == []
    assert load_records() == []
    assert notes == []


def test_what_is_done_already_needs_no_host(small_run: RunLayout, tmp_path: Path, notes: list[str]) -> None:
    host = FaultyHost(tmp_path / "host")

    def refuse(doing: str) -> None:
        raise AssertionError(doing)

    host.fault = refuse
    job = follow(small_run.root, host, notes)
    assert (job.exit_status, job.state[PART].finished, job.state[PART].epochs_done) == (0, 2, 4)


def left_on_the_host(small_run: RunLayout, folder: Path, host: LocalHost) -> JobHandle:
    """Put a job of a finished run on a host, as it stands there once all results are here."""
    shutil.copytree(small_run.root, folder)
    key = job_key(load_job(folder / "job.json").trainings)
    host.run(f"mkdir -p {PLACE.run(key)}", timeout_s=10)
    handle = start_job(host, PLACE.jobs, JobSpec(key, ("true",), ".", time_limit_s=60))
    deadline = time.monotonic() + 60
    while not job_status(host, handle).is_over:
        assert time.monotonic() < deadline
    save_record(RemoteRun("ci", key, "run", str(folder), 2, "2026-01-01T00:00:00+00:00"))
    return handle


def test_what_a_flow_left_that_was_killed_once_all_results_were_here_is_removed_by_the_next(
    small_run: RunLayout, host: FaultyHost, tmp_path: Path, notes: list[str]
) -> None:
    left_on_the_host(small_run, tmp_path / "run", host)
    assert left_behind(tmp_path) != []
    assert follow(tmp_path / "run", host, notes).exit_status == 0
    assert left_behind(tmp_path) == []
    assert load_records() == []
    assert notes == []


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_a_job_that_is_lost_once_all_results_are_here_has_done_well_and_leaves_nothing(
    is_interrupted: bool, small_run: RunLayout, host: FaultyHost, tmp_path: Path, notes: list[str]
) -> None:
    handle = left_on_the_host(small_run, tmp_path / "run", host)
    host.run(f"rm {handle.folder}/exit_code", timeout_s=10)  # as if all its processes had been killed at once
    (manifest, *_) = sorted((tmp_path / "run").glob("*/**/manifest.json"))
    manifest.rename(tmp_path / "kept")
    there = RemoteTrainingJob(tmp_path / "run", host, PLACE, device="cpu", workers=1, note=notes.append)
    (tmp_path / "kept").rename(manifest)
    there._handle = handle
    there._follower.start()
    wait(there)
    assert there.exit_status == 0
    if is_interrupted:
        there.leave()
    else:
        there.finish()
    assert left_behind(tmp_path) == []
    assert load_records() == []


def test_connections_lost_at_every_kind_of_call_cost_nothing(
    small_windows: Windows, host: FaultyHost, tmp_path: Path, notes: list[str]
) -> None:
    job = run_of(tmp_path / "run", small_windows)
    seen: set[str] = set()

    def cut_once(doing: str) -> None:
        kind = " ".join(doing.split()[:4])
        if kind not in seen:
            seen.add(kind)
            raise errors.ConnectionLost("ci", doing, "cut by the test")

    host.fault = cut_once
    remote = follow(tmp_path / "run", host, notes)
    assert remote.exit_status == 0
    assert all(is_done(training, files_of(training, tmp_path / "run")) for training in job.trainings)
    assert {"put", "get"} < {kind.split()[0] for kind in seen}
    assert {"# jade: start job", "# jade: look at", "# jade: find job", "# jade: remove job"} < seen
    assert left_behind(tmp_path) == []


def test_a_run_whose_flow_died_is_attached_to_and_not_trained_twice(
    small_windows: Windows, host: FaultyHost, tmp_path: Path, notes: list[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    run_of(first, small_windows)
    job = run_of(second, small_windows)
    # All that a process which is killed leaves: the job over there, and the record here.
    dead = RemoteTrainingJob(first, host, PLACE, device="cpu", workers=1)
    dead._start_anew()
    assert [record.run_id for record in load_records()] == ["first"]
    remote = follow(second, host, notes)
    assert remote.exit_status == 0
    assert notes == ["ci: attached to the job that does these trainings already"]
    events = [json.loads(line) for line in (second / "remote.log").read_text().splitlines()]
    assert [event["event"] for event in events].count("job_started") == 1
    assert all(is_done(training, files_of(training, second)) for training in job.trainings)
    assert load_records() == []


def test_an_attempt_that_left_some_results_is_attached_to_all_the_same(
    small_windows: Windows, host: FaultyHost, tmp_path: Path, notes: list[str]
) -> None:
    job = run_of(tmp_path / "first", small_windows)
    dead = RemoteTrainingJob(tmp_path / "first", host, PLACE, device="cpu", workers=1)
    handle = dead._start_anew()
    first = job.trainings[0]
    deadline = time.monotonic() + 100
    while not job_status(host, handle).is_over:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    second = tmp_path / "second"
    run_of(second, small_windows)
    fetch_training(host, PLACE.run(dead.key), first, second)
    followed = follow(second, host, notes)
    assert followed.exit_status == 0
    assert notes == ["ci: attached to the job that does these trainings already"]
    assert all(is_done(training, files_of(training, second)) for training in job.trainings)
    assert list_jobs(host, PLACE.jobs) == ()
    assert not [path for path in (tmp_path / "host").glob("jade/*/*") if path.parent.name != "code"]


def test_an_error_in_the_block_stops_every_process_there_and_says_so(
    small_windows: Windows, host: FaultyHost, tmp_path: Path, notes: list[str]
) -> None:
    job = run_of(tmp_path / "run", small_windows, LONG)
    key = job_key(job.trainings)
    groups: list[int] = []

    def interrupted() -> None:
        with running_remote_job(tmp_path / "run", host, PLACE, device="cpu", workers=2, note=notes.append) as remote:
            wait(remote, lambda: remote.state[PART].epochs_done > 0)
            groups.append(group_on(host, key))
            assert len(processes_of_group(groups[0])) > 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert processes_of_group(groups[0]) == []
    assert notes == ["ci: stopped; nothing of run runs there any more"]
    assert load_records() == []
    ((_, status),) = list_jobs(host, PLACE.jobs)
    assert status.state is JobState.DONE


def test_a_host_out_of_reach_is_not_taken_for_a_failure_of_the_job(
    small_windows: Windows, host: FaultyHost, tmp_path: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = run_of(tmp_path / "run", small_windows, LONG)

    def lost(*arguments: object, **more: object) -> None:
        raise errors.HostUnreachable("ci", 300.0, 9, "timed out")

    monkeypatch.setattr("tasks.execution.remote.follow_log", lost)
    with pytest.raises(errors.HostUnreachable):
        fail(tmp_path / "run", host, notes)
    assert "may still train there" in notes[0]
    assert [record.key for record in load_records()] == [job_key(job.trainings)]
    assert processes_of_group(group_on(host, job_key(job.trainings)))


def test_a_job_that_fails_says_why_and_where(
    small_windows: Windows, host: FaultyHost, tmp_path: Path, notes: list[str]
) -> None:
    run_of(tmp_path / "run", small_windows)
    RunLayout(tmp_path / "run").arrays(small_windows.name).write_bytes(b"not arrays")
    with pytest.raises(TrainingFailed, match="train on ci: the training process exited with 2") as caught:
        fail(tmp_path / "run", host, notes)
    assert "expected arrays with SHA-256" in str(caught.value)
    assert load_records() == []


def test_a_host_that_cannot_train_gets_nothing_sent(
    small_windows: Windows, host: FaultyHost, tmp_path: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_of(tmp_path / "run", small_windows)

    def refuse(host: object, place: object, *, device: str, is_quick: bool) -> None:
        raise HostNotReady("no torch")

    monkeypatch.setattr("tasks.execution.remote.check_ready", refuse)
    with (
        pytest.raises(HostNotReady),
        running_remote_job(tmp_path / "run", host, PLACE, device="cpu", workers=1, note=notes.append),
    ):
        raise AssertionError("never entered")
    assert list((tmp_path / "host").iterdir()) == []
    assert load_records() == []


def test_a_host_whose_torch_sees_no_gpu_trains_nothing(
    small_windows: Windows, host: FaultyHost, tmp_path: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_of(tmp_path / "run", small_windows)

    def refuse(host: object, place: object, *, device: str, is_quick: bool = False) -> None:
        if not is_quick:
            raise HostNotReady("torch sees: no GPU")

    monkeypatch.setattr("tasks.execution.remote.check_ready", refuse)
    with (
        pytest.raises(HostNotReady, match="no GPU"),
        running_remote_job(tmp_path / "run", host, PLACE, device="cuda", workers=1, note=notes.append),
    ):
        raise AssertionError("never entered")
    assert list_jobs(host, PLACE.jobs) == ()
    assert load_records() == []


def test_a_finished_job_whose_results_were_removed_is_done_again(
    small_windows: Windows, host: FaultyHost, tmp_path: Path, notes: list[str]
) -> None:
    job = run_of(tmp_path / "run", small_windows)
    dead = RemoteTrainingJob(tmp_path / "run", host, PLACE, device="cpu", workers=1)
    handle = dead._start_anew()
    deadline = time.monotonic() + 60
    while not job_status(host, handle).is_over:
        assert time.monotonic() < deadline
    host.run(f"rm -r {PLACE.run(dead.key)}", timeout_s=10)
    assert follow(tmp_path / "run", host, notes).exit_status == 0
    assert is_done(job.trainings[0], files_of(job.trainings[0], tmp_path / "run"))


def test_a_host_lost_in_the_middle_costs_only_the_epochs_since_the_last_checkpoint(
    small_windows: Windows, host: FaultyHost, tmp_path: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.execution.remote.MIRROR_EVERY_S", 0.0)
    plan = replace(PLAN, epochs=200, folds=1)
    job = run_of(tmp_path / "a" / "first", small_windows, plan)
    (training,) = job.trainings
    entry = tmp_path / "a" / ".trainings" / f"{training.run_key}.unfinished"
    kept_here = kept_trainings(open_place(tmp_path / "a"))

    def lose_the_host() -> None:
        first = tmp_path / "a" / "first"
        mirror = Mirror(kept_here, RunLayout(first), notes.append)
        with running_remote_job(first, host, PLACE, device="cpu", workers=1, mirror=mirror, note=notes.append) as job:
            wait(job, entry.is_file)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lose_the_host()
    second = RunLayout(tmp_path / "a" / "second")
    run_of(second.root, small_windows, plan)
    assert kept_here.take_over(training, second)
    kept = json.loads(files_of(training, second.root).manifest.read_text())
    assert not kept["complete"]
    monkeypatch.setattr("tasks.execution.remote.MIRROR_EVERY_S", 60.0)
    follow(second.root, FaultyHost(tmp_path / "another", name="other"), notes)
    events = [json.loads(line) for line in second.remote_log.read_text().splitlines()]
    (started,) = [event for event in events if event["event"] == "training_started"]
    assert started["first_epoch"] == kept["epoch"] + 1 > 10
    assert is_done(training, files_of(training, second.root))
    assert not files_of(training, second.root).resume.exists()
    assert kept_here.remember(training, second)
    assert not entry.exists()


class TestFetching:
    @pytest.fixture
    def place(self, small_run: RunLayout, host: FaultyHost, tmp_path: Path) -> Path:
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
        self, small_run: RunLayout, host: FaultyHost, place: Path, tmp_path: Path
    ) -> None:
        (place / "intruder.txt").write_text("not named")
        into = self.fetch(small_run, host, tmp_path)
        named = {item["path"] for item in json.loads((place / "manifest.json").read_text())["files"]}
        assert {path.name for path in into.iterdir()} == named | {"manifest.json"}

    def test_a_flipped_byte_is_found_and_no_manifest_is_written(
        self, small_run: RunLayout, host: FaultyHost, place: Path, tmp_path: Path
    ) -> None:
        path = next(place.glob("checkpoint_*"))
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
            ({"size": "1"}, errors.TransferCorrupted),
            ({"path": 7}, errors.TransferCorrupted),
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


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "training_done", "arm": "soft_span", "run_key": "nobody", "seed": 0, "fold": 0, "dataset": "x"}',
        '{"event": "epoch", "arm": "nobody", "seed": 0}',
        '{"event": "epoch", "arm": "soft_span", "seed": "x"}',
        '{"event": "training_done", "arm": []}',
        "\x1b]0;title\x07 out of memory",
        '{"event": ',
        "7",
    ],
)
def test_what_a_host_says_that_makes_no_sense_is_kept_for_the_message_and_nothing_more(
    line: str, small_windows: Windows, host: FaultyHost, tmp_path: Path
) -> None:
    run_of(tmp_path / "run", small_windows)
    job = RemoteTrainingJob(tmp_path / "run", host, PLACE, device="cpu", workers=1)
    job._hear_remote(line)
    assert job.state[PART].finished == 0
    assert job.stderr_tail
    assert "\x1b" not in job.stderr_tail


def test_a_training_that_starts_over_for_a_damaged_checkpoint_is_told_of(
    small_windows: Windows, host: FaultyHost, tmp_path: Path
) -> None:
    (training, *_) = run_of(tmp_path / "run", small_windows).trainings
    job = RemoteTrainingJob(tmp_path / "run", host, PLACE, device="cpu", workers=1)
    told = {name: getattr(training, name) for name in ("arm", "dataset", "seed", "fold", "run_key")}
    job._hear_remote(json.dumps({"event": "resume_refused", **told, "reason": "c.pt is damaged"}))
    assert job.stderr_tail == "soft_span seed 0 fold 0 starts over: c.pt is damaged"
