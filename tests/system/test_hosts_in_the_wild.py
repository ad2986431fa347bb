"""Accounts, servers and keys as they are found, on a real OpenSSH server."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.hosts.access import SshAccess
from tasks.hosts.errors import (
    AuthenticationFailed,
    CommandFailed,
    CommandTimedOut,
    HostError,
    HostUnreachable,
    HostUserError,
)
from tasks.hosts.host import RemotePlace
from tasks.hosts.job import follow_log, remove_job, start_job
from tasks.hosts.keys import HostTrust
from tasks.hosts.preflight import check_host
from tasks.hosts.ssh import SshHost, access_of
from tasks.settings.load import Settings
from tasks.settings.models import HostEntry
from tests.fakes.job_contract import sh
from tests.fakes.sshd import SSHD, Sshd, make_key, running_agent, running_sshd
from tests.helpers.processes import unique_sleep, wait_until_none, words_of

pytestmark = [pytest.mark.system, pytest.mark.skipif(SSHD is None, reason="no sshd here")]

APOSTROPHE = 'it\'s a "folder" $HOME'


def access_to(sshd: Sshd, **changes: object) -> SshAccess:
    from tasks.core.names import HostAddress

    access = SshAccess(
        HostAddress("127.0.0.1", sshd.port, sshd.user),
        HostTrust(pins=(sshd.fingerprint,)),
        key_file=sshd.user_key,
        use_agent=False,
        connect_timeout_s=60.0,
    )
    return replace(access, **changes)  # type: ignore[arg-type]


@contextmanager
def server(folder: Path, *, login_shell: str = "bash", config: str = "") -> Iterator[tuple[SshHost, Sshd]]:
    """A server whose sessions run as those of an account with another login shell, at home in the server's folder."""
    forced = f'ForceCommand {login_shell} -c "$SSH_ORIGINAL_COMMAND"' if login_shell != "bash" else ""
    with running_sshd(folder, extra_config=f"{forced}\n{config}") as sshd:
        host = SshHost(access_to(sshd), name="wild")
        yield host, sshd
        host.close()


class TestShells:
    def check(self, host: SshHost, place: Path, tmp_path: Path) -> None:
        """Files, a command with input, and a job with a long log pass."""
        source = tmp_path / "source"
        source.write_bytes(b"x" * 70_000)
        entries = host.put({"it's here": source}, str(place), timeout_s=60)
        host.get(entries, str(place), tmp_path / "back", timeout_s=60)
        assert (tmp_path / "back" / "it's here").read_bytes() == source.read_bytes()
        result = host.run("printf 'a\nb'; cat; echo \"it's\" >&2; exit 3", timeout_s=60, stdin=b"!$x", check=False)
        assert (result.stdout, result.stderr, result.exit_status) == (b"a\nb!$x", "it's", 3)
        job = start_job(host, f"{place}/jobs", sh('echo "it\'s done"', place))
        assert [line for batch in follow_log(host, job, poll_s=0.1) for line in batch.lines] == ["it's done"]
        remove_job(host, f"{place}/jobs", "run")

    @pytest.mark.parametrize("shell", ["dash", "bash", "tcsh", "bsd-csh", "fish", "zsh", "mksh", "busybox sh"])
    def test_any_login_shell_will_do(self, shell: str, tmp_path: Path) -> None:
        if shutil.which(shell.split(maxsplit=1)[0]) is None:
            pytest.skip(f"{shell} is not installed")
        with server(tmp_path / "sshd", login_shell=shell) as (host, _):
            self.check(host, tmp_path / APOSTROPHE, tmp_path)

    @pytest.mark.parametrize("shell", ["bash", "zsh", "mksh", "busybox"])
    def test_any_posix_shell_may_be_sh(self, shell: str, tmp_path: Path) -> None:
        program = shutil.which(shell)
        if program is None:
            pytest.skip(f"{shell} is not installed")
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "sh").symlink_to(program)
        config = f"SetEnv PATH={tmp_path}/bin:/usr/bin:/bin HOME={tmp_path}"
        with server(tmp_path / "sshd", config=config) as (host, _):
            assert host.run("readlink /proc/$$/exe", timeout_s=60).text.strip() == str(Path(program).resolve())
            self.check(host, tmp_path / APOSTROPHE, tmp_path)


START_UP_FILES = {
    "asks": "read -p 'Really? ' answer; read -r more",
    "prints": "echo 'Welcome to the machine!'; printf 'no line end'",
    "moves away": "cd /; export CDPATH=/tmp:/usr GREP_OPTIONS=--color=always TAR_OPTIONS=--totals",
    "has another shell": "exec zsh",
    "is slow": "sleep 3",
    "fails": "echo 'x: No such file or directory' >&2; false",
}


