"""hooks.slack.com, as seen by a program whose HTTPS goes through a proxy on loopback: nothing in it is patched."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "hooks.slack.com"
PATH = "/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"


@dataclass
class SlackServer:
    """What it knows.

    Attributes:
        environment: For a program that shall find it in Slack's place.
        received: JSON bodies, in order.
        refuses: How many of the next ones it has no time for.
    """

    environment: dict[str, str]
    received: list[dict[str, Any]] = field(default_factory=list)
    refuses: int = 0

    @property
    def address(self) -> str:
        """The webhook that it knows."""
        return f"https://{HOST}{PATH}"


@contextmanager
def running_slack(folder: Path) -> Iterator[SlackServer]:
    """Receive Slack's messages while the block lasts.

    Args:
        folder: For its certificate.
    """
    certificate = _write_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    found = SlackServer({})

    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            assert self.path == f"{HOST}:443", self.path
            self.send_response(200)
            self.end_headers()
            with context.wrap_socket(self.connection, server_side=True) as tunnel:
                self.connection = tunnel
                self.rfile, self.wfile = tunnel.makefile("rb"), tunnel.makefile("wb")
                self.handle_one_request()
            self.close_connection = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = (200, b"ok") if self.path == PATH else (404, b"no_service")
            if found.refuses:
                found.refuses -= 1
                status, answer = 503, b"try_again_later"
            elif status == 200:
                found.received.append(body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.environment |= {
            "HTTPS_PROXY": f"http://127.0.0.1:{server.server_address[1]}",
            "NO_PROXY": "127.0.0.1",
            "REQUESTS_CA_BUNDLE": str(certificate),
        }
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()


def _write_certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                **usage, digital_signature=True, key_cert_sign=True, encipher_only=False, decipher_only=False
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "slack.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path
