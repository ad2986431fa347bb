"""A real OpenSSH server on a free loopback port, with keys of its own and nothing of the machine's."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.ports import free_port
from tests.helpers.processes import children_of, wait_until

SSHD = shutil.which("sshd") or next((path for path in ("/usr/sbin/sshd",) if Path(path).exists()), None)


@dataclass(frozen=True)
class Sshd:
    """A running server.

    Attributes:
        port: On 127.0.0.1.
        user: The only account that it admits: the one that runs the tests.
        user_key: Private key that is let in.
        host_key: Public key line of the server (`ssh-ed25519 AAAA...`).
        fingerprint: `SHA256:...` of that key.
        process_id: Of the listening process; one child for every connection.
    """

    port: int
    user: str
    user_key: Path
    host_key: str
    fingerprint: str
    folder: Path
    process_id: int

    def connections(self) -> list[int]:
        """Process ids that serve one connection each."""
        return [process for process, _ in children_of(self.process_id)]

    def cut(self) -> int:
        """Kill every connection, as a network that goes away does; returns how many there were."""
        victims = self.connections()
        for process_id in victims:
            self._signal_tree(process_id, signal.SIGKILL)
        return len(victims)

    def freeze(self) -> None:
        """Stop answering on every connection, without closing any."""
        for process_id in self.connections():
            self._signal_tree(process_id, signal.SIGSTOP)

    def thaw(self) -> None:
        for process_id in self.connections():
            self._signal_tree(process_id, signal.SIGCONT)

    @staticmethod
    def _signal_tree(process_id: int, which: signal.Signals) -> None:
        """Signal sshd's process and its unprivileged sshd child, never the commands that they started."""
        children = [child for child, name in children_of(process_id) if name.startswith("sshd")]
        for target in (process_id, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(target, which)


def make_key(path: Path, *, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A new key pair at `path` and `path.pub`."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "test", "-f", str(path)],
        check=True,
        capture_output=True,
    )
    return path


@contextlib.contextmanager
def running_agent(folder: Path, *keys: Path) -> Iterator[Path]:
    """Let an agent hold keys while the block lasts; give the path of its socket."""
    socket_path = folder / "agent"
    env = {"SSH_AUTH_SOCK": str(socket_path)}
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket_path)], stdout=subprocess.DEVNULL)
    try:
        # The socket is there before anybody listens. With 2, `ssh-add` says that no agent answers.
        wait_until(lambda: subprocess.run(["ssh-add", "-l"], env=env, capture_output=True, check=False).returncode != 2)
        for key in keys:
            subprocess.run(["ssh-add", "-q", str(key)], check=True, env=env)
        yield socket_path
    finally:
        agent.kill()
        agent.wait()


def fingerprint_of(path: Path) -> str:
    """The `SHA256:...` that ssh-keygen prints."""
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-E", "sha256", "-f", str(path)], check=True, capture_output=True, text=True
    )
    return shown.stdout.split()[1]


def config_text(
    port: int,
    *,
    host_keys: list[Path],
    authorized_keys: Path,
    pid_file: Path,
    address: str = "127.0.0.1",
    extra_config: str = "",
) -> str:
    """An sshd_config of which nothing is the machine's, nor of the account's own: its shell's start-up files."""
    keys = "\n".join(f"HostKey {key}" for key in host_keys)
    return f"""ListenAddress {address}:{port}
{keys}
AuthorizedKeysFile {authorized_keys}
PidFile {pid_file}
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
UsePAM no
Subsystem sftp internal-sftp
{extra_config}
SetEnv HOME={pid_file.parent}
"""


def prepare_machine() -> str:
    """Return sshd's path once what it wants of the machine is there."""
    if SSHD is None:
        raise FileNotFoundError("sshd is not installed: apt-get install -y openssh-server")
    if os.geteuid() == 0:
        # sshd refuses to start as root without its privilege separation folder.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    return SSHD


@contextlib.contextmanager
def running_sshd(
    folder: Path,
    *,
    host_key: Path | None = None,
    port: int | None = None,
    extra_config: str = "",
    address: str = "127.0.0.1",
    within: Sequence[str] = (),
) -> Iterator[Sshd]:
    """Start sshd with its files in `folder`; stop it, and all its connections, on leaving.

    Args:
        folder: Empty or missing.
        host_key: Private host key to use; None makes a new one.
        port: None takes a free one.
        extra_config: More lines of sshd_config; what they set counts before ours.
        address: Where it listens.
        within: Command that runs it, such as `ip netns exec NAME`.
    """
    program = prepare_machine()
    folder.mkdir(parents=True, exist_ok=True)
    host_key = host_key or make_key(folder / "host_key")
    user_key = make_key(folder / "user_key")
    (folder / "authorized_keys").write_text(user_key.with_suffix(".pub").read_text())
    port = port or free_port()
    config = folder / "sshd_config"
    config.write_text(
        config_text(
            port,
            host_keys=[host_key],
            authorized_keys=folder / "authorized_keys",
            pid_file=folder / "sshd.pid",
            address=address,
            extra_config=extra_config,
        )
    )
    log = (folder / "sshd.log").open("wb")
    process = subprocess.Popen([*within, program, "-D", "-e", "-f", str(config)], stdout=log, stderr=log)
    server = Sshd(
        port=port,
        user=getpass.getuser(),
        user_key=user_key,
        host_key=" ".join(host_key.with_suffix(".pub").read_text().split()[:2]),
        fingerprint=fingerprint_of(host_key.with_suffix(".pub")),
        folder=folder,
        process_id=process.pid,
    )
    try:
        _wait_until_answering(process, address, port, folder / "sshd.log")
        yield server
    finally:
        server.cut()
        process.kill()
        process.wait()
        log.close()


def _wait_until_answering(process: subprocess.Popen[bytes], address: str, port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"sshd ended with {process.returncode}:\n{log.read_text()}")
        with contextlib.suppress(OSError), socket.create_connection((address, port), 10) as connection:
            if connection.recv(4) == b"SSH-":
                return
        time.sleep(0.02)
    raise RuntimeError(f"sshd did not answer on port {port}:\n{log.read_text()}")
