"""Who may be told of what; light, so that the command line's help needs no Prefect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tasks.core.errors import BadRequest
from tasks.core.names import is_plain_name

Kind = Literal["slack", "email", "webhook"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Occasion = Literal["failed", "crashed", "silent", "worker-gone", "late", "regression", "promoted", "budget"]
OCCASIONS: tuple[Occasion, ...] = get_args(Occasion)

SILENT_AFTER_S = 540.0
"""Three heartbeats of a flow run."""


@dataclass(frozen=True)
class Target:
    """Somebody who wants to know.

    Attributes:
        name: Short name, as `team` or `on-call`.
        kind: How they are reached.
        occasions: What they are told of.
        silent_after_s: Without a sign of life for so long, a run counts as silent.
    """

    name: str
    kind: Kind
    occasions: tuple[Occasion, ...] = OCCASIONS
    silent_after_s: float = SILENT_AFTER_S

    def __post_init__(self) -> None:
        if not is_plain_name(self.name) or self.name != self.name.lower() or set(self.name) & {"_", "."}:
            raise BadRequest(f"{self.name!r} is no name for who is notified: use lower-case letters, digits and dashes")
        if unknown := sorted(set(self.occasions) - set(OCCASIONS)):
            raise BadRequest(f"nobody can be told of {', '.join(unknown)}; known: {', '.join(OCCASIONS)}")
        if self.kind not in KINDS:
            raise BadRequest(f"{self.kind!r} is no way to notify; known: {', '.join(KINDS)}")

    @property
    def block(self) -> str:
        """Name of the block that holds the address."""
        return f"jade-{self.name}"

    def automation(self, occasion: Occasion) -> str:
        """Return the name of the automation for one occasion."""
        return f"jade {occasion}: tell {self.name}"


def targets_from(entries: Sequence[Any]) -> list[tuple[Target, str]]:
    """Return what a notifications file asks for: targets, and the environment variable that holds each address.

    Args:
        entries: Its list: name, kind, secret_env, and perhaps occasions and silent_after_s.

    Raises:
        BadRequest: An entry is malformed; it is named.
    """
    targets = []
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not {"name", "kind", "secret_env"} <= set(entry):
            raise BadRequest(f"notification {number} needs name, kind and secret_env, not {entry!r}")
        if unknown := sorted(set(entry) - {"name", "kind", "secret_env", "occasions", "silent_after_s"}):
            raise BadRequest(f"notification {number} ({entry['name']}) has an unknown {', '.join(unknown)}")
        target = Target(
            str(entry["name"]),
            entry["kind"],
            tuple(entry.get("occasions", OCCASIONS)),
            float(entry.get("silent_after_s", SILENT_AFTER_S)),
        )
        targets.append((target, str(entry["secret_env"])))
    return targets
