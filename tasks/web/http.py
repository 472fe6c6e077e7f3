"""What one bounded GET is, whatever protocol carries it: its limits, its answer, and the refusals it may end in."""

import asyncio
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, overload

MAX_HEADERS, MAX_HEADER_BYTES, MAX_HEAD_BYTES = 128, 8190, 64 << 10
MAX_DRAINED_BYTES = 16 << 10
"""A body that nobody wants is read to its end when it is this short, since a new connection costs more."""
_BY_ITS_HEADER, _RAW = zlib.MAX_WBITS | 32, -zlib.MAX_WBITS  # zlib or gzip; deflate alone, which browsers take as well
_GZIP, _MAX_MEMBERS = b"\x1f\x8b", 64  # each member costs a copy of all that follow it


Default = TypeVar("Default")


class Refusal(Exception):
    """Why a URL gives no image: a drop's reason and detail, whether to try again, the wait that the server wants."""

    def __init__(
        self, reason: str, detail: str | None = None, *, retry: bool = False, wait_seconds: float | None = None,
        status: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(reason, detail)
        self.reason, self.detail, self.retry = reason, detail, retry
        self.wait_seconds, self.status = wait_seconds, status


class StaleConnection(Refusal):
    """A kept connection was closed before our request came through: try on a new one."""

    def __init__(self) -> None:
        super().__init__("connection", "closed before it took the request", retry=True)


class NotHttp(Exception):
    """Bytes that are no HTTP/1 response, or one beyond our bounds."""


class Headers(Mapping[str, str]):
    """Header fields of a response: names in any case, the first of equal names unless all are asked for."""

    __slots__ = ("_values",)

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        values: dict[str, list[str]] = {}
        for name, value in fields:
            name = name.lower()
            if name in values:
                values[name].append(value)
            else:
                values[name] = [value]
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()][0]

    @overload
    def get(self, name: str, /) -> str | None: ...
    @overload
    def get(self, name: str, /, default: str) -> str: ...
    @overload
    def get(self, name: str, /, default: Default) -> str | Default: ...
    def get(self, name: str, /, default: Any = None) -> Any:
        """Mapping's own asks by raising, and most fields that are asked for are not there."""
        values = self._values.get(name.lower())
        return default if values is None else values[0]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def all_of(self, name: str) -> list[str]:
        """Every value of a name, in the order they came."""
        return self._values.get(name.lower(), [])

    def tokens(self, name: str) -> list[str]:
        """The comma-separated items of every value of a name, in lower case."""
        values = self._values.get(name.lower())
        if values is None:
            return []
        if len(values) == 1 and "," not in values[0]:  # by far the most
            item = values[0].strip().lower()
            return [item] if item else []
        return [item.strip().lower() for value in values for item in value.split(",") if item.strip()]


_NO_HEADERS = Headers()


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may take."""

    total_seconds: float
    connect_seconds: float
    read_seconds: float
    max_bytes: int
    cut: bool = False  # take the first `max_bytes` of a longer body instead of refusing it


class Response(NamedTuple):
    """Status, headers and, where it was wanted, the whole body."""

    status: int
    headers: Headers
    body: bytes


WantsBody = Callable[[int, Headers], bool]
"""Looks at status and headers before a byte of the body is read; False skips the body, a Refusal may be raised."""


class Clock:
    """Ends the exchanges that are over their time: one timer looks at all of them every `seconds`, by which a limit may
    be passed, since a timer each costs more than to read an answer's head."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self.loop, self.time, self._seconds = loop, loop.time, seconds
        self._under_way: set[Exchange] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, exchange: "Exchange") -> None:
        """Look after an exchange until it is removed."""
        self._under_way.add(exchange)
        if self._timer is None:
            self._timer = self.loop.call_later(self._seconds, self._look)

    def remove(self, exchange: "Exchange") -> None:
        self._under_way.discard(exchange)

    def _look(self) -> None:
        now = self.time()
        for exchange in list(self._under_way):
            exchange.look_at_the_clock(now)
        self._timer = self.loop.call_later(self._seconds, self._look) if self._under_way else None

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()


