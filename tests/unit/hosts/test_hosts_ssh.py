from __future__ import annotations

import base64
import hashlib
import hmac
import pickle
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest

from tasks.core.names import HostAddress
from tasks.core.retry import retry_transient
from tasks.hosts import errors
from tasks.hosts.access import SshAccess
from tasks.hosts.connection import connect
from tasks.hosts.host import Host
from tasks.hosts.keys import HostTrust, fingerprint, known_keys, load_private_key
from tasks.hosts.ssh import SshHost
from tests.fakes.host_contract import CommandContract, TransferContract, large_file
from tests.fakes.ssh_server import FakeSshServer, running_fake_server, write_private_key


@pytest.fixture(scope="module")
def user_key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "id_ed25519"
    write_private_key(path)
    return path


@pytest.fixture
def server(tmp_path: Path, user_key_file: Path) -> Iterator[FakeSshServer]:
    with running_fake_server(tmp_path / "host", [load_private_key(user_key_file)]) as running:
        yield running


@pytest.fixture
def access(server: FakeSshServer, user_key_file: Path) -> SshAccess:
    return SshAccess(
        HostAddress("127.0.0.1", server.port, "tester"),
        HostTrust(pins=(server.fingerprint,)),
        key_file=user_key_file,
        use_agent=False,
        connect_timeout_s=60,
    )


@pytest.fixture
def host(access: SshAccess) -> Iterator[Host]:
    host = SshHost(access, name="fake")
    yield host
    host.close()


@pytest.fixture
def place(server: FakeSshServer) -> Path:
    folder = server.home / "place"
    folder.mkdir()
    return folder


class TestSshHost(CommandContract, TransferContract):
    pass


def test_a_host_without_a_shell_is_refused(host: Host, server: FakeSshServer) -> None:
    server.has_shell = False
    with pytest.raises(errors.HostUserError, match=r"runs no commands: it refused to start one\. To train"):
        host.run("echo", timeout_s=60)


def test_one_refusal_does_not_make_a_host_without_a_shell(host: Host, server: FakeSshServer) -> None:
    server.num_refusals = 1
    assert host.run("echo yes", timeout_s=60).text == "yes\n"


