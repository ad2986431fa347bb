"""A PostgreSQL server of its own, on loopback, for the time of a block."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.ports import free_port


def postgres_programs() -> Path:
    """Return the folder of `initdb` and `pg_ctl`: Debian keeps them off the path."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    assert folders, "no PostgreSQL: `make test-system` installs it, or names what is missing"
    return folders[-1]


@contextmanager
def postgres(encoding: str = "UTF8") -> Iterator[str]:
    """Start PostgreSQL on a free port; give `HOST:PORT/DATABASE` with a user `jade` that needs no password.

    Args:
        encoding: Of its databases; under the locale C, `initdb` alone would take SQL_ASCII.
    """
    programs, port, account = postgres_programs(), free_port(), _unprivileged_account()
    # The folders of a test belong to whoever runs it alone; PostgreSQL refuses to run as root.
    folder = Path(tempfile.mkdtemp(prefix="jade-postgres-"))
    if account is not None:
        os.chown(folder, account.pw_uid, account.pw_gid)

    def call(program: str, *arguments: str) -> None:
        command = [str(programs / program), "-D", str(folder / "data"), *arguments]
        done = subprocess.run(
            command,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C", "PGCTLTIMEOUT": "300"},
            # Not a pipe: the server would hold it open.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, command

    try:
        call("initdb", "-U", "jade", "-A", "trust", "-E", encoding, "--no-sync")
        call("pg_ctl", "-w", "-l", str(folder / "log"), "-o", f"-p {port} -h 127.0.0.1 -k {folder} -F", "start")
        try:
            yield f"127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged_account() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise AssertionError("PostgreSQL does not run as root, and there is no other account")
