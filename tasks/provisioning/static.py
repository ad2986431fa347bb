"""Hosts that are there anyway, lent one run at a time: a lease on the host itself, behind the same seam as rented ones.

The lease is a folder on the host, which only one of several can make; it names who holds it and until when, by the
host's own clock. So it holds between machines that share nothing but the host, and a holder that died does not keep it
for ever. Nothing costs, and nothing of a host ends: what trains there trains on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from tasks.core.names import HostAddress
from tasks.hosts.errors import HostError
from tasks.hosts.host import Host
from tasks.hosts.shell import SHELL_FUNCTIONS, assigned
from tasks.provisioning.errors import NoCapacity, ProviderRefused, ProviderUnavailable
from tasks.provisioning.provisioner import (
    Instance,
    InstanceRequest,
    InstanceScripts,
    InstanceState,
    Offer,
    gone,
    owner_and_request,
)

PROVIDER = "static"
CALL_S = 30.0
_MARK = "jade-lease"

_LOOK = """
tell() {
  holder=; since=; until=
  [ ! -f lease/holder ] || read -r holder since until < lease/holder || :
  echo "@MARK@ ${holder:--} ${since:-0} ${until:-0} $(date +%s)"
}
is_free() { [ -z "$holder" ] || [ "$(date +%s)" -ge "$until" ]; }
# Two that find a lease run out at once must not both take it, and none may give back what another has just taken:
# whoever makes the guard decides alone, for a moment.
decide_alone() {
  tries=0
  until mkdir lease.guard 2>/dev/null; do
    tries=$((tries + 1))
    # Nobody needs it for this long: its maker died.
    [ -z "$(find lease.guard -maxdepth 0 -mmin +1 2>/dev/null)" ] || rmdir lease.guard 2>/dev/null
    [ "$tries" -lt 50 ] || { echo 'jade: the lease is being taken by somebody else' >&2; rmdir lease.guard; exit 1; }
    nap
  done
  trap 'rmdir lease.guard 2>/dev/null' EXIT
  tell > /dev/null
}
"""

_TAKE = """
mkdir -p -- "$folder" && cd -- "$folder" || exit 1
decide_alone
if [ "$holder" = "$name" ] || is_free; then
  mkdir -p lease
  [ "$holder" = "$name" ] && ! is_free || put lease/holder "$name $(date +%s) $(($(date +%s) + max_age_s))"
fi
tell
"""

_SHOW = """
[ -d "$folder" ] && cd -- "$folder" || { echo "@MARK@ - 0 0 $(date +%s)"; exit 0; }
tell
"""

_GIVE_BACK = """
cd -- "$folder" || exit 1
decide_alone
[ "$holder" != "$name" ] || rm -rf -- lease
tell
"""


@dataclass(frozen=True)
class StaticHost:
    """A host that can be lent.

    Attributes:
        address: Where its SSH server listens.
        folder: Ours over there.
        open: Connects; who gets the host closes it.
    """

    address: HostAddress
    folder: str
    open: Callable[[], Host]


@dataclass(frozen=True)
class _Lease:
    """As the host tells it; times by the host's clock."""

    name: str
    since: int
    until: int
    now: int

    @property
    def is_held(self) -> bool:
        return self.name != "-" and self.now < self.until


