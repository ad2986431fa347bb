"""Which process controls a rental, and whether that process is certainly dead."""

from __future__ import annotations

import os
import secrets
import socket

import psutil

from tasks.core.processes import boot_id, start_ticks

CLAIM_S = 120.0
"""A claim that was silent for longer counts no more: its process is dead, or cut off from the ledger."""
TOUCH_EVERY_S = 20.0


def new_claim() -> str:
    """Return what this process is told by: machine, process, its birth, and something random."""
    return f"{socket.gethostname()[:64]}/{os.getpid()}/{_birth(os.getpid())}/{secrets.token_hex(4)}"


def is_certainly_dead(claim: str) -> bool:
    """Whether a claim's process ran on this machine and is no more. False if that cannot be told from here."""
    parts = claim.split("/")
    if len(parts) != 4 or parts[0] != socket.gethostname()[:64] or not parts[1].isdigit():
        return False
    return _birth(int(parts[1])) != parts[2]


def _birth(process_id: int) -> str:
    """Boot and start time of a process, so that a process id that was given out anew is told apart; empty if none."""
    if boot := boot_id():
        ticks = start_ticks(process_id)
        return f"{boot[:8]}.{ticks}" if ticks else ""
    return "there" if psutil.pid_exists(process_id) else ""
