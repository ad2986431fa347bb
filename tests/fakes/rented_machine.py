"""A machine as a service rents it out: a root folder and processes of its own, and a real sshd that starts in it.

It is no container: paths such as `/etc/ssh` in what it is told to run are moved below its root folder, and its end is
the end of all processes that it started, wherever they went.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.fakes.sshd import config_text, prepare_machine
from tests.helpers.ports import free_port

_MARK = "JADE_TEST_MACHINE"
_MOVED = ("/etc/ssh", "/run/sshd.pid", "/start.sh", "/var/lib/cloud")

_LOGIN_SHELL = """#!/bin/sh
# Every session begins in the machine's own home folder, and its processes can be told from all others.
export HOME={home} PATH={root}/bin:$PATH {mark}={token} {session}
cd "$HOME" || exit 1
{hold}
case "$SSH_ORIGINAL_COMMAND" in
  '') exec sh ;;
  internal-sftp*) exec /usr/lib/openssh/sftp-server ;;
  *) exec sh -c "$SSH_ORIGINAL_COMMAND" ;;
esac
"""

# The first session whose program holds a text waits, before anything of it is done, until the machine ends. Programs
# come by standard input: what was read of one to look at it is given to the shell that was meant to read it, and then
# the rest.
_HOLD = """if [ "$SSH_ORIGINAL_COMMAND" = 'exec sh' ]; then
  exec 3<&0
  program={root}/program.$$
  while IFS= read -r line; do printf '%s\\n' "$line"; [ "$line" != '}}; exit' ] || break; done <&3 > "$program"
  case "$(cat "$program")" in
    *{text}*) if mkdir {root}/held 2>/dev/null; then exec sleep 2147483647; fi ;;
  esac
  mkfifo "$program.in"
  {{ cat "$program"; exec cat <&3; }} > "$program.in" 2>/dev/null &
  exec sh < "$program.in" 3<&-
fi"""

# Programs that must mean this machine and never the one that the tests run on.
_PROGRAMS = {
    "sudo": """#!/bin/sh
[ "$1" != -n ] || shift
exec "$@"
""",
    "sshd": """#!/bin/sh
exec {sshd} -f {root}/etc/ssh/sshd_config "$@"
""",
    "shutdown": """#!/bin/sh
