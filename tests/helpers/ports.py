"""Ports for servers that have to be told one."""

from __future__ import annotations

import random
import socket

# Below the ports that the kernel gives to outgoing connections, so that none of those takes it before the server does.
FIRST, LAST = 12_000, 32_000


def free_port(in_a_row: int = 1) -> int:
    """Return a loopback port: it and those after it are free. Drawn, so that tests that run side by side differ."""
    draw = random.SystemRandom()
    while True:
        port = draw.randint(FIRST, LAST)
        if all(_is_free(port + further) for further in range(in_a_row)):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