class TestServerKey:
    def test_an_unknown_key_is_refused_before_anything_is_sent(self, server: FakeSshServer, access: SshAccess) -> None:
        with pytest.raises(errors.HostUserError, match="trust-first-use") as caught:
            SshHost(replace(access, trust=HostTrust())).run("echo", timeout_s=60)
        assert server.fingerprint in str(caught.value)
        assert (server.logins, server.commands) == ([], [])

    def test_another_key_than_the_pinned_one_is_refused_with_both_shown(
        self, server: FakeSshServer, access: SshAccess
    ) -> None:
        pin = fingerprint(b"another")
        with pytest.raises(errors.HostKeyMismatch) as caught:
            SshHost(replace(access, trust=HostTrust(pins=(pin,)))).run("echo", timeout_s=60)
        assert pin in str(caught.value)
        assert server.fingerprint in str(caught.value)
        assert caught.value.exit_code == 2
        assert (server.logins, server.commands) == ([], [])

    def test_a_pin_may_be_of_any_of_the_servers_keys(self, tmp_path: Path, user_key_file: Path) -> None:
        keys = [paramiko.ECDSAKey.generate(), paramiko.RSAKey.generate(2048)]
        with running_fake_server(tmp_path, [load_private_key(user_key_file)], keys) as server:
            for key in keys:
                access = SshAccess(
                    HostAddress("127.0.0.1", server.port, "tester"),
                    HostTrust(pins=(key.fingerprint,)),
                    key_file=user_key_file,
                )
                host = SshHost(access)
                assert host.host_key_fingerprint == key.fingerprint
                host.close()

    @pytest.mark.parametrize("which", [0, 1, 2], ids=["ours", "the user's", "the machine's"])
    def test_a_known_key_is_accepted_from_every_file(
        self, server: FakeSshServer, access: SshAccess, tmp_path: Path, which: int
    ) -> None:
        files = [tmp_path / name for name in ("ours", "users", "machines")]
        files[which].write_text(f"# a comment\n\nnonsense\n{server.known_hosts_line}")
        trust = HostTrust(own_file=files[0], files=(files[1], files[2]))
        host = SshHost(replace(access, trust=trust))
        assert host.run("echo yes", timeout_s=60).text == "yes\n"
        host.close()

    def test_a_first_use_is_remembered_and_a_change_refused(
        self, server: FakeSshServer, access: SshAccess, tmp_path: Path
    ) -> None:
        own_file = tmp_path / "state" / "known_hosts"
        trusting = replace(access, trust=HostTrust(own_file=own_file, trust_first_use=True))
        SshHost(trusting).run("echo", timeout_s=60)
        assert own_file.read_text() == server.known_hosts_line
        assert own_file.stat().st_mode & 0o777 == 0o600
        SshHost(replace(access, trust=HostTrust(own_file=own_file))).run("echo", timeout_s=60)
        server.cut()
        old, server.host_keys = server.fingerprint, [paramiko.ECDSAKey.generate()]
        with pytest.raises(errors.HostKeyMismatch) as caught:
            SshHost(trusting).run("echo", timeout_s=60)
        assert caught.value.expected == (old,)
        assert caught.value.found == (server.fingerprint,)
        assert str(own_file) in str(caught.value)

    def test_a_server_known_by_another_kind_of_key_is_asked_for_that_one(
        self, tmp_path: Path, user_key_file: Path
    ) -> None:
        keys = [paramiko.ECDSAKey.generate(), paramiko.RSAKey.generate(2048)]
        with running_fake_server(tmp_path / "host", [load_private_key(user_key_file)], keys) as server:
            known = tmp_path / "known_hosts"
            known.write_text(f"[127.0.0.1]:{server.port} ssh-rsa {keys[1].get_base64()}\n")
            access = SshAccess(
                HostAddress("127.0.0.1", server.port, "tester"),
                HostTrust(files=(known,)),
                key_file=user_key_file,
            )
            assert SshHost(access).host_key_fingerprint == keys[1].fingerprint

    def test_a_revoked_key_is_refused(self, server: FakeSshServer, access: SshAccess, tmp_path: Path) -> None:
        file = tmp_path / "known_hosts"
        file.write_text(server.known_hosts_line + "@revoked " + server.known_hosts_line)
        with pytest.raises(errors.HostKeyMismatch, match="revoked"):
            SshHost(replace(access, trust=HostTrust(own_file=file))).run("echo", timeout_s=60)
        assert server.logins == []


class TestKnownHostsFile:
    ADDRESS = HostAddress("gpu.example", 36470)

    @pytest.mark.parametrize(
        ("hosts", "is_meant"),
        [
            ("[gpu.example]:36470", True),
            ("gpu.example", None),
            ("other,[GPU.example]:36470", True),
            ("[*.example]:*", True),
            ("[*.example]:*,![gpu.example]:36470", False),
            ("[gpu?example]:36470", True),
            ("g", False),
            ("gpu.exampl", False),
        ],
    )
    def test_patterns_mean_what_sshd_says(self, tmp_path: Path, hosts: str, is_meant: bool | None) -> None:
        """None: it is meant by its name alone, without the port."""
        file = tmp_path / "known_hosts"
        file.write_text(f"{hosts} ssh-ed25519 {base64.b64encode(b'key').decode()} comment\n")
        found = list(known_keys(file, self.ADDRESS))
        assert [key.has_port for key in found] == ([] if is_meant is False else [is_meant is True])

    def test_hashed_names_are_found(self, tmp_path: Path) -> None:
        salt = b"01234567890123456789"
        digest = hmac.new(salt, b"[gpu.example]:36470", hashlib.sha1).digest()
        hashed = f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"
        file = tmp_path / "known_hosts"
        file.write_text(f"{hashed} ssh-ed25519 {base64.b64encode(b'key').decode()}\n|1|broken ssh-rsa AA==\n")
        assert [key.key_blob for key in known_keys(file, self.ADDRESS)] == [b"key"]

    @pytest.mark.parametrize("pin", ["", "MD5:aa:bb", "SHA256:short", "a" * 43])
    def test_a_pin_that_is_none_is_refused(self, pin: str) -> None:
        with pytest.raises(ValueError, match="SHA256"):
            HostTrust(pins=(pin,))