case $2 in now) wait_s=0 ;; +*) wait_s=$((${{2#+}} * {minute_s})) ;; *) exit 64 ;; esac
( sleep "$wait_s"; kill -KILL "$(cat {root}/run/first.pid)" ) >/dev/null 2>&1 </dev/null &
""",
    "systemctl": "#!/bin/sh\nexit 69\n",
    "reboot": "#!/bin/sh\nexit 69\n",
    "poweroff": "#!/bin/sh\nexit 69\n",
}

# What the images of services do: admit PUBLIC_KEY, write the environment for login shells, start sshd.
_START = """#!/bin/bash
set -e
mkdir -p "$HOME/.ssh"
echo "$PUBLIC_KEY" >> "$HOME/.ssh/authorized_keys"
for kind in ed25519 ecdsa; do
  [ -f {root}/etc/ssh/ssh_host_${{kind}}_key ] ||
    ssh-keygen -q -t $kind -N '' -f {root}/etc/ssh/ssh_host_${{kind}}_key
done
printenv | grep -E '^[A-Z_]+=' > {root}/etc/environment_of_shells
sleep {delay_s}
{sshd} -D -e -f {root}/etc/ssh/sshd_config
"""


class RentedMachine:
    """Boots at once; see `end`.

    Args:
        root: Its disk; made, and removed at its end.
        command: What it runs first.
        environment: Of that.
        sshd_delay_s: How long after the boot its SSH server starts.
        address: Where that listens: any of 127.0.0.0/8.
        port: None takes a free one.
        files: What is on its disk before the boot: path -> content and mode.
        session_environment: Variables of SSH sessions.
        minute_s: How long one of its minutes lasts, where it shuts down in some.
        hold_at: Text of a command; see `is_holding`.
        on_exit: Called when its first process ends by itself, after all others are gone too.
    """

    def __init__(
        self,
        root: Path,
        command: list[str],
        environment: Mapping[str, str],
        *,
        sshd_delay_s: float = 0.0,
        address: str = "127.0.0.1",
        port: int | None = None,
        files: Mapping[str, tuple[str, int]] | None = None,
        session_environment: Mapping[str, str] | None = None,
        minute_s: int = 60,
        hold_at: str = "",
        on_exit: Callable[[], None] = lambda: None,
    ) -> None:
        self.root, self.home, self.user = root, root / "root", getpass.getuser()
        self.address, self.port = address, port or free_port()
        self._token, self._on_exit = uuid.uuid4().hex, on_exit
        self._lock, self._is_ended = threading.Lock(), False
        self._write_files(sshd_delay_s, minute_s, session_environment or {}, hold_at)
        for path, (content, mode) in (files or {}).items():
            self._write_program(self.moved(path), self.moved(content), mode)
        self._log = (root / "console.log").open("wb")
        own = {"PATH": f"{root / 'bin'}:{os.environ['PATH']}", "HOME": str(self.home), _MARK: self._token}
        self._process = subprocess.Popen(
            [self.moved(part) for part in command],
            env={**{name: self.moved(value) for name, value in environment.items()}, **own},
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        (root / "run/first.pid").write_text(str(self._process.pid))
        threading.Thread(target=self._wait, daemon=True).start()

    def moved(self, text: str) -> str:
        """A text in which the paths of the machine are those of this one."""
        for path in _MOVED:
            text = text.replace(path, f"{self.root}{path}")
        return text

    def move(self) -> int:
        """Let its SSH server listen elsewhere, as after a restart; returns the new port."""
        self.port = free_port()
        self._write_config()
        process_id = int((self.root / "run/sshd.pid").read_text())
        os.kill(process_id, signal.SIGHUP)
        return self.port

    @property
    def is_holding(self) -> bool:
        """Whether the first command that holds the text of `hold_at` has come: it is not done, others are."""
        return (self.root / "held").exists()

    def processes(self) -> set[int]:
        """Ids of all that runs in it: whoever has its mark, sshd (it hides its environment), what they started."""
        parents = dict(_parents())
        found = {self._process.pid} & parents.keys()
        for process_id in parents:
            with contextlib.suppress(OSError):
                environment = Path(f"/proc/{process_id}/environ").read_bytes()
                command = Path(f"/proc/{process_id}/cmdline").read_bytes()
                if f"{_MARK}={self._token}".encode() in environment or f"{self.root}/".encode() in command:
                    found.add(process_id)
        while more := {child for child, parent in parents.items() if parent in found} - found:
            found |= more
        return found

    def end(self) -> None:
        """Power off: no process is told, the disk is gone. Silent if it is over."""
        with self._lock:
            if self._is_ended:
                return
            self._is_ended = True
        self._kill_all()
        self._process.wait()
        self._log.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def _wait(self) -> None:
        self._process.wait()
        with self._lock:
            if self._is_ended:
                return
            self._kill_all()
        self._on_exit()

    def _kill_all(self) -> None:
        while living := {process_id for process_id in self.processes() if not _is_zombie(process_id)}:
            for process_id in living:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process_id, signal.SIGKILL)
            time.sleep(0.005)

    def _write_files(
        self, sshd_delay_s: float, minute_s: int, session_environment: Mapping[str, str], hold_at: str
    ) -> None:
        for folder in ("etc/ssh", "root/.ssh", "run", "bin"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        session = " ".join(f"{name}={shlex.quote(value)}" for name, value in session_environment.items())
        told = {
            "root": self.root,
            "home": self.home,
            "mark": _MARK,
            "token": self._token,
            "session": session,
            "hold": _HOLD.format(text=shlex.quote(hold_at), root=self.root) if hold_at else "",
            "delay_s": sshd_delay_s,
            "minute_s": minute_s,
            "sshd": prepare_machine(),
        }
        programs = {f"bin/{name}": text for name, text in _PROGRAMS.items()}
        for name, text in ({"login": _LOGIN_SHELL, "start.sh": _START} | programs).items():
            self._write_program(name, text.format_map(told), 0o755)
        self._write_config()

    def _write_program(self, name: str, text: str, mode: int) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def _write_config(self) -> None:
        keys = self.root / "etc/ssh"
        text = config_text(
            self.port,
            host_keys=[keys / "ssh_host_ed25519_key", keys / "ssh_host_ecdsa_key"],
            authorized_keys=self.home / ".ssh/authorized_keys",
            pid_file=self.root / "run/sshd.pid",
            address=self.address,
            # The account's own shell starts first: with this home it has no start-up files to read.
            extra_config=f"SetEnv HOME={self.home}\nForceCommand {self.root / 'login'}",
        )
        (keys / "sshd_config").write_text(text)


def _parents() -> Iterator[tuple[int, int]]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            yield int(stat.parent.name), int(stat.read_text().rpartition(")")[2].split()[1])


def _is_zombie(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] in {"Z", "X"}
    except OSError:
        return True
