"""An S3 endpoint over real HTTP on loopback, and a bucket of its own for each test."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import logging
import threading
import uuid
from typing import Any

import boto3
import pytest
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer

from tasks.artifacts.s3 import S3Backend
from tasks.artifacts.s3_client import connect
from tasks.artifacts.store import ArtifactStore
from tasks.settings.models import S3Settings


@dataclasses.dataclass
class Bucket:
    """A bucket, with a client that goes past the store."""

    name: str
    settings: S3Settings
    client: Any

    def backend(self, prefix: str = "runs/ours", **changes: Any) -> S3Backend:
        settings = dataclasses.replace(self.settings, **changes)
        return S3Backend(f"s3://{self.name}/{prefix}".rstrip("/"), settings, client_for(settings))

    def store(self, prefix: str = "runs/ours", **changes: Any) -> ArtifactStore:
        return ArtifactStore(self.backend(prefix, **changes))

    def list_keys(self) -> list[str]:
        listed = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return [item["Key"] for item in listed]

    def uploads(self) -> list[str]:
        listed = self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])
        return [item["Key"] for item in listed]

    def content(self, key: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return data

    def overwrite(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)


@functools.cache
def s3_endpoint() -> str:
    """The endpoint's URL; started once, whichever modules ask."""
    put, writing = S3Response.put_object, threading.Lock()

    def put_alone(response: S3Response) -> Any:
        """Look at the condition and write at once, as S3 does; moto lets another request come between."""
        with writing:
            return put(response)

    S3Response.put_object = put_alone
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    atexit.register(server.stop)
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


client_for = functools.cache(connect)
"""Making a client takes boto3 most of a second."""


@functools.cache
def s3_client() -> Any:
    session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")
    return session.client("s3", endpoint_url=s3_endpoint())


class WithBucket:
    """A bucket of its own for each test, and credentials by way of the environment."""

    @pytest.fixture
    def bucket(self, monkeypatch: pytest.MonkeyPatch) -> Bucket:
        monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
        for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        name = f"bucket-{uuid.uuid4().hex}"
        s3_client().create_bucket(Bucket=name)
        settings = S3Settings(s3_endpoint(), region="us-east-1", path_style=True, part_bytes=5 * 2**20, attempts=4)
        return Bucket(name, settings, s3_client())
