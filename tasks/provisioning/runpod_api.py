"""Calls of RunPod's REST API, version 2: bounded in time, tried again where that is safe, its refusals put into words.

A call that failed may have done its work all the same. So those that are safe to repeat (GET, DELETE) are, and the one
that is not (POST) is sent once.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from pydantic import SecretStr

from tasks.core.retry import retry_transient
from tasks.provisioning.errors import (
    KEY_REFUSED,
    ApiKeyMissing,
    NoCapacity,
    NotFound,
    NothingDone,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
)
from tasks.provisioning.provisioner import CallLimits

PROVIDER = "runpod"
API_URL = "https://api.runpod.io/v2"
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_MAX_ANSWER_BYTES = 32 * 2**20
_SHOWN_CHARACTERS = 300
_MIN_SECRET_CHARACTERS = 8


_authorities = functools.cache(httpx.create_ssl_context)
"""Reading the certificates of all authorities takes longer than a call."""


class _BearerKey(httpx.Auth):
    """Puts the key into the header at the last moment, so that no request that is shown or logged holds it."""

    def __init__(self, key: SecretStr) -> None:
        self._key = key

    def auth_flow(self, request: httpx.Request) -> Any:
        request.headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        yield request


class RunPodApi:
    """The service's endpoints that take and give JSON. Several threads may share one.

    Args:
        api_key: Of the account; sent in the header alone, never shown.
        url: Base of the API; https, but on this machine.
        limits: Of every call.

    Raises:
        ApiKeyMissing, ProviderRefused: The key is empty, or no key.
        ValueError: The key could be read on the way to this address.
    """

    def __init__(self, api_key: SecretStr, url: str = API_URL, limits: CallLimits | None = None) -> None:
        if not api_key.get_secret_value():
            raise ApiKeyMissing(PROVIDER, "connect", setting="RUNPOD_API_KEY")
        if not re.fullmatch(r"[\x21-\x7e]+", api_key.get_secret_value()):
            # The HTTP library would quote it in its error.
            raise ProviderRefused(PROVIDER, "connect", "it holds blanks or characters that no key has", **KEY_REFUSED)
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise ValueError(f"the API's address must begin with https://, or the key could be read: {url!r}")
        self.url, self._key, self._limits = url, api_key, limits or CallLimits()
        self._client = httpx.Client(
            timeout=httpx.Timeout(self._limits.read_timeout_s, connect=self._limits.connect_timeout_s),
            # A connection that was kept may be closed by the other side just as a request goes out, and then nobody
            # knows whether it was heard: each call makes its own.
            limits=httpx.Limits(max_keepalive_connections=0),
            auth=_BearerKey(api_key),
            verify=_authorities(),
        )

    def get(self, *path: str, doing: str, params: Mapping[str, str] | None = None) -> Any:
        """Return what is there, tried again after transient errors.

        Raises:
            NotFound: The service denies knowing it.
            ProviderRefused, ProviderUnavailable: As they say.
        """
        return self._repeated(lambda: self._call("GET", path, doing, params=params))

    def delete(self, *path: str, doing: str) -> None:
        """Delete something, tried again after transient errors.

        Raises:
            NotFound: It is gone already, be it by an attempt whose answer was lost.
            ProviderRefused, ProviderUnavailable: As they say.
        """
        self._repeated(lambda: self._call("DELETE", path, doing))

    def create(self, *path: str, doing: str, body: Mapping[str, Any], secrets: Sequence[str] = ()) -> Any:
        """Make something: one POST that may have been heard, not one more.

        Args:
            path: Parts of the path.
            doing: For messages.
            body: Sent as JSON.
            secrets: Parts of the body that must not show in messages, should the service quote them.

        Raises:
            NoCapacity: Also where a rule of the service is broken: it answers both alike.
            ProviderRefused: Key, balance or a field of the body.
            NothingDone: Nothing was made.
            ProviderUnavailable: Whether something was made is not known.
        """
        return self._call("POST", path, doing, body=body, secrets=secrets)

    def _repeated(self, action: Callable[[], Any]) -> Any:
        limits = self._limits
        return retry_transient(
            action,
            attempts=limits.attempts,
            limit_s=limits.call_timeout_s,
            pause_s=limits.pause_s,
            longest_pause_s=limits.longest_wait_s,
        )

    def _call(
        self,
        method: str,
        path: Sequence[str],
        doing: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        secrets: Sequence[str] = (),
    ) -> Any:
        url = "/".join([self.url, *(quote(part, safe="") for part in path)])
        try:
            status, headers, content = self._exchange(method, url, params, body)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
            raise NothingDone(PROVIDER, doing, f"{type(error).__name__}: {error}") from error
        except httpx.HTTPError as error:
            raise ProviderUnavailable(PROVIDER, doing, f"{type(error).__name__}: {error}") from error
        if 200 <= status < 300:
            try:
                return json.loads(content) if content else None
            except ValueError as error:
                detail = f"an answer that is not JSON: {self._shown(_text(content), secrets)}"
                raise ProviderUnavailable(PROVIDER, doing, detail, status=status) from error
        detail = self._shown(_told(content), secrets)
        raise _refusal(status, headers, detail, doing, is_create=method == "POST")

    def _exchange(
        self, method: str, url: str, params: Mapping[str, str] | None, body: Mapping[str, Any] | None
    ) -> tuple[int, httpx.Headers, bytes]:
        deadline = time.monotonic() + self._limits.call_timeout_s
        content = bytearray()
        with self._client.stream(method, url, params=params, json=body) as response:
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > _MAX_ANSWER_BYTES:
                    raise httpx.ReadError(f"the answer is longer than {_MAX_ANSWER_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout(f"the answer took longer than {self._limits.call_timeout_s:g} s")
            return response.status_code, response.headers, bytes(content)

    def _shown(self, text: str, secrets: Sequence[str]) -> str:
        """What the service said, without what it must not repeat, on one line, and shortened last."""
        for secret in (self._key.get_secret_value(), *secrets):
            if len(secret) >= _MIN_SECRET_CHARACTERS:
                text = text.replace(secret, "***")
        text = "".join(c if c.isprintable() else " " for c in text)
        return " ".join(text.split())[:_SHOWN_CHARACTERS]


def _refusal(status: int, headers: httpx.Headers, detail: str, doing: str, *, is_create: bool) -> ProviderError:
    """What an answer other than 2xx means. The service answers 400 to a broken rule and to no capacity alike."""
    if status == 402:
        summary, advice = (
            "the account's balance does not suffice",
            ". Top it up with the provider, or take a cheaper GPU.",
        )
        return ProviderRefused(PROVIDER, doing, detail, status=status, summary=summary, advice=advice)
    if status == 403 and is_create:
        summary = "not for this account or API key"
        advice = ". A read-only key rents nothing, and some kinds are not for every account."
        return NoCapacity(PROVIDER, doing, detail, status=status, summary=summary, advice=advice)
    if status in {401, 403}:
        return ProviderRefused(PROVIDER, doing, detail, status=status, **KEY_REFUSED)
    if status == 400 and is_create:
        return NoCapacity(PROVIDER, doing, detail, status=status)
    if status == 404 and not is_create:
        return NotFound(PROVIDER, doing, detail, status=status)
    wait_s = _retry_after_s(headers)
    if status == 429:
        return NothingDone(PROVIDER, doing, detail, status=status, summary="too many calls", retry_after_s=wait_s)
    if status >= 500 or status in {408, 409, 425}:
        return ProviderUnavailable(PROVIDER, doing, detail, status=status, retry_after_s=wait_s)
    return ProviderRefused(PROVIDER, doing, detail, status=status)


def _retry_after_s(headers: httpx.Headers) -> float | None:
    """How long to wait: `Retry-After` in seconds or as a date, else until a spent window of `RateLimit` opens again."""
    told = headers.get("Retry-After", "").strip()
    if told.isdecimal():
        return float(told)
    if told:
        try:
            return max(0.0, (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds())
        except (ValueError, TypeError):
            return None
    spent = re.findall(r";\s*r=0\s*;\s*t=(\d{1,9})", headers.get("RateLimit", ""))
    return float(max(map(int, spent))) if spent else None


def _told(content: bytes) -> str:
    """What an error's body says: title, detail and errors of RFC 9457, else all of it."""
    try:
        problem = json.loads(content)
        told = f"{problem['title']}: {problem['detail']}"
        errors = [str(error) for error in problem.get("errors") or ()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return _text(content)
    return told + (f" ({'; '.join(errors)})" if errors else "")


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")