class Exchange:
    """One request on its way. A connection tells it what comes; it keeps the limits and holds the outcome."""

    __slots__ = ("_body", "_body_bytes", "_clock", "_headers", "_limits", "_outcome", "_status", "_until", "_wants",
                 "done", "on_timeout", "started", "touched", "wanted")  # fmt: skip

    def __init__(self, limits: Limits, wants: WantsBody, *, until: float, clock: Clock) -> None:
        self._limits, self._wants, self._until, self._clock = limits, wants, until, clock
        self.done: asyncio.Future[Response] = clock.loop.create_future()
        self.on_timeout: Callable[[], None] = _nothing
        self.touched = clock.time()
        clock.add(self)
        self._status, self._headers = 0, _NO_HEADERS
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._outcome: Refusal | None = None
        self.wanted, self.started = True, False

    def head(self, status: int, headers: Headers, length: int | None) -> bool:
        """Status, headers and the body's length where it is told. False: what follows is of no use to anybody."""
        self.started, self.touched = True, self._clock.time()
        self._status, self._headers = status, headers
        try:
            self.wanted = self._wants(status, headers)
            if self.wanted and (length or 0) > self._limits.max_bytes and not self._limits.cut:
                raise Refusal("too_large", f"Content-Length: {length}", status=status)
        except Refusal as refusal:
            self.wanted, self._outcome = False, refusal
        return self.wanted or (length is not None and length <= MAX_DRAINED_BYTES)

    def data(self, block: bytes) -> bool:
        """A piece of the body. False: no more of it is needed, and the exchange is over."""
        # Read anew: the loop's own time stands still while one socket is read again and again.
        self.touched = now = time.monotonic()
        if now > self._until:
            self.look_at_the_clock(now)
            return False
        self._body_bytes += len(block)
        if not self.wanted:
            if self._body_bytes > MAX_DRAINED_BYTES:
                self.end()
                return False
            return True
        self._body.append(block)
        if self._body_bytes > self._limits.max_bytes:
            if self._limits.cut:
                self.end()
            else:
                self._settle(Refusal("too_large", f"more than {self._limits.max_bytes} bytes", status=self._status))
            return False
        return True

    def end(self) -> None:
        """The body is whole (or cut, where that was asked for)."""
        if self._outcome is not None or not self.wanted:
            self._settle(self._outcome or Response(self._status, self._headers, b""))
            return
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        if len(body) > self._limits.max_bytes:
            body = body[: self._limits.max_bytes]
        try:
            self._settle(Response(self._status, self._headers, plain(body, self._headers, self._limits)))
        except Refusal as refusal:
            self._settle(refusal)

    def fail(self, refusal: Refusal) -> None:
        """It ends here, by the network's fault; what the head has already decided stands."""
        if self.started and not self.wanted:
            self.end()
        else:
            refusal.status = refusal.status or (self._status or None)
            self._settle(refusal)

    def _settle(self, outcome: "Response | Refusal") -> None:
        self._clock.remove(self)
        self._body = []
        if self.done.done():  # whoever waited was cancelled
            return
        if isinstance(outcome, Refusal):
            self.done.set_exception(outcome)
        else:
            self.done.set_result(outcome)

    def look_at_the_clock(self, now: float) -> None:
        """Fails when it is over its time."""
        limits = self._limits
        if now >= self._until:
            self.fail(Refusal("timeout", f"not done in {limits.total_seconds:g} s"))
        elif now - self.touched >= limits.read_seconds:
            self.fail(Refusal("timeout", f"nothing for {limits.read_seconds:g} s"))
        else:
            return
        self.on_timeout()

    def abandon(self) -> None:
        """Nobody waits any more."""
        self._clock.remove(self)
        self.done.cancel()


def plain(body: bytes, headers: Headers, limits: Limits) -> bytes:
    """The body without the content coding that we did not ask for, unpacked to at most `limits.max_bytes`."""
    coding = headers.get("content-encoding", "").strip().lower()
    if coding in ("", "identity", "none"):
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise Refusal("undecodable", f"Content-Encoding: {coding[:40]}")
    for wbits in (_BY_ITS_HEADER, _RAW) if coding == "deflate" else (_BY_ITS_HEADER,):
        with suppress(zlib.error):
            return _unpacked(body, wbits, limits)
    return body  # a header that lies: the bytes themselves will tell what they are


def _unpacked(body: bytes, wbits: int, limits: Limits) -> bytes:
    """A zlib or deflate stream, or the members of a gzip file (RFC 1952, 2.2) joined; what stands behind them is passed
    over. Raises zlib.error when the body is none of these, Refusal when it unpacks to more than the limit."""
    pieces: list[bytes] = []
    rest, room = body, limits.max_bytes + 1
    while len(pieces) < _MAX_MEMBERS and (not pieces or body[:2] == rest[:2] == _GZIP):
        unpacker = zlib.decompressobj(wbits)
        try:
            pieces.append(unpacker.decompress(rest, room))
        except zlib.error:
            if not pieces:
                raise
            break
        rest, room = unpacker.unused_data, room - len(pieces[-1])
        if not room:  # to ask for 0 bytes more would ask for all
            break
    if not room and not limits.cut:
        raise Refusal("too_large", f"more than {limits.max_bytes} bytes when unpacked")
    return b"".join(pieces)[: limits.max_bytes]


def short(error: BaseException | str) -> str:
    """An error's message on one line, bounded."""
    text = error if isinstance(error, str) else str(error) or type(error).__name__
    return re.sub(r"\s+", " ", text)[:200]