class TestStartUpFiles:
    @pytest.mark.parametrize("what", START_UP_FILES)
    def test_start_up_files_do_no_harm(self, what: str, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"hello")
        with server(tmp_path / "sshd") as (host, sshd):
            (sshd.folder / ".bashrc").write_text(START_UP_FILES[what] + "\n")
            entries = host.put({"a/b": source, "c": source}, "place", timeout_s=60)
            assert (sshd.folder / "place" / "a" / "b").read_bytes() == b"hello"
            host.get(entries, "place", tmp_path / "back", timeout_s=60)
            assert host.run("pwd; cd place/a && pwd; set -- $words; cat", timeout_s=60, stdin=b"in").text == (
                f"{sshd.folder}\n{sshd.folder}/place/a\nin"
            )
            report = check_host(host, RemotePlace("place", "python3", 60))
            found = {row.subject: row.found for row in report.findings}
            assert abs(int(found["clock"].split()[0])) < 60
            with pytest.raises(CommandFailed) as caught:
                host.run("echo why >&2; exit 7", timeout_s=60)
            assert caught.value.stderr_tail == "why"

    @pytest.mark.parametrize(
        ("start_up", "said"),
        [
            ("exit 0", "the session said nothing and ended with status 0.*Start-up files"),
            ("cat > /dev/null; exit", "the session said nothing and ended with status 0.*Start-up files"),
            ("exec tcsh", "it said .*Start-up|it said"),
            ("echo no training here; exit 1", "it said 'no training here'"),
        ],
    )
    def test_a_session_that_ends_before_the_command_names_its_start_up_files(
        self, start_up: str, said: str, tmp_path: Path
    ) -> None:
        with server(tmp_path / "sshd") as (host, sshd):
            (sshd.folder / ".bashrc").write_text(start_up + "\n")
            with pytest.raises(HostUserError, match=f"(?s)wild runs no commands: {said}"):
                host.run("echo never", timeout_s=60)

    def test_a_session_that_never_begins_is_given_up_and_names_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tasks.hosts.ssh.START_S", 1.0)
        sleep = unique_sleep()
        with server(tmp_path / "sshd") as (host, sshd):
            (sshd.folder / ".bashrc").write_text(f"{sleep}\n")
            started = time.monotonic()
            with pytest.raises(CommandTimedOut, match="Start-up files") as caught:
                host.run("echo never", timeout_s=60)
            assert time.monotonic() - started < 50
            assert caught.value.is_transient


class TestNoShell:
    @pytest.mark.parametrize(
        ("forced", "said"),
        [
            ("/usr/sbin/nologin", "This account is currently not available"),
            ("echo 'Error: Your SSH client does not support PTY'; exit 1", "does not support PTY"),
            ("echo 'Your password has expired.' >&2; exit 1", "Your password has expired"),
            ('exec rbash -c "$SSH_ORIGINAL_COMMAND"', "restricted"),
        ],
    )
    def test_what_the_server_says_is_quoted(self, forced: str, said: str, tmp_path: Path) -> None:
        with (
            server(tmp_path / "sshd", config=f"ForceCommand {forced}") as (host, _),
            pytest.raises(HostUserError, match=said),
        ):
            host.run("echo", timeout_s=60)

    def test_a_server_for_files_only_is_told_as_one(self, tmp_path: Path) -> None:
        with (
            server(tmp_path / "sshd", config="ForceCommand internal-sftp") as (host, _),
            pytest.raises(HostUserError, match=r"runs no commands: .*To train there takes a shell"),
        ):
            host.run("echo", timeout_s=60)


