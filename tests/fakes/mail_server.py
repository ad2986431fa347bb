"""A mail server on loopback that keeps what it is given: as much of SMTP as a sender with a password needs."""

from __future__ import annotations

import base64
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage


@dataclass
class MailServer:
    """What it knows.

    Attributes:
        port: On 127.0.0.1.
        user: Who may send, and with which password.
        received: Messages, in order.
        refuses: How many of the next ones it has no time for.
    """

    port: int
    user: str = "jade"
    password: str = "a-password"
    received: list[EmailMessage] = field(default_factory=list)
    refuses: int = 0


@contextmanager
def running_mail_server() -> Iterator[MailServer]:
    """Receive mail while the block lasts."""
    found = MailServer(0)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            known = base64.b64encode(f"\0{found.user}\0{found.password}".encode()).decode()
            is_known = False
            self.say("220 localhost ready")
            while line := self.rfile.readline().decode().strip():
                match line.split(" ")[0].upper():
                    case "EHLO":
                        self.say("250-localhost", "250 AUTH PLAIN")
                    case "AUTH":
                        is_known = line.split(" ")[-1] == known
                        self.say("235 welcome" if is_known else "535 who are you?")
                    case "DATA":
                        self.say("354 go on")
                        message = self.message()
                        if found.refuses:
                            found.refuses -= 1
                            self.say("451 try again later")
                        else:
                            found.received.append(message)
                            self.say("250 taken")
                    case "QUIT":
                        self.say("221 bye")
                        return
                    case _:
                        self.say("250 fine" if is_known else "530 authenticate first")

        def message(self) -> EmailMessage:
            lines = []
            while (line := self.rfile.readline()) != b".\r\n":
                lines.append(line.removeprefix(b"."))
            parsed = message_from_bytes(b"".join(lines), policy=policy.default)
            assert isinstance(parsed, EmailMessage)
            return parsed

        def say(self, *lines: str) -> None:
            self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        found.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()