class TestLogin:
    def test_a_wrong_key_is_named_with_what_to_do(
        self, server: FakeSshServer, access: SshAccess, tmp_path: Path
    ) -> None:
        other = write_private_key(tmp_path / "other")
        with pytest.raises(errors.AuthenticationFailed, match="authorized_keys") as caught:
            SshHost(replace(access, key_file=tmp_path / "other")).run("echo", timeout_s=60)
        assert other.fingerprint in str(caught.value)
        assert server.commands == []

    def test_a_locked_key_asks_for_the_agent(self, access: SshAccess, tmp_path: Path) -> None:
        write_private_key(tmp_path / "locked", "open sesame")
        with pytest.raises(errors.HostUserError, match="ssh-add"):
            SshHost(replace(access, key_file=tmp_path / "locked")).run("echo", timeout_s=60)

    @pytest.mark.parametrize("contents", [None, b"", b"ssh-ed25519 AAAA public\n"])
    def test_a_file_that_is_no_private_key_is_named(
        self, access: SshAccess, tmp_path: Path, contents: bytes | None
    ) -> None:
        path = tmp_path / "not-a-key"
        if contents is not None:
            path.write_bytes(contents)
        with pytest.raises(errors.HostUserError, match="not-a-key"):
            SshHost(replace(access, key_file=path)).run("echo", timeout_s=60)

    def test_without_any_key_the_message_says_so(
        self, access: SshAccess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(errors.AuthenticationFailed, match="no key at all"):
            SshHost(replace(access, key_file=None)).run("echo", timeout_s=60)


class TestConnection:
    def test_one_connection_serves_many_calls(self, host: SshHost, server: FakeSshServer) -> None:
        for _ in range(3):
            host.run("echo", timeout_s=60)
        assert len(server.logins) == 1

    @pytest.mark.parametrize("name", ["two..dots", "x" * 70])
    def test_a_name_that_no_lookup_can_find_is_told_at_once(self, name: str, access: SshAccess) -> None:
        with pytest.raises(errors.HostUserError, match=f"host name '{name}'. Check its spelling"):
            SshHost(replace(access, address=HostAddress(name, 22, "tester"))).run("echo", timeout_s=60)

    def test_an_unreachable_host_tells_how_long_it_was_tried(self, access: SshAccess) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        nobody = replace(access, address=HostAddress("127.0.0.1", port), connect_timeout_s=0.5)
        with pytest.raises(errors.HostUnreachable, match="refused") as caught:
            SshHost(nobody).run("echo", timeout_s=60)
        assert caught.value.tried_s > 0
        assert caught.value.attempts > 1
        assert caught.value.is_transient

    def test_a_server_that_never_greets_is_given_up(self, access: SshAccess) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = HostAddress("127.0.0.1", silent.getsockname()[1])
            with pytest.raises(errors.HostUnreachable):
                SshHost(replace(access, address=address, connect_timeout_s=0.5)).run("echo", timeout_s=60)

    def test_output_that_broke_off_is_not_taken_for_all_of_it_though_the_status_came(
        self, host: SshHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stream = host.open("printf output", timeout_s=60)

        def broken(num_bytes: int) -> bytes:
            raise paramiko.SSHException("Key-exchange timed out waiting for key negotiation")

        with monkeypatch.context() as patched:
            patched.setattr(stream._channel, "recv", broken)
            while stream.read(100):  # what came before the break, if anything did
                pass
        with pytest.raises(errors.ConnectionLost, match="Key-exchange timed out"):
            stream.finish()

    def test_no_keys_are_exchanged_within_a_transfer(self, access: SshAccess) -> None:
        connection = connect(access)
        assert connection.packetizer.REKEY_BYTES >= 32 * 2**30
        connection.close()

    def test_the_next_call_after_a_cut_connects_again(self, host: Host, server: FakeSshServer) -> None:
        host.run("echo", timeout_s=60)
        server.cut()
        assert host.run("echo again", timeout_s=60).text == "again\n"

    def test_a_cut_in_a_command_is_transient_and_told(self, host: Host, server: FakeSshServer) -> None:
        host.run("echo", timeout_s=60)
        server.cut_after_bytes = 100
        with pytest.raises(errors.ConnectionLost, match="broke during") as caught:
            host.run("head -c 100000 /dev/zero; exec cat", timeout_s=60)
        assert caught.value.is_transient

    @pytest.mark.parametrize("way", ["put", "get"])
    def test_a_transfer_goes_on_after_a_cut_where_it_stood(
        self, host: Host, server: FakeSshServer, place: Path, tmp_path: Path, way: str
    ) -> None:
        files = large_file(tmp_path, 9_000_000)
        if way == "get":
            entries = host.put(files, str(place), timeout_s=60)
        host.run("echo", timeout_s=60)
        server.cut_after_bytes = 5_000_000
        target = place if way == "put" else tmp_path / "back"
        num_kept: list[int] = []

        def attempt() -> None:
            num_kept.extend(part.stat().st_size for part in target.rglob(".large.*.part"))
            if way == "put":
                host.put(files, str(place), timeout_s=60)
            else:
                host.get(entries, str(place), target, timeout_s=60)

        retry_transient(attempt, sleep=lambda _: None)
        assert num_kept[-1] > 2_000_000
        assert (target / "large").read_bytes() == files["large"].read_bytes()

    def test_a_flipped_byte_on_the_way_is_found_out(
        self, host: Host, server: FakeSshServer, place: Path, tmp_path: Path
    ) -> None:
        files = large_file(tmp_path, 9_000_000)
        entries = host.put(files, str(place), timeout_s=60)
        server.change_output = lambda given, data: (
            data[:-1] + bytes([data[-1] ^ 1]) if "jade: send files" in given and len(data) > 1000 else data
        )
        with pytest.raises(errors.TransferCorrupted, match=entries[0].sha256):
            host.get(entries, str(place), tmp_path / "back", timeout_s=60)
        assert not list((tmp_path / "back").iterdir())

    def test_what_startup_files_print_is_not_taken_for_output(
        self, host: Host, server: FakeSshServer, place: Path, tmp_path: Path
    ) -> None:
        server.startup_noise = b"Welcome to the machine!\n"
        assert host.run("echo mine", timeout_s=60).text == "mine\n"
        (tmp_path / "source").write_bytes(b"x")
        entries = host.put({"file": tmp_path / "source"}, str(place), timeout_s=60)
        host.get(entries, str(place), tmp_path / "back", timeout_s=60)

    def test_a_jump_host_is_gone_through_with_its_own_keys(
        self, server: FakeSshServer, access: SshAccess, tmp_path: Path
    ) -> None:
        jump_key = write_private_key(tmp_path / "jump_key")
        with running_fake_server(tmp_path / "jump", [jump_key]) as jump:
            jump_access = SshAccess(
                HostAddress("127.0.0.1", jump.port, "jumper"),
                HostTrust(pins=(jump.fingerprint,)),
                key_file=tmp_path / "jump_key",
            )
            host = SshHost(replace(access, jump=jump_access))
            assert host.run("echo through", timeout_s=60).text == "through\n"
            host.close()
            assert jump.logins == [("jumper", jump_key.fingerprint)]
            assert [user for user, _ in server.logins] == ["tester"]
            assert jump.commands == []

    @pytest.mark.parametrize("value", ["-oProxyCommand=x", "", "two words", "line\nbreak"])
    def test_an_address_that_is_none_is_refused(self, value: str) -> None:
        with pytest.raises(ValueError, match="plain"):
            HostAddress(value)


class TestErrors:
    EXAMPLES = (
        errors.HostKeyMismatch("h", ("a",), ("b",), "the pin"),
        errors.CommandFailed("h", "c", 3, "why"),
        errors.TransferCorrupted("p", "a", "b"),
        errors.JobFailed("h", "f", 3, "tail"),
    )

    @pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
    def test_errors_survive_pickling_with_their_evidence(self, error: errors.HostError) -> None:
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301 -- our own bytes
        assert (type(copy), str(copy), copy.__dict__) == (type(error), str(error), error.__dict__)

    def test_only_transient_errors_are_tried_again(self) -> None:
        calls: list[int] = []

        def fail() -> None:
            calls.append(1)
            raise errors.HostUserError("full")

        with pytest.raises(errors.HostUserError):
            retry_transient(fail, sleep=lambda _: None)
        assert len(calls) == 1
