"""Where a rental stands, and where it can go from there.

    intended ── acquired ── reached ── ready ── training ── collected ── releasing ── released
        │           └──────────┴─────────┴─────────┴────────────┴─────┬──────┘
        ├── refused                                                   └── gone
        └── vanished

Written before anything is done that could cost: whoever dies between two lines leaves a state that says what may be
there. What has ended can only come back as `releasing`: a provider that shows a machine again is believed.
"""

from __future__ import annotations

from enum import StrEnum


class LeaseState(StrEnum):
    """What the ledger says of one request for a machine."""

    INTENDED = "intended"
    """The provider is about to be asked, or was: a machine may have been made."""
    ACQUIRED = "acquired"
    """A machine is ours and costs; its identifier is known."""
    REACHED = "reached"
    """Its SSH server has proved the right key, and the key that counts from now on is pinned."""
    READY = "ready"
    """It passed the preflight, and its dead-man switch runs."""
    TRAINING = "training"
    """Our job may run there."""
    COLLECTED = "collected"
    """The job's results are here."""
    RELEASING = "releasing"
    """Its end was, or is about to be, asked for."""
    RELEASED = "released"
    """The provider has shown that it costs no more."""
    REFUSED = "refused"
    """The provider said no: no machine was made."""
    VANISHED = "vanished"
    """Asked for, never seen: the reply was lost, and no machine has come up since."""
    GONE = "gone"
    """It ended without us: taken away, ended by itself, or deleted by somebody else."""

    @property
    def is_over(self) -> bool:
        """Whether nothing is left that could cost."""
        return self in ENDED

    @property
    def may_cost(self) -> bool:
        """Whether a machine may be there."""
        return self not in ENDED


ENDED = frozenset({LeaseState.RELEASED, LeaseState.REFUSED, LeaseState.VANISHED, LeaseState.GONE})

_HAD = (
    LeaseState.ACQUIRED,
    LeaseState.REACHED,
    LeaseState.READY,
    LeaseState.TRAINING,
    LeaseState.COLLECTED,
)

TRANSITIONS: frozenset[tuple[LeaseState, LeaseState]] = frozenset(
    {
        (LeaseState.INTENDED, LeaseState.ACQUIRED),
        (LeaseState.INTENDED, LeaseState.REFUSED),
        (LeaseState.INTENDED, LeaseState.VANISHED),
        (LeaseState.INTENDED, LeaseState.RELEASING),
        (LeaseState.ACQUIRED, LeaseState.REACHED),
        (LeaseState.REACHED, LeaseState.READY),
        (LeaseState.READY, LeaseState.TRAINING),
        (LeaseState.TRAINING, LeaseState.COLLECTED),
        *((state, LeaseState.RELEASING) for state in _HAD),
        *((state, LeaseState.GONE) for state in _HAD),
        (LeaseState.RELEASING, LeaseState.RELEASED),
        *((state, LeaseState.RELEASING) for state in ENDED),
    }
)
"""Every step that a rental can take; the first, into `intended`, is its birth."""
