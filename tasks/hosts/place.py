"""How a host is used: which folder is ours there, which Python trains, and whether it can.

Below the host's folder (`~/.jade`):

    code/DIGEST/jade_model/       the sources, under the digest of their contents: sent once, shared by all runs
    runs/KEY/                     job.json, arrays/, splits/ and what the trainings leave, as in a run's folder here
    jobs/KEY/attempt-N/           the detached job; see job.sh
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from tasks.core.errors import HostNotReady
from tasks.hosts.host import Host
from tasks.hosts.preflight import MIN_PYTHON, MIN_TORCH, Verdict, check_host
from tasks.settings.models import HostEntry

MIN_FREE_BYTES = 2**30
_INSTALL_S = 3600.0

_BOOTSTRAP = """
mkdir -p -- "$folder" && cd -- "$folder" || exit 1
"$python" -m venv --system-site-packages venv >&2 || exit 1
venv/bin/python -m pip install --quiet 'numpy>=1.26' 'torch>=2.4' >&2 || exit 1
echo "$PWD/venv/bin/python"
"""


@dataclass(frozen=True)
class RemotePlace:
    """How a host is used.

    Attributes:
        folder: Ours over there; relative paths start at the account's home.
        python: Program that trains.
        time_limit_s: The host ends a job after this long.
        provider: Whose machine it is, where it is rented; empty: a host of the settings.
    """

    folder: str
    python: str
    time_limit_s: int
    provider: str = ""

    @property
    def jobs(self) -> str:
        """Folder of the detached jobs."""
        return f"{self.folder}/jobs"

    def run(self, key: str) -> str:
        """Return the folder of what one job reads and writes."""
        return f"{self.folder}/runs/{key}"

    def code(self, digest: str) -> str:
        """Return the folder of one version of the sources."""
        return f"{self.folder}/code/{digest}"


def place_on(entry: HostEntry) -> RemotePlace:
    """Return how a host of the settings is used."""
    return RemotePlace(entry.remote_folder, entry.python, entry.time_limit_s)


def check_ready(host: Host, place: RemotePlace, *, device: str, is_quick: bool = False) -> None:
    """Look over whether a host can train.

    Args:
        host: Which.
        place: How it is used.
        device: Where it is to train there.
        is_quick: Leave out what takes seconds: whether torch can be imported, and sees the GPU.

    Raises:
        HostError: It cannot be reached or used at all.
        HostNotReady: Something is missing there; the message names all of it and what to do.
    """
    report = check_host(host, folder=place.folder, python=place.python, is_quick=is_quick)
    if report.problem is not None:
        raise report.problem
    findings = report.findings(needs_gpu=device != "cpu", min_free_bytes=MIN_FREE_BYTES)
    problems = [finding for finding in findings if finding.verdict is Verdict.PROBLEM]
    if not problems:
        return
    if place.provider:
        # Nobody repairs a machine that goes back in a minute: what it is made of can be changed.
        listed = "; ".join(f"{item.subject}: {item.found}" for item in problems)
        advice = (
            f"What its machines are made of stands in [{place.provider}] of jade.toml: `image` with Python "
            f"{'.'.join(map(str, MIN_PYTHON))}+, torch {'.'.join(map(str, MIN_TORCH))}+ and numpy, the `python` that "
            "has them, `disk_gb`; or name another --gpu."
        )
    else:
        listed = "; ".join(f"{item.subject}: {item.found} ({item.advice})" for item in problems)
        advice = (
            f"`jade hosts check {host.name} --bootstrap` installs torch and numpy there."
            if report.can_bootstrap
            else f"`jade hosts check {host.name}` shows all that was found."
        )
    raise HostNotReady(f"{host.name} cannot train: {listed}. {advice}")


def bootstrap(host: Host, place: RemotePlace) -> str:
    """Install torch and numpy into a virtual environment of ours on a host; return its python's absolute path.

    What the host's own python has, such as the torch of a GPU image, stays visible and is kept if it is new enough.

    Raises:
        CommandFailed: With the end of what pip or venv said.
    """
    values = f"folder={shlex.quote(place.folder)}\npython={shlex.quote(place.python)}\n"
    return host.run(f"# jade: install torch and numpy\n{values}{_BOOTSTRAP}", timeout_s=_INSTALL_S).text.strip()
