"""A real systemd as process 1 of its own namespaces, over a view of this machine that nothing is written through."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from helpers.processes import children_of, wait_until
from helpers.servers import ROOT

SYSTEMD = Path("/lib/systemd/systemd")
_BOOT = Path(__file__).with_name("boot_systemd.sh")
_BOOT_LIMIT_S = 120
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}


@dataclass(frozen=True)
class Machine:
    """What systemd has started: this machine's files as they were at its start, and a loopback interface of its own.

    The checkout lies at /opt/jade, with its environment.

    Attributes:
        process: Of systemd, as it is numbered here.
    """

    process: int

    def run(
        self, *command: str, text: str = "", limit_s: float = 300, variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root in there.

        Args:
            command: Program and arguments.
            text: For its standard input.
            limit_s: It is killed after this many seconds.
            variables: Of its environment, beside the usual ones.
        """
        return subprocess.run(
            ["nsenter", "--target", str(self.process), "--all", "--wd=/", *command],
            env={**_ENVIRONMENT, **(variables or {})},
            input=text,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
            # Whoever runs the tests has a terminal, which would be asked for passwords.
            start_new_session=True,
        )

    def do(
        self, *command: str, text: str = "", limit_s: float = 300, variables: Mapping[str, str] | None = None
    ) -> str:
        """Run a command that has to succeed; return what it printed."""
        done = self.run(*command, text=text, limit_s=limit_s, variables=variables)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}\n{self.journal()}"
        return done.stdout

    def write(self, path: str, text: str, mode: str = "0644") -> None:
        """Write a file in there."""
        self.do("install", "-m", mode, "/dev/stdin", path, text=text)

    def journal(self) -> str:
        """Return the end of what systemd and its services have said."""
        return self.run("journalctl", "--no-pager", "--lines=150").stdout

    def property(self, unit: str, name: str) -> str:
        """Return what systemd knows of a unit, such as `ActiveState`."""
        return self.do("systemctl", "show", "--property", name, "--value", unit).strip()

    def processes_of(self, user: str) -> list[str]:
        """Return the command lines of a user's living processes."""
        return self.run("ps", "-o", "args=", "--user", user).stdout.splitlines()


def why_not() -> str | None:
    """Return what is missing here for `booted`, in a line; None if it works."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root of a Linux system may start another systemd"
    if not SYSTEMD.exists():
        return f"no {SYSTEMD} here (Debian: apt-get install systemd)"
    missing = [
        name for name in ("ip", "nsenter", "pivot_root", "ps", "setpriv", "unshare") if shutil.which(name) is None
    ]
    if missing:
        return f"no {', '.join(missing)} here"
    if Path(sys.prefix) != ROOT / ".venv":
        return f"the tests do not run in {ROOT / '.venv'}, which would be installed"
    if _cgroups() is None:
        return "no cgroup2 file system is mounted here"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--fork", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else None


@contextmanager
def booted(folder: Path) -> Iterator[Machine]:
    """Start systemd, with this checkout at /opt/jade; whatever happens in the block, nothing of it is left.

    Args:
        folder: An empty one.
    """
    cgroups = _cgroups()
    assert cgroups is not None
    cgroup = cgroups / f"jade-test-{secrets.token_hex(4)}"
    cgroup.mkdir()
    log_path = folder.with_name(f"{folder.name}.log")
    try:
        with log_path.open("wb") as log:
            # If this process is killed, so is what it has started, down to process 1 and all that is below it.
            command = ["setpriv", "--pdeathsig", "KILL", "sh", str(_BOOT), str(cgroup), str(folder), str(ROOT)]
            python = f"python{sys.version_info.major}.{sys.version_info.minor}"
            parent = subprocess.Popen(
                [*command, os.path.realpath(sys.base_prefix), python], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            yield _wait_for_machine(parent, log_path)
        finally:
            parent.kill()
            parent.wait()
    finally:
        _remove(cgroup)


def _wait_for_machine(parent: subprocess.Popen[bytes], log_path: Path) -> Machine:
    found: list[Machine] = []

    def is_up() -> bool:
        assert parent.poll() is None, log_path.read_text()
        first = [process for process, name in children_of(parent.pid) if name == SYSTEMD.name]
        found[:] = [Machine(process) for process in first]
        # Degraded: a service that the machine's packages bring does not work in namespaces.
        return any(
            machine.run("systemctl", "is-system-running").stdout.strip() in {"running", "degraded"} for machine in found
        )

    wait_until(is_up, _BOOT_LIMIT_S, log_path.read_text)
    return found[0]


def _cgroups() -> Path | None:
    """Return where the second version of cgroups is mounted; beside the first version, too."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, folder, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(folder)
    return None


def _remove(cgroup: Path) -> None:
    """Remove a cgroup with those that systemd has made in it, once the last process is gone."""
    with contextlib.suppress(FileNotFoundError):  # Linux before 5.14
        (cgroup / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + 60
    while cgroup.is_dir():
        try:
            for path, _, _ in os.walk(cgroup, topdown=False):
                Path(path).rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
