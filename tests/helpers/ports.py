"""Ports for servers that have to be told one."""

from __future__ import annotations

import random
import socket

# Below the ports that the kernel gives to outgoing connections, so that none of those takes it before the server does.
FIRST, LAST = 12_000, 32_000


def free_port() -> int:
    """Return a loopback port that nobody listens on; drawn, so that tests that run side by side differ."""
    draw = random.SystemRandom()
    while True:
        port = draw.randint(FIRST, LAST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
