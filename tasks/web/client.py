"""The client: connections kept by origin, opened only to checked addresses, with the right TLS name and Host."""

import asyncio
import socket
import ssl
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from aiohappyeyeballs import AddrInfoType, start_connection

from tasks.web.addresses import Address
from tasks.web.http import Clock, Exchange, Limits, Refusal, Response, StaleConnection, WantsBody, short
from tasks.web.http1 import Http1Connection
from tasks.web.resolver import CheckedResolver, RefusedAddress
from tasks.web.urls import UrlParts

if TYPE_CHECKING:
    from tasks.web.http2 import Http2Connection

_KEEP_SECONDS = 15.0
_NEXT_ADDRESS_SECONDS = 0.25  # RFC 8305: how long one address may be tried alone
_TIMED_OUT_LOOKUP = frozenset({socket.EAI_AGAIN})
_MAX_KNOWN = 50_000
_MAX_DIALLED = 16  # addresses of one name: all are checked, but a name may have thousands
_DEFAULT_PORTS = {"http": 80, "https": 443}

Connection: TypeAlias = "Http1Connection | Http2Connection"


class Client:
    """GETs canonical URLs. No proxies, cookies, credentials, redirects: what follows from an answer is not its matter.

    Connections that are idle are kept by origin for 15 seconds, at most `max_idle` of them, the longest idle go first.
    Limits of time are looked at every `look_seconds`.
    """

    def __init__(
        self, resolver: CheckedResolver, *, user_agent: str, verify_tls: bool, http2: bool, max_idle: int,
        look_seconds: float,
    ) -> None:  # fmt: skip
        self._resolver, self._http2, self._max_idle = resolver, http2, max_idle
        self._loop = asyncio.get_running_loop()
        self._clock = Clock(self._loop, look_seconds)
        self._tls = _tls_context(verify=verify_tls, http2=http2)
        self._fixed = (
            f"User-Agent: {user_agent}\r\nAccept: image/*,*/*;q=0.1\r\nAccept-Encoding: identity\r\n\r\n".encode()
        )
        self._user_agent = user_agent
        self._idle: OrderedDict[Http1Connection, tuple[str, float]] = OrderedDict()  # the longest idle first
        self._idle_of: dict[str, deque[Http1Connection]] = {}
        self._shared: dict[str, list[Http2Connection]] = {}
        self._opening: dict[str, asyncio.Future[None]] = {}
        self._http1_only: set[str] = set()
        self._sweeper = self._loop.call_later(_KEEP_SECONDS, self._sweep)

    async def get(self, parts: UrlParts, limits: Limits, wants: WantsBody) -> Response:
        """GET a URL. Whatever a server does, it ends in a Response or a Refusal, in bounded time and memory."""
        until = self._loop.time() + limits.total_seconds
        kept = self._kept(parts.origin)
        if kept is not None:
            try:
                return await self._on(kept, parts, Exchange(limits, wants, until=until, clock=self._clock))
            except StaleConnection:
                pass
        fresh = await self._open(parts, limits, until)
        return await self._on(fresh, parts, Exchange(limits, wants, until=until, clock=self._clock))

    async def _on(self, connection: Connection, parts: UrlParts, exchange: Exchange) -> Response:
        try:
            if isinstance(connection, Http1Connection):
                connection.start(self._request(parts), exchange)
            else:
                connection.start(parts, self._user_agent, exchange)
            return await exchange.done
        except asyncio.CancelledError:
            exchange.abandon()
            exchange.on_timeout()
            raise

    def _request(self, parts: UrlParts) -> bytes:
        authority = parts.origin[len(parts.scheme) + 3 :]
        return f"GET {parts.target} HTTP/1.1\r\nHost: {authority}\r\n".encode("ascii") + self._fixed

    def _kept(self, origin: str) -> "Connection | None":
        """A connection that is there already: one that carries many requests at a time, else one that is idle."""
        for shared in self._shared.get(origin, ()):
            if shared.can_start:
                return shared
        waiting = self._idle_of.get(origin)
        while waiting:
            connection = waiting.pop()  # the last used is the likeliest to stand
            if not waiting:
                del self._idle_of[origin]
            _, until = self._idle.pop(connection)
            if connection.closed or until < self._loop.time():
                connection.close()
                continue
            return connection
        return None

    def _keep(self, connection: Http1Connection, origin: str) -> None:
        self._idle[connection] = (origin, self._loop.time() + _KEEP_SECONDS)
        self._idle_of.setdefault(origin, deque()).append(connection)
        if len(self._idle) > self._max_idle:
            self._drop(next(iter(self._idle)))

    def _drop(self, connection: Http1Connection) -> None:
        origin, _ = self._idle.pop(connection)
        waiting = self._idle_of[origin]
        waiting.remove(connection)
        if not waiting:
            del self._idle_of[origin]
        connection.close()

    def _sweep(self) -> None:
        now = self._loop.time()
        while self._idle and next(iter(self._idle.values()))[1] < now:
            self._drop(next(iter(self._idle)))
        for origin in list(self._shared):
            self._leave_useless(origin, now - _KEEP_SECONDS)
        self._sweeper = self._loop.call_later(_KEEP_SECONDS, self._sweep)

    def _leave_useless(self, origin: str, quiet_before: float) -> None:
        """Close an origin's shared connections that carry no request and take none, or have carried none for long."""
        kept = []
        for one in self._shared.pop(origin, []):
            if one.closed or one.quiet_since < quiet_before or not (one.busy or one.can_start):
                one.close()
            else:
                kept.append(one)
        if kept:
            self._shared[origin] = kept

    async def _open(self, parts: UrlParts, limits: Limits, until: float) -> Connection:
        """A new connection to a checked address, or one that another request has just opened. Raises Refusal."""
        try:
            async with asyncio.timeout_at(until):
                endpoints = await self._resolver.endpoints(parts.host, _port(parts))
                if parts.scheme == "http" or not self._http2 or parts.origin in self._http1_only:
                    return await self._connect(parts, endpoints, limits)
                return await self._connect_once(parts, endpoints, limits)
        except RefusedAddress as error:
            raise Refusal("private_address", str(error)) from error
        except socket.gaierror as error:
            raise Refusal("dns", short(error), retry=error.errno in _TIMED_OUT_LOOKUP) from error
        except (ssl.SSLError, ssl.CertificateError) as error:
            raise Refusal("tls", short(error)) from error
        except TimeoutError as error:
            seconds = limits.connect_seconds
            raise Refusal("timeout", f"no connection in {seconds:g} s", retry=True) from error
        except OSError as error:
            raise Refusal("connection", short(error), retry=True) from error

    async def _connect_once(self, parts: UrlParts, endpoints: list[tuple[Address, int]], limits: Limits) -> Connection:
        """While nobody knows whether an origin speaks HTTP/2, and for how many requests at a time, one request asks and
        the others wait for the answer."""
        first = self._opening.get(parts.origin)
        if first is not None:
            await asyncio.wait([first])
            kept = self._kept(parts.origin)
            return kept or await self._connect(parts, endpoints, limits)
        opening = self._opening[parts.origin] = self._loop.create_future()

        def opened(_: object = None) -> None:
            del self._opening[parts.origin]
            opening.set_result(None)

        try:
            connection = await self._connect(parts, endpoints, limits)
        except BaseException:
            opened()
            raise
        if isinstance(connection, Http1Connection):
            opened()
        else:  # the first request need not wait for what the server says, the others must
            connection.told.add_done_callback(opened)
        return connection

    async def _connect(self, parts: UrlParts, endpoints: list[tuple[Address, int]], limits: Limits) -> Connection:
        async with asyncio.timeout(limits.connect_seconds):
            connection = await self._handshake(parts, endpoints)
        if parts.scheme == "http":
            return connection
        if not isinstance(connection, Http1Connection):
            return self._shared_connection(parts.origin, connection)
        if len(self._http1_only) >= _MAX_KNOWN:
            self._http1_only.clear()
        self._http1_only.add(parts.origin)
        return connection

    async def _handshake(self, parts: UrlParts, endpoints: list[tuple[Address, int]]) -> Connection:
        open_socket = await self._dial([_address_info(address, port) for address, port in endpoints[:_MAX_DIALLED]])
        secure, origin = parts.scheme == "https", parts.origin
        opening = _Opening(lambda: Http1Connection(lambda one: self._keep(one, origin)), self._loop)
        try:
            await self._loop.create_connection(
                lambda: opening,
                sock=open_socket,
                ssl=self._tls if secure else None,
                server_hostname=parts.host.strip("[]") if secure else None,
            )
        except BaseException:
            open_socket.close()
            raise
        if opening.connection is None:
            raise ConnectionError("closed before it was ready")
        return opening.connection

    async def _dial(self, infos: list[AddrInfoType]) -> socket.socket:
        """A socket connected to the first address that answers."""
        if len(infos) > 1:
            connected = await start_connection(
                infos, happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS, interleave=1, loop=self._loop,
                socket_factory=self._resolver.open_socket,
            )  # fmt: skip
        else:
            connected = self._resolver.open_socket(infos[0])
            connected.setblocking(False)
            try:
                await self._loop.sock_connect(connected, infos[0][4])
            except BaseException:
                connected.close()
                raise
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        return connected

    def _shared_connection(self, origin: str, connection: "Http2Connection") -> "Http2Connection":
        """An HTTP/2 connection is shared by all requests to the origin; of two opened side by side the first that takes
        another. A server that takes few requests on one has so many connections as it gets requests at a time."""
        self._leave_useless(origin, self._loop.time() - _KEEP_SECONDS)
        for known in self._shared.get(origin, ()):
            if known.can_start:
                connection.close()
                return known
        self._shared.setdefault(origin, []).append(connection)
        return connection

    async def close(self) -> None:
        """End every kept connection."""
        self._sweeper.cancel()
        self._clock.close()
        for connection in list(self._idle):
            self._drop(connection)
        for shared in self._shared.values():
            for one in shared:
                one.close()
        self._shared.clear()
        await asyncio.sleep(0)  # transports say goodbye in callbacks


class _Opening(asyncio.Protocol):
    """Hands a connection over to the protocol that its two ends agreed upon, before a byte of it is read."""

    def __init__(self, http1: Callable[[], Http1Connection], loop: asyncio.AbstractEventLoop) -> None:
        self._http1, self._loop = http1, loop
        self.connection: Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            from tasks.web.http2 import Http2Connection  # a fifth of what a worker imports

            self.connection = Http2Connection(self._loop)
        else:
            self.connection = self._http1()
        transport.set_protocol(self.connection)
        self.connection.connection_made(transport)


def _tls_context(*, verify: bool, http2: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
    return context


def _port(parts: UrlParts) -> int:
    rest = parts.origin[len(parts.scheme) + 3 + len(parts.host) :]
    return int(rest[1:]) if rest else _DEFAULT_PORTS[parts.scheme]


def _address_info(address: Address, port: int) -> AddrInfoType:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    where = (str(address), port) if address.version == 4 else (str(address), port, 0, 0)
    return (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where)
