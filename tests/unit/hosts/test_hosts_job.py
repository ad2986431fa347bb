from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.names import HostAddress
from tasks.hosts.access import SshAccess
from tasks.hosts.errors import CommandTimedOut, HostUnreachable, HostUserError, JobFailed
from tasks.hosts.host import CommandResult, Host
from tasks.hosts.job import (
    JobHandle,
    JobSpec,
    JobState,
    follow_log,
    job_status,
    parse_status,
    raise_unless_success,
    read_log_tail,
    start_job,
)
from tasks.hosts.keys import HostTrust
from tasks.hosts.shell import MAX_LINE_BYTES, LineFolder
from tasks.hosts.ssh import SshHost
from tests.fakes.job_contract import JobContract, follow_to_end, sh, wait_until_over
from tests.fakes.local_host import LocalHost, OnlyAsked
from tests.fakes.ssh_server import FakeSshServer, running_fake_server, write_private_key


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


class TestJobsOnThisMachine(JobContract):
    @pytest.fixture
    def host(self, tmp_path: Path) -> Host:
        return LocalHost(tmp_path / "host")

    def test_a_clock_that_is_an_hour_off_does_no_harm(
        self, host: Host, place: Path, jobs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        programs = tmp_path / "programs"
        programs.mkdir()
        skewed = programs / "date"
        skewed.write_text("#!/bin/sh\necho $(($(/bin/date +%s) - 3600))\n")
        skewed.chmod(0o755)
        monkeypatch.setenv("PATH", str(programs), prepend=":")
        job = start_job(host, jobs, sh("while [ ! -e go ]; do sleep 0.1; done", place))
        assert int(Path(job.folder, "heartbeat").read_text()) < time.time() - 3500
        status = job_status(host, job)
        assert status.state is JobState.RUNNING
        assert status.heartbeat_age_s is not None
        assert 0 <= status.heartbeat_age_s < 60
        (place / "go").touch()
        assert wait_until_over(host, job).is_success

    def test_a_job_that_was_killed_says_what_the_host_knows_of_it(
        self, host: Host, place: Path, jobs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = start_job(host, jobs, sh("echo up; kill -KILL $$", place))
        assert wait_until_over(host, job).exit_status == 137
        assert read_log_tail(host, job).splitlines()[-1].startswith("jade: killed by signal 9: out of memory, or by")
        programs = tmp_path / "programs"
        programs.mkdir()
        (programs / "dmesg").write_text(
            f"#!/bin/sh\n[ ! -e {place}/starved ] || echo 'Out of memory: Killed process 7 (python)'\n"
        )
        (programs / "dmesg").chmod(0o755)
        monkeypatch.setenv("PATH", str(programs), prepend=":")
        job = start_job(host, jobs, sh("touch starved; exit 1", place, key="other"))
        wait_until_over(host, job)
        with pytest.raises(JobFailed, match=r"out of memory, by the kernel's log: .*Killed process 7 \(python\)"):
            raise_unless_success(host, job, job_status(host, job))

    def test_a_full_disk_is_told_at_the_start(
        self, host: Host, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        programs = tmp_path / "programs"
        programs.mkdir()
        cat = programs / "cat"
        cat.write_text('#!/bin/sh\nexec /bin/cat "$@" > /dev/full\n')
        cat.chmod(0o755)
        monkeypatch.setenv("PATH", str(programs), prepend=":")
        spec = JobSpec("run", ("true",), str(place), time_limit_s=60, environment={"A": "b"})
        with pytest.raises(HostUserError, match="No space left"):
            start_job(host, str(place / "jobs"), spec)


class TestJobsOverSsh:
    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[FakeSshServer]:
        key = write_private_key(tmp_path / "id_ed25519")
        with running_fake_server(tmp_path / "host", [key]) as running:
            yield running

    @pytest.fixture
    def host(self, server: FakeSshServer, tmp_path: Path) -> Iterator[Host]:
        address = HostAddress("127.0.0.1", server.port, "tester")
        trust = HostTrust(pins=(server.fingerprint,))
        host = SshHost(SshAccess(address, trust, key_file=tmp_path / "id_ed25519", use_agent=False))
        yield host
        host.close()

    def test_a_log_that_is_cut_again_and_again_comes_whole_and_once(
        self, host: Host, server: FakeSshServer, place: Path
    ) -> None:
        text = "i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i + 1)); sleep 0.05; done"
        job = start_job(host, str(place / "jobs"), sh(text, place))
        lines: list[str] = []
        num_cuts = 0
        for batch in follow_log(host, job, poll_s=0.05, sleep=lambda s: time.sleep(min(s, 0.05))):
            lines += batch.lines
            num_cuts += server.cut()
        assert lines == [f"line {i}" for i in range(40)]
        assert num_cuts > 3

    def test_secrets_are_on_no_command_line_that_the_server_sees(
        self, host: Host, server: FakeSshServer, place: Path
    ) -> None:
        spec = JobSpec("run", ("true",), str(place), time_limit_s=60, environment={"TOKEN": "s3cr3t"})
        wait_until_over(host, start_job(host, str(place / "jobs"), spec))
        assert server.commands
        assert not any("s3cr3t" in command for command in server.commands)

    def test_an_environment_that_arrived_in_part_starts_nothing(
        self, host: Host, server: FakeSshServer, place: Path
    ) -> None:
        # No single variable may be longer than 128 KiB.
        environment = {f"LONG_{number}": "x" * 50_000 for number in range(20)}
        spec = JobSpec("run", ("touch", "ran"), str(place), time_limit_s=60, environment=environment)
        host.run("true", timeout_s=60)
        server.cut_after_bytes = 300_000
        with pytest.raises(Exception) as caught:
            start_job(host, str(place / "jobs"), spec)
        assert getattr(caught.value, "is_transient", False)
        job = start_job(host, str(place / "jobs"), spec)
        follow_to_end(host, job)
        assert (place / "ran").exists()


class ScriptedHost(OnlyAsked):
    """A host whose answers, or errors, are given in advance."""

    name = "scripted"

    def __init__(self, answers: list[bytes | Exception]) -> None:
        self.answers = answers
        self.commands: list[str] = []

    def run(self, command: str, *, timeout_s: float, stdin: bytes = b"", check: bool = True) -> CommandResult:
        self.commands.append(command)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return CommandResult(command, 0, answer, "")


class TestFollowing:
    JOB = JobHandle("run", 1, "jobs/run/attempt-1", was_attached=False)
    RUNNING = b"jade-job running - - 100 99 5\n"
    DONE = b"jade-job done 0 exited 100 99 5\n"
    LOST = HostUnreachable("h", 1.0, 1, "refused")

    def test_patience_ends_and_the_last_error_is_raised(self) -> None:
        now = [0.0]
        host = ScriptedHost([self.RUNNING, *([self.LOST] * 50)])
        following = follow_log(
            host, self.JOB, patience_s=60, sleep=lambda s: now.__setitem__(0, now[0] + s), clock=lambda: now[0]
        )
        next(following)
        with pytest.raises(HostUnreachable):
            list(following)
        # Patience begins with the look that fails, half a second after the one that did not.
        assert 45 <= now[0] <= 60.5

    def test_an_answer_renews_patience(self) -> None:
        now = [0.0]
        timed_out = CommandTimedOut("h", "c", 60)
        answers: list[bytes | Exception] = [timed_out, timed_out, self.RUNNING + b"a\n"] * 20
        answers.append(self.DONE)
        host = ScriptedHost(answers)
        batches = list(
            follow_log(
                host,
                self.JOB,
                patience_s=5,
                sleep=lambda s: now.__setitem__(0, now[0] + s),
                clock=lambda: now[0],
            )
        )
        assert sum(len(batch.lines) for batch in batches) == 20

    def test_an_error_that_is_not_transient_is_raised_at_once(self) -> None:
        with pytest.raises(HostUserError):
            list(follow_log(ScriptedHost([HostUserError("full")]), self.JOB, sleep=lambda _: None))

    def test_a_line_in_progress_comes_once_it_is_whole(self) -> None:
        host = ScriptedHost([self.RUNNING + b"10%\r20%", self.RUNNING + b"\r30%", self.DONE + b"\rall\n"])
        batches = list(follow_log(host, self.JOB, sleep=lambda _: None))
        assert [batch.lines for batch in batches] == [(), (), ("all",)]
        assert "offset=7" in host.commands[1]


class TestLineFolder:
    @given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
    def test_lines_do_not_depend_on_where_the_stream_was_cut(self, data: bytes, cuts: list[int]) -> None:
        whole, pieces = LineFolder(), LineFolder()
        expected = whole.add(data) + whole.finish()
        bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
        found = [line for start, stop in itertools.pairwise(bounds) for line in pieces.add(data[start:stop])]
        assert found + pieces.finish() == expected
        assert pieces.num_read == whole.num_read == len(data)

    def test_a_line_without_end_is_given_out_in_pieces(self) -> None:
        folder = LineFolder()
        lines = [line for _ in range(50) for line in folder.add(b"x" * 10_000)]
        lines += folder.finish()
        assert "".join(lines) == "x" * 500_000
        assert max(map(len, lines)) == MAX_LINE_BYTES

    def test_bytes_that_are_no_text_are_shown_as_such(self) -> None:
        assert LineFolder().add(b"\xff\xfe ok\n") == ["\ufffd\ufffd ok"]


class TestJobSpec:
    @pytest.mark.parametrize("key", ["", ".", "../x", "a/b", "-x", "a b", "x" * 200, "é"])
    def test_a_run_key_is_a_plain_name(self, key: str) -> None:
        with pytest.raises(ValueError, match="run key"):
            JobSpec(key, ("true",), ".", time_limit_s=1)

    @pytest.mark.parametrize("name", ["A B", "1A", "A;rm", "", "JADE_JOB_ID"])
    def test_a_variable_has_a_plain_name(self, name: str) -> None:
        with pytest.raises(ValueError, match="environment"):
            JobSpec("run", ("true",), ".", time_limit_s=1, environment={name: "x"})

    @pytest.mark.parametrize("report", ["", "nonsense", "jade-job running - - 1", "x done 0 exited 1 1 1"])
    def test_a_status_that_is_none_is_refused(self, report: str) -> None:
        with pytest.raises(ValueError, match="status"):
            parse_status(report)
