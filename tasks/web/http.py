"""One bounded GET: whatever a server does, it ends in a response or in a Refusal, in bounded time and memory."""

import asyncio
import re
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver
from multidict import CIMultiDictProxy
from yarl import URL

from tasks.web.resolver import CheckedResolver, RefusedAddress

_MAX_HEADERS, _MAX_HEADER_CHARS = 128, 8190
_KEEP_SECONDS = 15.0
_TIMED_OUT_LOOKUP = frozenset({socket.EAI_AGAIN})


class Refusal(Exception):
    """Why a URL gives no image: a drop's reason and detail, whether to try again, the wait that the server wants."""

    def __init__(
        self, reason: str, detail: str | None = None, *, retry: bool = False, wait_seconds: float | None = None,
        status: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(reason, detail)
        self.reason, self.detail, self.retry = reason, detail, retry
        self.wait_seconds, self.status = wait_seconds, status


@dataclass(frozen=True)
class Limits:
    """What one request may take."""

    total_seconds: float
    connect_seconds: float
    read_seconds: float
    max_bytes: int
    cut: bool = False  # take the first `max_bytes` of a longer body instead of refusing it


@dataclass(frozen=True)
class Response:
    """Status, headers and, where it was wanted, the whole body."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


WantsBody = Callable[[int, CIMultiDictProxy[str]], bool]
"""Looks at status and headers before a byte of the body is read; False skips the body, a Refusal may be raised."""


@asynccontextmanager
async def open_session(
    resolver: CheckedResolver, *, user_agent: str, connections: int, verify_tls: bool
) -> AsyncIterator[aiohttp.ClientSession]:
    """A session that connects only where `resolver` allows, without proxies, cookies or credentials."""
    abstract: AbstractResolver = resolver
    connector = aiohttp.TCPConnector(
        resolver=abstract,
        use_dns_cache=False,
        socket_factory=resolver.open_socket,
        limit=connections,
        keepalive_timeout=_KEEP_SECONDS,
        ssl=verify_tls,
    )
    async with aiohttp.ClientSession(
        connector=connector,
        headers={"User-Agent": user_agent, "Accept": "image/*,*/*;q=0.1", "Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        max_line_size=_MAX_HEADER_CHARS,
        max_field_size=_MAX_HEADER_CHARS,
        max_headers=_MAX_HEADERS,
        timeout=aiohttp.ClientTimeout(total=None),
    ) as session:
        yield session


async def get(session: aiohttp.ClientSession, url: str, limits: Limits, wants_body: WantsBody) -> Response:
    """GET a canonical URL, following nothing. Raises Refusal with a drop reason."""
    target = URL(url, encoded=True)
    timeout = aiohttp.ClientTimeout(sock_connect=limits.connect_seconds, sock_read=limits.read_seconds)
    try:
        async with (
            asyncio.timeout(limits.total_seconds),
            session.get(target, allow_redirects=False, timeout=timeout) as response,
        ):
            body = b""
            if wants_body(response.status, response.headers):
                body = await _read_body(response, limits)
            return Response(response.status, response.headers, body)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _refusal(error, limits) from error


async def _read_body(response: aiohttp.ClientResponse, limits: Limits) -> bytes:
    if (response.content_length or 0) > limits.max_bytes and not limits.cut:
        raise Refusal("too_large", f"Content-Length: {response.content_length}", status=response.status)
    body = bytearray()
    async for block in response.content.iter_any():
        body += block
        if len(body) > limits.max_bytes:
            if limits.cut:
                break
            raise Refusal("too_large", f"more than {limits.max_bytes} bytes", status=response.status)
    return _plain(bytes(body[: limits.max_bytes]), response.headers, limits)


def _plain(body: bytes, headers: Mapping[str, str], limits: Limits) -> bytes:
    """The body without the content coding that we did not ask for, unpacked to at most `limits.max_bytes`."""
    coding = headers.get("Content-Encoding", "identity").strip().lower()
    if coding in ("", "identity", "none"):
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise Refusal("undecodable", f"Content-Encoding: {coding[:40]}")
    unpacker = zlib.decompressobj(wbits=47)  # gzip or zlib, by its header
    try:
        plain = unpacker.decompress(body, limits.max_bytes)
    except zlib.error:
        return body  # a header that lies: the bytes themselves will tell what they are
    if unpacker.unconsumed_tail and not limits.cut:
        raise Refusal("too_large", f"more than {limits.max_bytes} bytes when unpacked")
    return plain


def _refusal(error: Exception, limits: Limits) -> Refusal:
    """What an error of the network means for the URL."""
    cause = getattr(error, "os_error", None) or error
    if isinstance(cause, RefusedAddress) or _mentions_refused(error):
        return Refusal("private_address", str(cause))
    match error:
        case aiohttp.ClientConnectorDNSError():
            code = cause.errno if isinstance(cause, socket.gaierror) else None
            return Refusal("dns", str(cause), retry=code in _TIMED_OUT_LOOKUP)
        case aiohttp.ClientSSLError() | ssl.SSLError() | ssl.CertificateError():
            return Refusal("tls", _short(error))
        case aiohttp.ConnectionTimeoutError():
            return Refusal("timeout", f"no connection in {limits.connect_seconds:g} s", retry=True)
        case aiohttp.SocketTimeoutError():
            return Refusal("timeout", f"nothing for {limits.read_seconds:g} s")
        case TimeoutError():
            return Refusal("timeout", f"not done in {limits.total_seconds:g} s")
        case aiohttp.ClientPayloadError():
            return Refusal("truncated", _short(error), retry=True)
        case aiohttp.ClientResponseError() | aiohttp.InvalidURL():
            return Refusal("connection", f"no HTTP: {_short(error)}")
        case _:
            return Refusal("connection", _short(error), retry=True)


def _mentions_refused(error: BaseException | None) -> bool:
    """Whether a refused address is the cause, also inside a group of connection attempts."""
    while error is not None:
        if isinstance(error, RefusedAddress):
            return True
        if isinstance(error, BaseExceptionGroup) and any(map(_mentions_refused, error.exceptions)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _short(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error) or type(error).__name__)[:200]
