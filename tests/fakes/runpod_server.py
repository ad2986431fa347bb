"""RunPod's API, version 2, on loopback: it keeps the contract, and has the bad days that the service has.

Each pod can be a machine with a real sshd. Every request and every answer is checked against the contract; what was
wrong stands in `violations`, which a test expects to be empty.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import struct
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from tests.fakes.rented_machine import RentedMachine
from tests.fakes.runpod_contract import Contract, best_contract

Kind = Literal[
    "answer",  # with `status`; the service does nothing
    "lose request",  # the connection breaks before the service does anything
    "lose answer",  # the service did it, and the connection breaks
    "stall",  # the service did it, and no answer comes for `seconds`
    "late",  # the service does it once `is_due` is set, whoever waits for the answer by then, and sets `is_done`
    "garbage",  # the service did it, and the answer is not what the contract promises
]

_TITLES = {400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found"}
_TITLES |= {409: "Conflict", 422: "Unprocessable Entity", 429: "Too Many Requests", 500: "Internal Server Error"}


@dataclass
class Fault:
    """What happens to `times` requests, after `skip`, of that method whose path has `where` in it."""

    kind: Kind
    method: str
    where: str = "/v2/"
    times: int = 1
    status: int = 500
    detail: str = "made up"
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    skip: int = 0
    body: bytes = b'{"unexpected": true}'
    is_due: threading.Event = field(default_factory=threading.Event)
    is_done: threading.Event = field(default_factory=threading.Event)


@dataclass
class FakePod:
    """A pod. Its state goes on as it is looked at: tests that look twice need no clock."""

    id: str
    name: str
    wanted: dict[str, Any]
    cost: float
    is_foreign: bool = False
    status: str = "PROVISIONING"
    looks: int = 0
    hidden_lists: int = 0
    looks_to_vanish: int = 0
    is_deleted: bool = False
    locked: bool = False
    has_address: bool = False
    created_at: str = ""
    key: str = ""
    machine: RentedMachine | None = None
    port: int = 22022

    @property
    def is_costing(self) -> bool:
        return not (self.is_deleted and self.looks_to_vanish <= 0)


class RunPodServer:
    """Serves until `close`.

    Args:
        machines: Folder below which each pod gets a machine with sshd; None: addresses lead nowhere.
        api_key: The account's.
        contract: Checks requests and answers.

    Attributes:
        faults: See `Fault`.
        gpus: The catalogue.
        sold_out: GPUs that the catalogue lists but nobody gets (400).
        forbidden: GPUs that this account may not have (403).
        list_lag: How many lists do not show a new pod yet.
        looks_to_run: Looks at a pod, from its creation to RUNNING.
        looks_to_address: Looks at a pod until it has an address.
        looks_to_vanish: Looks at a deleted pod that still show it.
        sshd_delay_s: How long after the boot a pod's sshd starts.
        copies: How many pods one POST makes.
        start_as: What the next pods become instead of RUNNING, such as ERROR.
        pods_may_delete: Whether a pod's own key may delete that pod.
        hold_at: Text of a command at which the next pods hold a session; see `RentedMachine.is_holding`.
        requests: All that came, as "METHOD path".
        bodies: Of those that created.
        violations: What broke the contract, ours or the fake's.
        touched_others: Requests that would have changed somebody else's pod.
    """

    def __init__(
        self, machines: Path | None = None, *, api_key: str = "rpa_TESTKEY0123456789", contract: Contract | None = None
    ) -> None:
        self.machines, self.api_key, self.contract = machines, api_key, contract or best_contract()
        self.faults: list[Fault] = []
        self.gpus = [
            _gpu("NVIDIA GeForce RTX 4090", "RTX 4090", 24, 0.44, 0.31),
            _gpu("NVIDIA L4", "L4", 24, 0.39, 0.29),
            _gpu("NVIDIA H100 80GB HBM3", "H100 SXM", 80, 2.69, 2.39, availability="LOW"),
            _gpu("NVIDIA RTX A4000", "RTX A4000", 16, 0.25, 0.17, availability="NONE"),
        ]
        self.sold_out: set[str] = set()
        self.forbidden: set[str] = set()
        self.list_lag = 0
        self.looks_to_run, self.looks_to_address, self.looks_to_vanish = 1, 1, 0
        self.sshd_delay_s = 0.0
        self.copies = 1
        self.start_as: list[str] = []
        self.pods_may_delete = False
        self.hold_at = ""
        self.requests: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.violations: list[str] = []
        self.touched_others: list[str] = []
        self._pods: dict[str, FakePod] = {}
        self.lock = threading.RLock()
        self.is_closing = threading.Event()
        server = self

        class Handler(_Handler):
            owner = server

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v2"

    @property
    def costing(self) -> list[FakePod]:
        """Pods of ours that cost."""
        with self.lock:
            return [pod for pod in self._pods.values() if pod.is_costing and not pod.is_foreign]

    @property
    def others(self) -> list[FakePod]:
        """Pods that are not ours and cost."""
        with self.lock:
            return [pod for pod in self._pods.values() if pod.is_costing and pod.is_foreign]

    def pod(self, pod_id: str) -> FakePod:
        return self._pods[pod_id]

    def count(self, start: str) -> int:
        return sum(request.startswith(start) for request in self.requests)

    def add_foreign(self, name: str, *, status: str = "RUNNING", **wanted: Any) -> FakePod:
        """A pod that somebody else made."""
        body = {"name": name, "image": "theirs", "gpu": {"id": self.gpus[0]["id"]}, **wanted}
        with self.lock:
            pod = self._new_pod(body, is_foreign=True)
            pod.status = status
        return pod

    def close(self) -> None:
        self.is_closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for pod in self._pods.values():
            if pod.machine is not None:
                pod.machine.end()

    # The rest is called by the handler, with the lock held.

    def take_fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if not fault.times or fault.method != method or fault.where not in path:
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            fault.times -= 1
            return fault
        return None

    def answer(self, method: str, path: str, query: str, body: Any, key: str) -> tuple[int, Any]:
        caller = next((pod for pod in self._pods.values() if pod.key == key and pod.is_costing), None)
        if key != self.api_key and caller is None:
            return _problem(401, "invalid bearer token" if key else "missing bearer token")
        if problems := self.contract.request_problems(method, path, query, body):
            self.violations += [f"{method} {path}: {problem}" for problem in problems]
            return _problem(422, "Request validation failed.", problems)
        pod = self._pods.get(unquote(path.removeprefix("/v2/pods/")))
        if pod is not None and pod.is_deleted:
            if pod.looks_to_vanish <= 0:
                pod = None
            else:
                pod.looks_to_vanish -= 1
        if caller is not None and not (method == "DELETE" and pod is caller and self.pods_may_delete):
            return _problem(403, "access denied")
        if path == "/v2/catalog/gpus":
            return 200, {"gpus": self.gpus}
        if (method, path) == ("POST", "/v2/pods"):
            return self._create(body)
        if (method, path) == ("GET", "/v2/pods"):
            return 200, {"pods": [self._shown(each) for each in list(self._pods.values()) if self._is_listed(each)]}
        if pod is None:
            return _problem(404, "pod not found")
        return self._delete(pod) if method == "DELETE" else (200, self._shown(pod))

    def _create(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.bodies.append(body)
        if ("gpu" in body) == ("cpu" in body):
            return _problem(400, "exactly one of gpu and cpu must be given")
        kind = body["gpu"]["id"]
        if kind in self.forbidden:
            return _problem(403, "access denied")
        if kind not in {gpu["id"] for gpu in self.gpus}:
            return _problem(400, f"gpu type {kind!r} is unknown")
        if kind in self.sold_out:
            return _problem(400, "There are no longer any instances available with the requested specifications.")
        pods = [self._new_pod(body) for _ in range(self.copies)]
        return 201, self._shown(pods[0])

    def _new_pod(self, body: dict[str, Any], *, is_foreign: bool = False) -> FakePod:
        price = next(gpu["price"] for gpu in self.gpus if gpu["id"] == body["gpu"]["id"])
        pod = FakePod(
            id=uuid.uuid4().hex[:14],
            name=body["name"],
            wanted=body,
            cost=price[body.get("cloud", "SECURE").lower()],
            is_foreign=is_foreign,
            hidden_lists=0 if is_foreign else self.list_lag,
            created_at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            key=f"rps_{uuid.uuid4().hex}",
        )
        self._pods[pod.id] = pod
        if self.machines is not None and not is_foreign:
            self._boot(pod, self.machines / pod.id)
        return pod

    def _boot(self, pod: FakePod, root: Path) -> None:
        environment = {**pod.wanted.get("env", {}), "RUNPOD_POD_ID": pod.id, "RUNPOD_API_KEY": pod.key}

        def exited() -> None:
            with self.lock:
                pod.status = "EXITED"

        pod.machine = RentedMachine(
            root,
            shlex.split(pod.wanted.get("args", "")) or ["/start.sh"],
            environment,
            sshd_delay_s=self.sshd_delay_s,
            hold_at=self.hold_at,
            on_exit=exited,
        )

    def _delete(self, pod: FakePod) -> tuple[int, Any]:
        if pod.is_foreign:
            self.touched_others.append(f"DELETE {pod.id} ({pod.name})")
        if pod.locked:
            return _problem(409, "pod is locked")
        if pod.is_deleted:
            return _problem(409, "pod is being terminated")
        pod.is_deleted, pod.status, pod.looks_to_vanish = True, "TERMINATED", self.looks_to_vanish
        if pod.machine is not None:
            # Not in here: a machine that ends itself waits for this very answer.
            threading.Thread(target=pod.machine.end).start()
        return 204, None

    @staticmethod
    def _is_listed(pod: FakePod) -> bool:
        if pod.hidden_lists > 0:
            pod.hidden_lists -= 1
            return False
        if pod.is_deleted:
            pod.looks_to_vanish -= 1
            return pod.looks_to_vanish >= 0
        return True

    def _shown(self, pod: FakePod) -> dict[str, Any]:
        self._go_on(pod)
        direct = None
        if pod.has_address and pod.status == "RUNNING":
            port = pod.machine.port if pod.machine else pod.port
            user = pod.machine.user if pod.machine else "root"
            direct = {"host": "127.0.0.1", "port": port, "username": user, "command": f"ssh {user}@127.0.0.1 -p {port}"}
        wanted = pod.wanted
        return {
            "id": pod.id,
            "name": pod.name,
            "image": wanted.get("image", ""),
            "args": wanted.get("args", ""),
            "disk": wanted.get("disk", 50),
            "ports": wanted.get("ports", ["8888/http", "22/tcp"]),
            "env": wanted.get("env", {}),
            "registry": None,
            "status": pod.status,
            "actions": ["stop", "restart", "terminate"],
            "mounts": {},
            "gpu": {"id": wanted["gpu"]["id"], "count": wanted["gpu"].get("count", 1)},
            "cloud": wanted.get("cloud", "SECURE"),
            "dataCenterId": (wanted.get("dataCenterIds") or ["US-KS-2"])[0],
            "cudaVersion": "12.8",
            "ssh": {"proxy": None, "direct": direct},
            "template": None,
            "cost": pod.cost,
            "locked": pod.locked,
            "globalNetworking": {"enabled": False},
            "runtime": {"uptime": pod.looks} if pod.status == "RUNNING" else None,
            "createdAt": pod.created_at,
            "startedAt": pod.created_at if pod.status == "RUNNING" else None,
        }

    def _go_on(self, pod: FakePod) -> None:
        pod.looks += 1
        if pod.status in {"PROVISIONING", "STARTING"} and pod.looks > 1:
            pod.status = "STARTING"
            if pod.looks > self.looks_to_run:
                pod.status = self.start_as.pop(0) if self.start_as else "RUNNING"
        pod.has_address = pod.has_address or pod.looks > self.looks_to_address


def _gpu(
    kind: str, name: str, memory: int, secure: float, community: float, *, availability: str = "HIGH"
) -> dict[str, Any]:
    return {
        "id": kind,
        "name": name,
        "pool": None,
        "manufacturer": "NVIDIA",
        "memory": memory,
        "secure": True,
        "community": True,
        "price": {"secure": secure, "community": community, "serverless": 2 * secure},
        "maxCount": {"secure": 8, "community": 4},
        "availability": availability,
        "dataCenters": [
            {"id": "US-KS-2", "name": "US Kansas 2", "availability": availability},
            {"id": "EU-RO-1", "name": "EU Romania 1", "availability": "NONE"},
        ],
    }


def _problem(status: int, detail: str, errors: list[str] | None = None) -> tuple[int, dict[str, Any]]:
    body: dict[str, Any] = {"title": _TITLES.get(status, "Error"), "status": status, "detail": detail}
    return status, body | ({"errors": errors} if errors else {})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: RunPodServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        with self.owner.lock:
            self.owner.requests.append(f"{self.command} {parts.path}")
            fault = self.owner.take_fault(self.command, parts.path)
        kind = fault.kind if fault else None
        if kind == "lose request":
            return self._reset()
        if fault and kind == "late":
            fault.is_due.wait()
        with self.owner.lock:
            if fault and kind == "answer":
                status, answer = _problem(fault.status, fault.detail)
            else:
                body = json.loads(content) if content else None
                status, answer = self.owner.answer(self.command, parts.path, parts.query, body, key)
                wrong = self.owner.contract.answer_problems(self.command, parts.path, status, answer)
                self.owner.violations += [f"the fake's {status} to {self.command}: {problem}" for problem in wrong]
        if fault and kind == "late":
            fault.is_done.set()
        if kind == "lose answer":
            return self._reset()
        if fault and kind == "stall":
            self.owner.is_closing.wait(fault.seconds)
            return self._reset()
        data = b"" if answer is None else json.dumps(answer).encode()
        if fault and kind == "garbage":
            data = fault.body
        return self._send(status, data, fault.headers if fault else {})

    do_GET = do_POST = do_PATCH = do_DELETE = _handle

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.send_response(status)
            if data:
                kind = "application/json" if status < 400 else "application/problem+json"
                self.send_header("Content-Type", kind)
            if status != 204:
                self.send_header("Content-Length", str(len(data)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(data)

    def _reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())


@contextlib.contextmanager
def running_runpod(machines: Path | None = None, **arguments: Any) -> Iterator[RunPodServer]:
    """A server that is closed on leaving, with all machines."""
    server = RunPodServer(machines, **arguments)
    try:
        yield server
    finally:
        server.close()
