"""EC2 on loopback: moto's server, and before it what moto doesn't do.

That is: `ClientToken`, capacity and quota errors, lost answers, news that spread late, ends that take their time,
groups that are held by a machine that ends, spot notices, the price list, the metadata service, our public address.
Each instance can be a machine with a real sshd, on a loopback address of its own.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import functools
import http.client
import json
import logging
import os
import random
import re
import socket
import struct
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from moto.server import ThreadedMotoServer

from tests.fakes.rented_machine import RentedMachine
from tests.helpers.ports import free_port

_NS = "http://ec2.amazonaws.com/doc/2016-11-15/"
ET.register_namespace("", _NS)

Kind = Literal["answer", "lose request", "lose answer"]


@dataclass
class Fault:
    """What happens to `times` calls, after `skip`, of an action such as RunInstances; "*" is any."""

    kind: Kind
    action: str
    times: int = 1
    status: int = 400
    code: str = "InternalError"
    message: str = "made up"
    skip: int = 0


@dataclass
class FakeInstance:
    """What is known of an instance besides what moto knows."""

    id: str
    token: str
    groups: list[str]
    address: str
    shutdown_behaviour: str
    user_data: str
    spot: bool
    machine: RentedMachine | None = None
    hidden: int = 0
    looks_to_end: int = 0
    is_ending: bool = False
    has_ended: bool = False
    notice: str = ""
    holds_groups: int = 0
    foreign: bool = False


@dataclass
class Bad:
    """The bad days that last; see `Ec2Server`."""

    sold_out: set[str] = field(default_factory=set)
    over_quota: bool = False
    hidden_looks: int = 0
    looks_to_end: int = 0
    holds_groups: int = 0
    takes_tokens: bool = True


class Ec2Server:
    """One for all tests of a process; `reset` between them.

    Attributes:
        faults: See `Fault`.
        bad: What lasts: types that are sold out; a vCPU quota of nothing; how many looks do not show a new instance;
            how many show one that ends; how many attempts to delete its groups fail after that; whether tokens count.
        machines: Folder below which each instance gets a machine with sshd; None: addresses lead nowhere.
        ssh_port: Where all of them listen, each on an address of its own.
        minute_s: Of their minutes, when they shut down.
        prices: The price list: USD an hour by machine type.
        actions: All that were called, in order.
        parameters: Of each RunInstances.
        touched_others: Calls that would have ended somebody else's instance.
    """

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        self.upstream = "{}:{}".format(*self._moto.get_host_and_port())
        self.lock = threading.RLock()
        self.reset()
        # It reads long lists of machine types before its first answer.
        body = b"Action=DescribeInstanceTypes&Version=2016-11-15&InstanceType.1=g5.xlarge"
        self.forward("POST", "/", _HEADERS, body)
        server = self

        class Handler(_Handler):
            owner = server

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def reset(self) -> None:
        """Forget all bad days; end all machines."""
        for instance in getattr(self, "instances", {}).values():
            if instance.machine is not None:
                instance.machine.end()
        self.faults: list[Fault] = []
        self.bad = Bad()
        self.machines: Path | None = None
        self.ssh_port, self.minute_s = free_port(), 60
        self.prices = {"g4dn.xlarge": 0.526, "g5.xlarge": 1.006, "g6.xlarge": 0.8048}
        self.actions: list[str] = []
        self.parameters: list[dict[str, str]] = []
        self.touched_others: list[str] = []
        self.instances: dict[str, FakeInstance] = {}
        self._tokens: dict[str, tuple[dict[str, str], bytes]] = {}
        self._client: Callable[[str], Any] | None = None

    def close(self) -> None:
        self.reset()
        self._server.shutdown()
        self._server.server_close()
        self._moto.stop()

    def count(self, action: str) -> int:
        return self.actions.count(action)

    @property
    def costing(self) -> list[FakeInstance]:
        with self.lock:
            return [each for each in self.instances.values() if not each.has_ended and not each.foreign]

    def announce(self, instance_id: str) -> None:
        """Tell that a spot instance will be taken away."""
        self.instances[instance_id].notice = '{"action": "terminate", "time": "2026-11-24T06:00:00Z"}'

    def take_away(self, instance_id: str) -> None:
        """Take a spot instance away: its machine is gone with its disk."""
        with self.lock:
            self._finish(self.instances[instance_id])

    # The rest is called by the handler, with the lock held.

    def take_fault(self, action: str) -> Fault | None:
        for fault in self.faults:
            if not fault.times or fault.action not in {action, "*"}:
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            fault.times -= 1
            return fault
        return None

    def answer(self, told: dict[str, str], forward: Callable[[], tuple[int, bytes]]) -> tuple[int, bytes]:
        action = told["Action"]
        if action == "RunInstances":
            return self._run(told, forward)
        if action == "TerminateInstances":
            return self._terminate(told, forward)
        if action == "DescribeInstances":
            return self._describe(told, forward)
        if action == "CancelSpotInstanceRequests":
            return 200, _wrapped("CancelSpotInstanceRequests", "<spotInstanceRequestSet/>")
        if action == "DeleteSecurityGroup":
            return self._delete_group(told, forward)
        return forward()

    def _run(self, told: dict[str, str], forward: Callable[[], tuple[int, bytes]]) -> tuple[int, bytes]:
        self.parameters.append(told)
        token, kind = told.get("ClientToken", ""), told["InstanceType"]
        asked = {name: value for name, value in told.items() if name != "UserData"}
        if self.bad.takes_tokens and token in self._tokens:
            before, body = self._tokens[token]
            if before["InstanceType"] != asked["InstanceType"]:
                return error(400, "IdempotentParameterMismatch", "Arguments on this idempotent request differ")
            if all(each.has_ended for each in self.instances.values() if each.token == token):
                return error(400, "IdempotentInstanceTerminated", "The token belongs to an instance that has ended")
            return 200, body
        if kind in self.bad.sold_out:
            return error(500, "InsufficientInstanceCapacity", f"We currently do not have sufficient {kind} capacity")
        if self.bad.over_quota:
            return error(400, "VcpuLimitExceeded", "You have requested more vCPU capacity than your current limit of 0")
        status, body = forward()
        if status != 200:
            return status, body
        instance_id = _found(ET.fromstring(body), "instanceId")  # noqa: S314 -- moto's
        number = random.randrange(2**16)
        instance = FakeInstance(
            id=instance_id,
            token=token,
            groups=[value for name, value in told.items() if name.startswith("SecurityGroupId.")],
            address=f"127.77.{number >> 8}.{number & 255 or 1}",
            shutdown_behaviour=told.get("InstanceInitiatedShutdownBehavior", "stop"),
            user_data=base64.b64decode(told.get("UserData", "")).decode(),
            spot=told.get("InstanceMarketOptions.MarketType") == "spot",
            hidden=self.bad.hidden_looks,
            foreign="jade:owner" not in told.values(),
        )
        self.instances[instance_id] = instance
        body = self._rewritten(body)
        self._tokens[token] = (asked, body)
        if self.machines is not None and not instance.foreign:
            self._boot(instance, self.machines / instance_id)
        return status, body

    def _boot(self, instance: FakeInstance, root: Path) -> None:
        """Do what cloud-init does with a cloud-config."""
        first, _, rest = instance.user_data.partition("\n")
        assert first == "#cloud-config"
        config = json.loads(rest)
        files = {
            each["path"]: (each["content"], int(each.get("permissions", "0644"), 8)) for each in config["write_files"]
        }
        files["etc/ssh/ssh_host_ed25519_key"] = (config["ssh_keys"]["ed25519_private"], 0o600)
        files["etc/ssh/ssh_host_ed25519_key.pub"] = (config["ssh_keys"]["ed25519_public"] + "\n", 0o644)
        files = {
            path.removeprefix("/") if path.startswith("/etc/environment") else path: what
            for path, what in files.items()
        }

        def exited() -> None:
            with self.lock:
                if instance.shutdown_behaviour == "terminate":
                    self._finish(instance)

        instance.machine = RentedMachine(
            root,
            ["bash", "-c", "for script in /var/lib/cloud/scripts/per-boot/*; do sh $script & done; /start.sh"],
            {"PUBLIC_KEY": "\n".join(config["ssh_authorized_keys"])},
            address=instance.address,
            port=self.ssh_port,
            files=files,
            session_environment={"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"{self.url}/of/{instance.id}"},
            minute_s=self.minute_s,
            on_exit=exited,
        )

    def _terminate(self, told: dict[str, str], forward: Callable[[], tuple[int, bytes]]) -> tuple[int, bytes]:
        instance = self.instances.get(told["InstanceId.1"])
        if instance is None:
            return forward()
        if instance.foreign:
            self.touched_others.append(instance.id)
        if not instance.is_ending:
            instance.is_ending, instance.looks_to_end = True, self.bad.looks_to_end
            if instance.looks_to_end <= 0:
                self._finish(instance)
        item = (
            f"<item><instanceId>{instance.id}</instanceId>"
            "<currentState><code>32</code><name>shutting-down</name></currentState></item>"
        )
        return 200, _wrapped("TerminateInstances", f"<instancesSet>{item}</instancesSet>")

    def _finish(self, instance: FakeInstance) -> None:
        """It ends, here and in moto."""
        if instance.has_ended:
            return
        instance.is_ending, instance.has_ended, instance.holds_groups = True, True, self.bad.holds_groups
        body = f"Action=TerminateInstances&Version=2016-11-15&InstanceId.1={instance.id}".encode()
        self.forward("POST", "/", _HEADERS, body)
        if instance.machine is not None:
            threading.Thread(target=instance.machine.end).start()

    def _describe(self, told: dict[str, str], forward: Callable[[], tuple[int, bytes]]) -> tuple[int, bytes]:
        asked = self.instances.get(told.get("InstanceId.1", ""))
        if asked is not None and asked.hidden > 0:
            asked.hidden -= 1
            return error(400, "InvalidInstanceID.NotFound", f"The instance ID '{asked.id}' does not exist")
        for instance in self.instances.values():
            if instance.is_ending and not instance.has_ended:
                instance.looks_to_end -= 1
                if instance.looks_to_end < 0:
                    self._finish(instance)
        status, body = forward()
        return status, self._rewritten(body) if status == 200 else body

    def _rewritten(self, body: bytes) -> bytes:
        """An answer about instances with what is known here: addresses, ends, what is not known everywhere yet."""
        root = ET.fromstring(body)  # noqa: S314 -- moto's
        space = root.tag.rpartition("}")[0] + "}"
        for holder in list(root.iter(f"{space}instancesSet")):
            for item in list(holder):
                instance = self.instances.get(_found(item, "instanceId"))
                if instance is None:
                    continue
                if instance.hidden > 0 and root.tag == f"{space}DescribeInstancesResponse":
                    instance.hidden -= 1
                    holder.remove(item)
                    continue
                for each in item.findall("{*}ipAddress"):
                    each.text = instance.address
                if instance.is_ending and not instance.has_ended:
                    state = item.find("{*}instanceState")
                    assert state is not None
                    for each, text in zip(state, ("32", "shutting-down"), strict=True):
                        each.text = text
                if instance.spot:
                    ET.SubElement(item, f"{space}spotInstanceRequestId").text = f"sir-{instance.id[2:10]}"
        return ET.tostring(root)

    def _delete_group(self, told: dict[str, str], forward: Callable[[], tuple[int, bytes]]) -> tuple[int, bytes]:
        group = told.get("GroupId", "")
        for instance in self.instances.values():
            if group in instance.groups and (not instance.has_ended or instance.holds_groups > 0):
                instance.holds_groups -= instance.has_ended
                return error(400, "DependencyViolation", f"resource {group} has a dependent object")
        return forward()

    def price_list(self, content: bytes) -> bytes:
        filters = {each["Field"]: each["Value"] for each in json.loads(content)["Filters"]}
        price = self.prices.get(filters["instanceType"])
        listed = []
        if price is not None and filters["operatingSystem"] == "Linux":
            dimension = {"unit": "Hrs", "pricePerUnit": {"USD": f"{price:.10f}"}}
            terms = {"OnDemand": {"A.B": {"priceDimensions": {"A.B.C": dimension}}}, "Reserved": {}}
            listed.append(json.dumps({"product": {"attributes": filters}, "terms": terms}))
        return json.dumps({"FormatVersion": "aws_v1", "PriceList": listed}).encode()

    def metadata(self, method: str, path: str, token: str) -> tuple[int, bytes]:
        found = re.fullmatch(r"/of/([^/]+)(/.*)", path)
        instance = self.instances.get(found[1]) if found else None
        if instance is None or found is None:
            return 404, b""
        if (method, found[2]) == ("PUT", "/latest/api/token"):
            return 200, f"token-{instance.id}".encode()
        if token != f"token-{instance.id}":
            return 401, b""
        if found[2] == "/latest/meta-data/spot/instance-action" and instance.notice:
            return 200, instance.notice.encode()
        return 404, b""

    def forward(self, method: str, path: str, headers: dict[str, str], content: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.upstream, timeout=120)
        try:
            connection.request(method, path, content, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


_HEADERS = {
    "Content-Type": "application/x-www-form-urlencoded",
    "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/ec2/aws4_request, Signature=0",
}


def error(status: int, code: str, message: str) -> tuple[int, bytes]:
    text = f"<Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
    return status, f"<Response>{text}<RequestID>made-up</RequestID></Response>".encode()


def _wrapped(action: str, inner: str) -> bytes:
    return f'<{action}Response xmlns="{_NS}"><requestId>made-up</requestId>{inner}</{action}Response>'.encode()


def _found(root: ET.Element, name: str) -> str:
    return next(each.text or "" for each in root.iter() if each.tag.rpartition("}")[2] == name)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Ec2Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def _handle(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        owner = self.owner
        if path == "/address":
            return self._send(200, b"127.0.0.1\n")
        if path.startswith("/of/"):
            return self._send(*owner.metadata(self.command, path, self.headers.get("X-aws-ec2-metadata-token", "")))
        if "X-Amz-Target" in self.headers:
            told = {"Action": self.headers["X-Amz-Target"].rpartition(".")[2]}
        else:
            told = dict(parse_qsl(content.decode(), keep_blank_values=True))
        with owner.lock:
            owner.actions.append(told["Action"])
            fault = owner.take_fault(told["Action"])
            if fault and fault.kind == "lose request":
                return self._reset()
            if fault and fault.kind == "answer":
                return self._send(*error(fault.status, fault.code, fault.message))
            if told["Action"] == "GetProducts":
                return self._send(200, owner.price_list(content))
            headers = {name: value for name, value in self.headers.items() if name.lower() != "content-length"}
            status, body = owner.answer(told, lambda: owner.forward(self.command, self.path, headers, content))
        if fault:
            return self._reset()
        return self._send(status, body)

    do_POST = do_GET = do_PUT = _handle

    def _send(self, status: int, body: bytes) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.send_response_only(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

    def _reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())


@functools.cache
def ec2_server() -> Ec2Server:
    """Started once, whichever modules ask: moto takes seconds to wake up."""
    server = Ec2Server()
    atexit.register(server.close)
    return server