class StaticProvisioner:
    """The hosts of the settings as a `Provisioner`. A machine's identifier: its host and the request that holds it.

    Args:
        hosts: By name.
    """

    def __init__(self, hosts: Mapping[str, StaticHost]) -> None:
        self._hosts = dict(hosts)

    provider = PROVIDER
    scripts = InstanceScripts(end="", end_is_certain=True)
    """A host of ours ends by nobody's hand, and costs nothing."""

    def offers(self) -> Sequence[Offer]:
        """Return all hosts. Nobody is asked: whether a host is free shows when it is taken."""
        return [Offer(PROVIDER, name, name, None, 0.0) for name in self._hosts]

    def create(self, request: InstanceRequest) -> Instance:
        """Take the host's lease.

        Raises:
            NoCapacity: Somebody else holds it, or the host is out of reach.
        """
        name, doing = request.offer.kind, f"take {request.offer.kind}"
        if name not in self._hosts:
            raise ProviderRefused(PROVIDER, doing, "no settings file has a host of that name")
        values: dict[str, str | int] = {"name": request.name, "max_age_s": max(int(request.max_age_s), 1)}
        try:
            lease = self._ask(name, _TAKE, doing, **values)
        except ProviderUnavailable as error:
            if error.__cause__ is not None and not getattr(error.__cause__, "is_transient", False):
                raise NoCapacity(PROVIDER, doing, error.detail) from error
            raise
        if lease.name != request.name:
            until = datetime.fromtimestamp(lease.until, UTC).isoformat(timespec="minutes")
            raise NoCapacity(PROVIDER, doing, f"{lease.name} holds it until {until} at the latest")
        return self._machine(name, lease)

    def describe(self, instance_id: str) -> Instance:
        """Return how a lease stands. Gone is a lease that ran out, or that somebody else holds by now."""
        host, request_id = _parted(instance_id)
        if host in self._hosts:
            lease = self._ask(host, _SHOW, f"look at {host}")
            told = owner_and_request(lease.name)
            if lease.is_held and told is not None and told[1] == request_id:
                return self._machine(host, lease)
        return gone(PROVIDER, instance_id)

    def list(self, owner: str) -> Sequence[Instance]:
        """Return the owner's leases. A host out of reach lists nothing: its lease runs out by itself."""

        def ask(name: str) -> Instance | None:
            try:
                lease = self._ask(name, _SHOW, f"look at {name}")
            except ProviderUnavailable:
                return None
            told = owner_and_request(lease.name)
            return self._machine(name, lease) if lease.is_held and told is not None and told[0] == owner else None

        if not self._hosts:
            return []
        with ThreadPoolExecutor(max_workers=min(16, len(self._hosts))) as pool:
            return [machine for machine in pool.map(ask, self._hosts) if machine is not None]

    def terminate(self, instance_id: str) -> Instance:
        """Give the lease back, unless somebody else holds it by now."""
        instance = self.describe(instance_id)
        if instance.state is not InstanceState.GONE:
            host = host_of(instance_id)
            self._ask(host, _GIVE_BACK, f"give {host} back", name=instance.name)
        return instance

    def _machine(self, host: str, lease: _Lease) -> Instance:
        told = owner_and_request(lease.name)
        owner, request_id = told or ("", "")
        return Instance(
            PROVIDER,
            f"{host}/{request_id}",
            lease.name,
            owner,
            InstanceState.RUNNING,
            self._hosts[host].address,
            0.0,
            datetime.fromtimestamp(lease.since, UTC),
        )

    def _ask(self, where: str, script: str, doing: str, **values: str | int) -> _Lease:
        static = self._hosts[where]
        body = f"{SHELL_FUNCTIONS}{_LOOK}{script}".replace("@MARK@", _MARK)
        host = static.open()
        try:
            answer = host.run(f"# jade: lease\n{assigned(folder=static.folder, **values)}{body}", timeout_s=CALL_S).text
        except HostError as error:
            raise ProviderUnavailable(PROVIDER, doing, str(error)) from error
        finally:
            host.close()
        fields = answer.strip().rpartition("\n")[2].split()
        if len(fields) != 5 or fields[0] != _MARK or not all(field.isdigit() for field in fields[2:]):
            raise ProviderUnavailable(PROVIDER, doing, f"it answered {answer[-200:]!r}")
        return _Lease(fields[1], int(fields[2]), int(fields[3]), int(fields[4]))


def host_of(instance_id: str) -> str:
    """Return the name of the host that a machine is."""
    return _parted(instance_id)[0]


def _parted(instance_id: str) -> tuple[str, str]:
    host, _, request_id = instance_id.partition("/")
    return host, request_id
