"""A PostgreSQL server of its own, on loopback, for the time of a block."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
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
def postgres(folder: Path) -> Iterator[str]:
    """Start PostgreSQL on a free port; give `HOST:PORT/DATABASE` with a user that needs no password.

    Args:
        folder: An empty one; it is given to the account that runs PostgreSQL, which refuses to run as root.
    """
    programs, port = postgres_programs(), free_port()
    account = _unprivileged_account()
    if account is not None:
        for path in (folder, *list(folder.parents)[:2]):
            if path == folder:
                os.chown(path, account.pw_uid, account.pw_gid)
            else:
                path.chmod(path.stat().st_mode | 0o011)
    data, sockets = folder / "data", folder

    def call(*command: str) -> None:
        done = subprocess.run(
            command,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    call(str(programs / "initdb"), "-D", str(data), "-U", "jade", "-A", "trust", "--no-sync")
    options = f"-p {port} -h 127.0.0.1 -k {sockets} -c fsync=off"
    call(str(programs / "pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"127.0.0.1:{port}/postgres"
    finally:
        call(str(programs / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")


def _unprivileged_account() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise AssertionError("PostgreSQL does not run as root, and there is no other account")
