"""A lender on this machine: each of its machines is a real sshd with a home of its own.

What it lends lies on disk, so that a process that is killed and the reaper after it see the same provider. Bad days are
told by files, too: `no_capacity`, `deny_release`, `lose_reply`.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tasks.core.names import HostAddress
from tasks.provisioning.errors import NoCapacity, ProviderUnavailable
from tasks.provisioning.provisioner import Instance, InstanceRequest, InstanceScripts, InstanceState, Offer
from tests.fakes.sshd import SSHD
from tests.helpers.ports import free_port

OFFERS = (
    Offer("fake", "NVIDIA GeForce RTX 4090", "RTX 4090", 24, 0.69, available=True),
    Offer("fake", "NVIDIA L4", "L4", 24, 0.39, available=True),
    Offer("fake", "NVIDIA A100 80GB PCIe", "A100 PCIe", 80, 1.19, available=True),
    Offer("fake", "NVIDIA L4", "L4", 24, 0.19, spot=True, available=True),
)


@dataclass(frozen=True)
class LocalMachines:
    """See the module.

    Attributes:
        folder: Where machines and their homes lie.
        end_is_certain: Whether a machine can end its own cost.
    """

    folder: Path
    end_is_certain: bool = True
    provider: str = "fake"

    @property
    def scripts(self) -> InstanceScripts:
        """Ending: the machine's mark is set and its sshd killed. Renewing: a new key in the place of the first."""
        renew = """cd "$HOME/.." && rm -f new_key new_key.pub && ssh-keygen -q -t ed25519 -N '' -f new_key &&
mv -f new_key host_key && kill -HUP "$(cat sshd.pid)" && cat new_key.pub"""
        end = 'cd "$HOME/.." && : > ended && kill "$(cat sshd.pid)"'
        return InstanceScripts(end=end, end_is_certain=self.end_is_certain, renew_host_key=renew)

    def offers(self) -> Sequence[Offer]:
        """What there is, at these prices."""
        return OFFERS

    def create(self, request: InstanceRequest) -> Instance:
        """Start an sshd of its own, unless this request has one."""
        self._note(f"create {request.request_id} {request.offer.kind}")
        if self._is_told("no_capacity", request.offer.kind):
            raise NoCapacity(self.provider, "create", "There are no instances available", status=400)
        for machine in self.list(request.owner):
            if machine.name == request.name:
                return machine
        instance_id = f"m{secrets.token_hex(4)}"
        home = self.folder / "machines" / instance_id / "home"
        home.mkdir(parents=True)
        root = home.parent
        (root / "host_key").write_text(request.host_private_key)
        (root / "host_key").chmod(0o600)
        write_stubs(root / "bin")
        (root / "authorized_keys").write_text(request.public_key + "\n")
        port = free_port()
        (root / "sshd_config").write_text(_config(root, instance_id, port))
        record = {
            "machine_id": instance_id,
            "name": request.name,
            "owner": request.owner,
            "price": request.offer.price_usd_per_hour,
            "port": port,
            "started_at": time.time(),
        }
        (root / "machine.json.tmp").write_text(json.dumps(record))
        (root / "machine.json.tmp").rename(root / "machine.json")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        assert SSHD is not None
        with (root / "sshd.log").open("wb") as log:
            subprocess.Popen(
                [SSHD, "-f", str(root / "sshd_config"), "-E", str(root / "sshd.log")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            ).wait()
        if self._is_told("lose_reply", request.offer.kind):
            raise ProviderUnavailable(self.provider, "create", "read timed out")
        return self.describe(instance_id)

    def describe(self, instance_id: str) -> Instance:
        """How a machine stands."""
        root = self.folder / "machines" / instance_id
        if not (root / "machine.json").exists():
            return Instance(self.provider, instance_id, "", "", InstanceState.GONE, None, 0.0, None)
        record = json.loads((root / "machine.json").read_text())
        has_ended = (root / "ended").exists()
        return Instance(
            self.provider,
            instance_id,
            record["name"],
            record["owner"],
            InstanceState.GONE if has_ended else InstanceState.RUNNING,
            HostAddress("127.0.0.1", record["port"], getpass.getuser()),
            record["price"],
            datetime.fromtimestamp(record["started_at"], UTC),
        )

    def list(self, owner: str) -> Sequence[Instance]:
        """All that carry the tag and run."""
        return [item for item in self.all() if item.owner == owner]

    def all(self) -> list[Instance]:
        """Every machine of everybody that runs."""
        found = [self.describe(path.parent.name) for path in sorted(self.folder.glob("machines/*/machine.json"))]
        return [item for item in found if item.state is not InstanceState.GONE]

    def terminate(self, instance_id: str) -> Instance:
        """Kill its sshd and all that runs there; silent if it is gone."""
        self._note(f"release {instance_id}")
        if not self._is_told("deny_release", instance_id):
            self.take_away(instance_id)
        return self.describe(instance_id)

    def take_away(self, instance_id: str) -> None:
        """As a provider that needs a spot machine back: everything there dies."""
        root = self.folder / "machines" / instance_id
        if not root.exists():
            return
        (root / "ended").touch()
        for process in self.processes(instance_id):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def processes(self, instance_id: str) -> list[int]:
        """What runs on a machine, its sshd included."""
        root = self.folder / "machines" / instance_id
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                is_inside = f"JADE_TEST_MACHINE={instance_id}".encode() in (entry / "environ").read_bytes()
                if is_inside or str(root / "sshd_config").encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        with contextlib.suppress(OSError, ValueError):
            found.append(int((root / "sshd.pid").read_text()))
        return found

    def calls(self) -> list[str]:
        """What was asked of it, in order."""
        log = self.folder / "calls"
        return log.read_text().splitlines() if log.exists() else []

    def tell(self, bad_day: str, *about: str) -> None:
        """Begin a bad day, for these kinds or machines, or for all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / bad_day).write_text("\n".join(about))

    def end(self, bad_day: str) -> None:
        """End a bad day."""
        (self.folder / bad_day).unlink(missing_ok=True)

    def _is_told(self, bad_day: str, about: str) -> bool:
        path = self.folder / bad_day
        return path.exists() and (not path.read_text() or about in path.read_text().splitlines())

    def _note(self, call: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "calls").open("a") as log:
            log.write(call + "\n")


@contextlib.contextmanager
def lent_machines(folder: Path, *, end_is_certain: bool = True) -> Iterator[LocalMachines]:
    """A lender whose machines all end on leaving."""
    lender = LocalMachines(folder, end_is_certain)
    try:
        yield lender
    finally:
        for path in folder.glob("machines/*"):
            lender.take_away(path.name)


def write_stubs(folder: Path) -> None:
    """A driver that sees a GPU, and a Python that says what one with torch would say: for tests that train nothing."""
    folder.mkdir(parents=True)
    found = {
        "python_version": [3, 12, 0],
        "python": "stub-python",
        "numpy_version": "2.1",
        "torch_version": "2.6.0",
        "torch_devices": ["GPU"],
    }
    for name, says in (
        ("nvidia-smi", "NVIDIA GeForce RTX 4090, 560.35.03, 24564, 24000"),
        ("stub-python", json.dumps(found)),
    ):
        (folder / name).write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\n")
        (folder / name).chmod(0o755)


def _config(root: Path, instance_id: str, port: int) -> str:
    inside = f"HOME={root / 'home'} PATH={root / 'bin'}:$PATH JADE_TEST_MACHINE={instance_id}"
    shell = f'export {inside}; cd && eval "$SSH_ORIGINAL_COMMAND"'
    return f"""ListenAddress 127.0.0.1:{port}
HostKey {root / "host_key"}
AuthorizedKeysFile {root / "authorized_keys"}
PidFile {root / "sshd.pid"}
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
UsePAM no
SetEnv HOME={root / "home"}
ForceCommand {shell}
"""