class TestSessions:
    def test_one_session_at_a_time_is_enough(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"x" * 9_000_000)
        sleep = unique_sleep()
        with server(tmp_path / "sshd", config="MaxSessions 1") as (host, _):
            texts: list[str] = []
            threads = [
                threading.Thread(target=lambda: texts.append(host.run("sleep 0.3; echo x", timeout_s=60).text))
                for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            entries = host.put({"large": source, "small": source}, str(tmp_path / "there"), timeout_s=60)
            host.get(entries, str(tmp_path / "there"), tmp_path / "back", timeout_s=60)
            for thread in threads:
                thread.join()
            assert texts == ["x\n"] * 4
            with pytest.raises(CommandTimedOut):
                host.run(sleep, timeout_s=1)
            assert wait_until_none(words_of(sleep)) == []
            assert host.run("echo on", timeout_s=60).text == "on\n"

    def test_a_server_without_sessions_is_told(self, tmp_path: Path) -> None:
        with (
            server(tmp_path / "sshd", config="MaxSessions 0") as (host, _),
            pytest.raises(HostUserError, match="MaxSessions"),
        ):
            host.run("echo", timeout_s=60)


class TestLogin:
    @pytest.fixture
    def slow(self, tmp_path: Path) -> Iterator[Sshd]:
        script = tmp_path / "keys.sh"
        script.write_text(f"sleep 6; cat {tmp_path}/sshd/user_key.pub\n")
        config = f"AuthorizedKeysCommand /bin/sh {script}\nAuthorizedKeysCommandUser root"
        with running_sshd(tmp_path / "sshd", extra_config=config) as sshd:
            (sshd.folder / "authorized_keys").write_text("")
            yield sshd

    def test_a_slow_login_is_waited_for(self, slow: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tasks.hosts.connection.ATTEMPT_S", 3.0)
        host = SshHost(access_to(slow))
        assert host.run("echo in", timeout_s=60).text == "in\n"
        host.close()

    def test_a_login_that_takes_too_long_is_transient_and_names_the_setting(self, slow: Sshd) -> None:
        with pytest.raises(HostUnreachable, match=r"took longer than the 5 s.*connect_timeout_s") as caught:
            SshHost(access_to(slow, connect_timeout_s=5.0)).run("echo", timeout_s=60)
        assert caught.value.is_transient

    @pytest.mark.parametrize(
        ("config", "theirs", "ours"),
        [
            ("KexAlgorithms sntrup761x25519-sha512@openssh.com", "sntrup761x25519", "curve25519-sha256@libssh.org"),
            ("Ciphers chacha20-poly1305@openssh.com", "chacha20-poly1305", "aes128-gcm@openssh.com"),
            ("MACs umac-64@openssh.com", "umac-64@openssh.com", "hmac-sha2-256"),
        ],
    )
    def test_nothing_in_common_is_told_at_once_with_both_lists(
        self, config: str, theirs: str, ours: str, tmp_path: Path
    ) -> None:
        with server(tmp_path / "sshd", config=config) as (host, _):
            started = time.monotonic()
            with pytest.raises(HostUserError, match=f"in common. It offers .*{theirs}.*this machine knows .*{ours}"):
                host.run("echo", timeout_s=60)
            assert time.monotonic() - started < 50

    def test_an_agent_that_never_answers_is_not_asked_in_vain_nor_waited_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tasks.hosts.connection.AGENT_S", 300.0)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        monkeypatch.setenv("HOME", str(tmp_path))
        with socket.socket(socket.AF_UNIX) as agent, server(tmp_path / "sshd") as (_, sshd):
            agent.bind(str(tmp_path / "agent"))
            agent.listen()
            started = time.monotonic()
            host = SshHost(access_to(sshd, use_agent=True))
            assert host.run("echo in", timeout_s=60).text == "in\n"
            host.close()
            assert time.monotonic() - started < 200, "a key that opens by itself needs no agent"
            monkeypatch.setattr("tasks.hosts.connection.AGENT_S", 1.0)
            (tmp_path / ".ssh").mkdir()
            shutil.copy(sshd.user_key, tmp_path / ".ssh" / "id_ed25519")
            host = SshHost(access_to(sshd, use_agent=True, key_file=None))
            assert host.run("echo in", timeout_s=60).text == "in\n"
            host.close()
            locked = make_key(tmp_path / "locked", passphrase="open sesame")
            with pytest.raises(HostUserError, match=r"ssh-add .*The SSH agent did not answer within 1 s"):
                SshHost(access_to(sshd, use_agent=True, key_file=locked)).run("echo", timeout_s=60)


class TestKeys:
    @pytest.mark.parametrize(
        ("kind", "form"),
        [("rsa", "PKCS8"), ("ecdsa", "PKCS8"), ("rsa", "PEM"), ("ecdsa", "PEM"), ("ed25519", "RFC4716")],
    )
    def test_every_format_opens(self, kind: str, form: str, tmp_path: Path) -> None:
        key = make_key(tmp_path / "key", kind=kind)
        subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "", "-m", form, "-f", str(key)], check=True)
        with running_sshd(tmp_path / "sshd") as sshd:
            with (sshd.folder / "authorized_keys").open("a") as keys:
                keys.write(key.with_suffix(".pub").read_text())
            host = SshHost(access_to(sshd, key_file=key))
            assert host.run("echo in", timeout_s=60).text == "in\n"
            host.close()

    @pytest.mark.parametrize("form", ["PEM", "PKCS8", "RFC4716"])
    @pytest.mark.parametrize("has_public", [True, False])
    def test_a_locked_key_of_any_format_is_used_through_the_agent(
        self, form: str, has_public: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = make_key(tmp_path / "key", kind="rsa")
        with running_sshd(tmp_path / "sshd") as sshd, running_agent(tmp_path, key) as agent:
            monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
            (sshd.folder / "authorized_keys").write_text(key.with_suffix(".pub").read_text())
            lock = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-m", form, "-f", str(key)]
            subprocess.run(lock, check=True)
            if not has_public:
                key.with_suffix(".pub").unlink()
            host = SshHost(access_to(sshd, key_file=key, use_agent=True))
            assert host.run("echo in", timeout_s=60).text == "in\n"
            host.close()

    @pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
    @pytest.mark.parametrize("in_agent", [False, True])
    def test_a_certificate_lets_in(
        self, kind: str, in_agent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        authority, key = make_key(tmp_path / "authority"), make_key(tmp_path / "key", kind=kind)
        with running_sshd(tmp_path / "sshd", extra_config=f"TrustedUserCAKeys {authority}.pub") as sshd:
            sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", "me", "-n", sshd.user, f"{key}.pub"]
            subprocess.run(sign, check=True)
            (sshd.folder / "authorized_keys").write_text("")
            if not in_agent:
                host = SshHost(access_to(sshd, key_file=key))
                assert host.run("echo in", timeout_s=60).text == "in\n"
                host.close()
                return
            with running_agent(tmp_path, key) as agent:
                monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
                monkeypatch.setenv("HOME", str(tmp_path))
                host = SshHost(access_to(sshd, key_file=None, use_agent=True))
                assert host.run("echo in", timeout_s=60).text == "in\n"
                host.close()


class TestServerCertificates:
    @pytest.fixture
    def certified(self, tmp_path: Path) -> Iterator[tuple[Sshd, str]]:
        """A server with a certificate for 127.0.0.1, and the line of its authority."""
        authority, key = make_key(tmp_path / "authority"), make_key(tmp_path / "host_key")
        sign = ["ssh-keygen", "-q", "-s", str(authority), "-h", "-I", "host", "-n", "127.0.0.1", f"{key}.pub"]
        subprocess.run(sign, check=True)
        config = f"HostCertificate {key}-cert.pub"
        with running_sshd(tmp_path / "sshd", host_key=key, extra_config=config) as sshd:
            yield sshd, (tmp_path / "authority.pub").read_text()

    @pytest.mark.parametrize("hosts", ["127.0.0.1", "[127.0.0.1]:*", "*"])
    def test_an_authority_vouches_for_the_server(self, certified: tuple[Sshd, str], hosts: str, tmp_path: Path) -> None:
        sshd, authority = certified
        (tmp_path / "known").write_text(f"@cert-authority {hosts} {authority}")
        host = SshHost(access_to(sshd, trust=HostTrust(files=(tmp_path / "known",))))
        assert host.run("echo in", timeout_s=60).text == "in\n"
        host.close()

    def test_another_authority_does_not(self, certified: tuple[Sshd, str], tmp_path: Path) -> None:
        other = make_key(tmp_path / "other").with_suffix(".pub").read_text()
        (tmp_path / "known").write_text(f"@cert-authority * {other}")
        with pytest.raises(HostUserError, match="no known-hosts file names its authority"):
            SshHost(access_to(certified[0], trust=HostTrust(files=(tmp_path / "known",)))).run("echo", timeout_s=60)

    def test_a_line_without_the_port_vouches_and_accuses_nobody(
        self, certified: tuple[Sshd, str], tmp_path: Path
    ) -> None:
        sshd, _ = certified
        trust = HostTrust(files=(tmp_path / "known",))
        (tmp_path / "known").write_text(f"127.0.0.1 {sshd.host_key}\n")
        host = SshHost(access_to(sshd, trust=trust))
        assert host.run("echo in", timeout_s=60).text == "in\n"
        host.close()
        (tmp_path / "known").write_text(f"127.0.0.1 {make_key(tmp_path / 'x').with_suffix('.pub').read_text()}\n")
        with pytest.raises(HostUserError, match="is unknown"):
            SshHost(access_to(sshd, trust=trust)).run("echo", timeout_s=60)


class TestSshConfig:
    @pytest.fixture
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("JADE_STATE_DIR", str(tmp_path / "state"))
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        (tmp_path / "home" / ".ssh").mkdir(parents=True)
        return tmp_path / "home" / ".ssh"

    def test_an_alias_is_reached_as_openssh_reaches_it(self, home: Path, tmp_path: Path) -> None:
        with running_sshd(tmp_path / "one") as target, running_sshd(tmp_path / "two") as gate:
            (home / "config").write_text("Include more/*\nHost *\n  User nobody-knows\n")
            (home / "more").mkdir()
            (home / "more" / "own").write_text(
                f"Host gpu\n  HostName 127.0.0.1\n  Port {target.port}\n  User {target.user}\n"
                f"  IdentityFile {target.user_key}\n  ProxyJump gate\n  IdentitiesOnly yes\n"
                f"Host gate\n  HostName 127.0.0.1\n  Port {gate.port}\n  User {gate.user}\n"
                f"  IdentityFile {gate.user_key}\n"
            )
            (home / "known_hosts").write_text(f"[127.0.0.1]:{gate.port} {gate.host_key}\n")
            entry = HostEntry("gpu", "gpu", fingerprint=(target.fingerprint,))
            host = SshHost(access_of(Settings(hosts={"gpu": entry}), "gpu"))
            assert host.run("echo $SSH_CONNECTION", timeout_s=60).text.split()[3] == str(target.port)
            assert len(gate.connections()) == 1
            host.close()

    def test_the_machines_known_hosts_files_count(self, home: Path, tmp_path: Path) -> None:
        usual = access_of(Settings(hosts={"gpu": HostEntry("gpu", "gpu")}), "gpu").trust.files
        assert usual[0] == home / "known_hosts"
        assert usual[2] == Path("/etc/ssh/ssh_known_hosts")
        with running_sshd(tmp_path / "sshd") as sshd:
            (tmp_path / "of this machine").write_text(f"[127.0.0.1]:{sshd.port} {sshd.host_key}\n")
            (home / "config").write_text(
                f"Host gpu\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User {sshd.user}\n"
                f"  IdentityFile {sshd.user_key}\n  UserKnownHostsFile none\n"
                f'  GlobalKnownHostsFile /nowhere "{tmp_path}/of this machine"\n'
            )
            host = SshHost(access_of(Settings(hosts={"gpu": HostEntry("gpu", "gpu")}), "gpu"))
            assert host.run("echo yes", timeout_s=60).text == "yes\n"
            host.close()

    @pytest.mark.parametrize(
        "section", ['Match exec "test -f /x"', "Match host gpu tagged x", "Match sessiontype exec"]
    )
    def test_sections_that_would_run_programs_match_nothing(self, home: Path, section: str) -> None:
        (home / "config").write_text(f"{section}\n  HostName 192.0.2.9\nHost gpu\n  HostName 192.0.2.1\n")
        access = access_of(Settings(hosts={"gpu": HostEntry("gpu", "gpu")}), "gpu")
        assert access.address.host == "192.0.2.1"

    def test_the_section_counts_more_than_the_file(self, home: Path) -> None:
        (home / "config").write_text("Host gpu\n  HostName 192.0.2.1\n  Port 2222\n  User alice\n")
        entry = HostEntry("gpu", "gpu", port=22, user="bob", key="~/other")
        access = access_of(Settings(hosts={"gpu": entry}), "gpu")
        assert str(access.address) == "bob@192.0.2.1:22"
        assert access.key_file == Path("~/other").expanduser()

    @pytest.mark.parametrize(
        ("config", "said"),
        [
            ("Host gpu\n  ProxyCommand nc %h %p\n", "ProxyCommand, which is not supported"),
            ("Host gpu\n  ProxyJump gate\nHost gate\n  ProxyJump gpu\n", "lead in a circle"),
            ("Host gpu\n  Port many\n", "config: gpu: invalid literal"),
        ],
    )
    def test_what_cannot_be_followed_is_refused(self, home: Path, config: str, said: str) -> None:
        from tasks.core.errors import SettingsError

        (home / "config").write_text(config)
        with pytest.raises(SettingsError, match=said):
            access_of(Settings(hosts={"gpu": HostEntry("gpu", "gpu")}), "gpu")


def test_a_wrong_key_is_still_told_as_one(tmp_path: Path) -> None:
    with running_sshd(tmp_path / "sshd") as sshd, pytest.raises(AuthenticationFailed, match="authorized_keys"):
        SshHost(access_to(sshd, key_file=make_key(tmp_path / "other"))).run("echo", timeout_s=60)
    assert issubclass(AuthenticationFailed, HostError)
