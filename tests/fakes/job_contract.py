"""What detached jobs must do on every host."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.hosts.errors import CommandFailed, JobFailed, JobLost, JobStopped, JobTimedOut, RemoteFileMissing
from tasks.hosts.host import Host
from tasks.hosts.job import (
    Ending,
    JobHandle,
    JobSpec,
    JobState,
    JobStatus,
    LogBatch,
    find_job,
    follow_log,
    job_status,
    list_jobs,
    raise_unless_success,
    read_log_tail,
    remove_job,
    start_job,
    stop_job,
)
from tests.helpers.processes import processes_with, unique_sleep, wait_until, wait_until_none, words_of


def sh(text: str, place: Path, *, key: str = "run", limit_s: int = 60, grace_s: int = 1) -> JobSpec:
    return JobSpec(key, ("sh", "-c", text), str(place), time_limit_s=limit_s, stop_grace_s=grace_s)


def follow_to_end(host: Host, job: JobHandle) -> tuple[list[str], LogBatch]:
    lines: list[str] = []
    batch = None
    for batch in follow_log(host, job, poll_s=0.05):
        lines += batch.lines
    assert batch is not None
    return lines, batch


def wait_for_line(host: Host, job: JobHandle, wanted: str) -> LogBatch:
    for batch in follow_log(host, job, poll_s=0.05):
        if wanted in batch.lines:
            return batch
    raise AssertionError(f"the job ended without saying {wanted}")


def wait_until_over(host: Host, job: JobHandle, limit_s: float = 60.0) -> JobStatus:
    deadline = time.monotonic() + limit_s
    while not (status := job_status(host, job)).is_over and time.monotonic() < deadline:
        time.sleep(0.05)
    return status


class JobContract:
    """`start_job`, `follow_log`, `stop_job` and the rest; `place` is a folder that both sides see."""

    @pytest.fixture
    def jobs(self, place: Path) -> Iterator[str]:
        yield str(place / "jobs")
        for file in place.glob("jobs/*/attempt-*/*"):
            if file.name in {"supervisor", "process"}:
                with_group = -1 if file.name == "process" else 1
                try:
                    os.kill(with_group * int(file.read_text().split()[0]), signal.SIGKILL)
                except (ProcessLookupError, ValueError, IndexError):
                    continue

    def test_a_job_runs_to_its_end_and_its_log_comes_whole(self, host: Host, place: Path, jobs: str) -> None:
        job = start_job(host, jobs, sh("echo one; echo two >&2; printf last", place))
        assert (job.attempt, job.was_attached) == (1, False)
        lines, batch = follow_to_end(host, job)
        assert lines == ["one", "two", "last"]
        assert batch.status.is_success
        assert batch.status.num_log_bytes == 12
        raise_unless_success(host, job, batch.status)

    def test_a_job_outlives_the_connection_that_started_it(self, host: Host, place: Path, jobs: str) -> None:
        job = start_job(host, jobs, sh("while [ ! -e go ]; do sleep 0.1; done; echo went", place))
        host.close()
        (place / "go").touch()
        wait_until(Path(job.folder, "exit_code").exists)
        assert Path(job.folder, "out.log").read_text() == "went\n"
        assert Path(job.folder, "exit_code").read_text() == "0 exited\n"

    def test_starting_again_attaches(self, host: Host, place: Path, jobs: str) -> None:
        spec = sh("echo up; while [ ! -e go ]; do sleep 0.1; done", place)
        first = start_job(host, jobs, spec)
        second = start_job(host, jobs, spec)
        assert second == replace(first, was_attached=True)
        (place / "go").touch()
        assert wait_until_over(host, first).is_success
        third = start_job(host, jobs, spec)
        assert third == second, "a job that did well is not done again"
        assert follow_to_end(host, third)[0] == ["up"]

    def test_of_many_starters_one_starts_and_the_rest_attach(self, host: Host, place: Path, jobs: str) -> None:
        spec = sh("echo $$ >> pids; while [ ! -e go ]; do sleep 0.1; done", place)
        handles: list[JobHandle] = []
        starters = [threading.Thread(target=lambda: handles.append(start_job(host, jobs, spec))) for _ in range(5)]
        for starter in starters:
            starter.start()
        for starter in starters:
            starter.join()
        assert sorted(handle.was_attached for handle in handles) == [False, True, True, True, True]
        (place / "go").touch()
        assert wait_until_over(host, handles[0]).is_success
        assert len((place / "pids").read_text().split()) == 1

    def test_a_failed_job_shows_its_end_and_is_followed_by_a_new_attempt(
        self, host: Host, place: Path, jobs: str
    ) -> None:
        job = start_job(host, jobs, sh("echo before; echo the reason >&2; exit 3", place))
        status = wait_until_over(host, job)
        with pytest.raises(JobFailed, match="the reason") as caught:
            raise_unless_success(host, job, status)
        assert caught.value.exit_status == 3
        again = start_job(host, jobs, sh("true", place))
        assert (again.attempt, again.was_attached) == (2, False)
        assert wait_until_over(host, again).is_success

    def test_a_program_that_is_not_there_fails_with_its_name(self, host: Host, place: Path, jobs: str) -> None:
        job = start_job(host, jobs, JobSpec("run", ("no-such-program", "x"), str(place), time_limit_s=60))
        status = wait_until_over(host, job)
        with pytest.raises(JobFailed, match="no-such-program"):
            raise_unless_success(host, job, status)

    def test_secrets_reach_the_job_and_nothing_else(self, host: Host, place: Path, jobs: str) -> None:
        word = secrets.token_hex(8)
        secret = f"{word} 'quoted' \"$HOME\" \\ `x` \n second line"
        spec = sh('printf "%s" "$TOKEN" > got; while [ ! -e go ]; do sleep 0.1; done', place)
        job = start_job(host, jobs, replace(spec, environment={"TOKEN": secret}))
        assert word not in repr(replace(spec, environment={"TOKEN": secret}))
        wait_until((place / "got").exists)
        assert processes_with(word) == []
        (place / "go").touch()
        wait_until_over(host, job)
        assert (place / "got").read_text() == secret
        for file in Path(job.folder).iterdir():
            assert word not in file.read_text()
            assert file.stat().st_mode & 0o077 == 0

    def test_stop_ends_even_what_ignores_term_or_left_the_group(self, host: Host, place: Path, jobs: str) -> None:
        sleep = unique_sleep()
        text = f"trap '' TERM; setsid {sleep} & (trap '' TERM; {sleep}) & echo up; while :; do sleep 1; done"
        job = start_job(host, jobs, sh(text, place))
        wait_for_line(host, job, "up")
        status = stop_job(host, job, grace_s=1)
        assert (status.state, status.ending) == (JobState.DONE, Ending.STOPPED)
        assert wait_until_none(words_of(sleep)) == []
        again = stop_job(host, job)
        assert replace(again, heartbeat_age_s=None) == replace(status, heartbeat_age_s=None)
        with pytest.raises(JobStopped):
            raise_unless_success(host, job, status)

    def test_a_job_may_tidy_up_when_it_is_stopped(self, host: Host, place: Path, jobs: str) -> None:
        text = "trap 'echo saved; sleep 0.3; exit 0' TERM; echo up; while :; do sleep 0.1; done"
        job = start_job(host, jobs, sh(text, place, grace_s=10))
        wait_for_line(host, job, "up")
        status = stop_job(host, job, grace_s=10)
        assert (status.exit_status, status.ending) == (0, Ending.STOPPED)
        assert read_log_tail(host, job).split().count("saved") == 1, "TERM comes once"

    def test_the_host_itself_keeps_the_time_limit(self, host: Host, place: Path, jobs: str) -> None:
        sleep = unique_sleep()
        job = start_job(host, jobs, sh(f"echo up; {sleep}", place, limit_s=3))
        status = wait_until_over(host, job)
        assert status.ending is Ending.TIMED_OUT
        assert wait_until_none(words_of(sleep)) == []
        with pytest.raises(JobTimedOut, match="up"):
            raise_unless_success(host, job, status)

    def test_what_a_job_leaves_behind_is_ended_with_it(self, host: Host, place: Path, jobs: str) -> None:
        sleep = unique_sleep()
        job = start_job(host, jobs, sh(f"{sleep} & exit 0", place))
        assert wait_until_over(host, job).is_success
        assert wait_until_none(words_of(sleep)) == []

    @pytest.mark.parametrize("victim", ["both", "supervisor"])
    def test_a_killed_job_is_lost_and_the_next_attempt_is_alone(
        self, host: Host, place: Path, jobs: str, victim: str
    ) -> None:
        sleep = unique_sleep()
        job = start_job(host, jobs, sh(f"echo up; {sleep}", place))
        wait_for_line(host, job, "up")
        supervisor = int(Path(job.folder, "supervisor").read_text().split()[0])
        if victim == "both":
            # Its whole session, the watcher included, as the kernel does when memory is short.
            os.killpg(supervisor, signal.SIGKILL)
            os.killpg(int(Path(job.folder, "process").read_text().split()[0]), signal.SIGKILL)
        else:
            os.kill(supervisor, signal.SIGKILL)
        status = wait_until_over(host, job)
        assert (status.state, status.exit_status, status.ending) == (JobState.LOST, None, None)
        assert not Path(job.folder, "exit_code").exists()
        with pytest.raises(JobLost, match="up") as caught:
            raise_unless_success(host, job, status)
        assert caught.value.is_transient
        assert start_job(host, jobs, sh("true", place)).attempt == 2
        assert wait_until_none(words_of(sleep)) == []

    def test_a_process_id_that_was_given_out_anew_is_not_the_job(self, host: Host, place: Path, jobs: str) -> None:
        job = start_job(host, jobs, sh("true", place))
        wait_until_over(host, job)
        Path(job.folder, "exit_code").unlink()
        with subprocess.Popen(unique_sleep().split(), start_new_session=True) as stranger:
            Path(job.folder, "supervisor").write_text(f"{stranger.pid} 12345@another-boot\n")
            Path(job.folder, "process").write_text(f"{stranger.pid} {stranger.pid} 12345@another-boot\n")
            assert job_status(host, job).state is JobState.LOST
            assert stop_job(host, job, grace_s=0).state is JobState.LOST
            assert stranger.poll() is None
            stranger.kill()

    def test_a_claim_that_was_never_started_is_given_up_after_a_while(self, host: Host, place: Path, jobs: str) -> None:
        abandoned = Path(jobs, "run", "attempt-1")
        abandoned.mkdir(parents=True)
        attached = start_job(host, jobs, sh("true", place))
        assert (attached.attempt, attached.was_attached) == (1, True)
        assert job_status(host, attached).state is JobState.STARTING
        (abandoned / "claimed").write_text(f"{int(time.time()) - 3600}\n")
        assert job_status(host, attached).state is JobState.LOST
        assert start_job(host, jobs, sh("true", place)).attempt == 2

    def test_carriage_returns_are_folded(self, host: Host, place: Path, jobs: str) -> None:
        job = start_job(host, jobs, sh("printf 'a\\nbb\\n10%%\\r50%%\\rdone\\r\\n'; printf '1%%\\r2%%'", place))
        lines, _ = follow_to_end(host, job)
        assert lines == ["a", "bb", "done", "2%"]

    def test_a_flood_of_lines_arrives_whole_and_in_order(self, host: Host, place: Path, jobs: str) -> None:
        program = "import sys; sys.stdout.writelines(f'line {i} ' + 'x' * 80 + '\\n' for i in range(60_000))"
        command = (sys.executable, "-c", program)
        job = start_job(host, jobs, JobSpec("run", command, str(place), time_limit_s=60))
        lines, _ = follow_to_end(host, job)
        assert [line.split()[1] for line in lines] == [str(i) for i in range(60_000)]

    def test_jobs_are_found_listed_and_removed(self, host: Host, place: Path, jobs: str) -> None:
        assert list_jobs(host, jobs) == ()
        assert find_job(host, jobs, "run") is None
        done = start_job(host, jobs, sh("true", place))
        wait_until_over(host, done)
        running = start_job(host, jobs, sh(unique_sleep(), place, key="other.key-2"))
        assert find_job(host, jobs, "run") == replace(done, was_attached=True)
        assert {job.run_key: status.state for job, status in list_jobs(host, jobs)} == {
            "run": JobState.DONE,
            "other.key-2": JobState.RUNNING,
        }
        with pytest.raises(CommandFailed, match="still runs"):
            remove_job(host, jobs, "other.key-2")
        stop_job(host, running, grace_s=1)
        remove_job(host, jobs, "other.key-2")
        remove_job(host, jobs, "run")
        assert list_jobs(host, jobs) == ()

    def test_a_folder_that_is_gone_is_told(self, host: Host, place: Path, jobs: str) -> None:
        with pytest.raises(RemoteFileMissing):
            job_status(host, JobHandle("run", 1, f"{jobs}/run/attempt-1", was_attached=True))

    def test_relative_folders_start_at_the_hosts_own(self, host: Host, place: Path) -> None:
        home = host.run("pwd", timeout_s=60).text.strip()
        relative = os.path.relpath(place, home)
        spec = replace(sh("pwd", place), workdir=relative)
        job = start_job(host, f"{relative}/jobs", spec)
        lines, _ = follow_to_end(host, job)
        assert [Path(line).resolve() for line in lines] == [place.resolve()]

    def test_command_words_arrive_as_they_are(self, host: Host, place: Path, jobs: str) -> None:
        words = ("it's", "$HOME", "two  blanks", "", "new\nline", "*", "é")
        command = (sys.executable, "-c", "import sys; print(sys.argv[1:])", *words)
        job = start_job(host, jobs, JobSpec("run", command, str(place), time_limit_s=60))
        lines, _ = follow_to_end(host, job)
        assert lines == [str(list(words))]
        assert shlex.join(command)
