"""HTTP/1.1 as a client needs it, on asyncio's bare protocol: one request at a time, kept alive, everything bounded.

Framing is RFC 9112's; what it forbids, or what two readers could read differently, ends the connection.
"""

import asyncio
import re
from collections.abc import Callable
from typing import cast

from tasks.web.chunked import ChunkedBody
from tasks.web.http import (
    MAX_HEAD_BYTES,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    Exchange,
    Headers,
    NotHttp,
    Refusal,
    StaleConnection,
    short,
)

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n]*)?")
_MAX_INTERIM = 8
_BODILESS = frozenset({204, 304})


class Http1Connection(asyncio.Protocol):
    """One connection. `idle(connection)` is called each time a request has ended and another may be sent."""

    def __init__(self, idle: Callable[["Http1Connection"], None]) -> None:
        self._idle = idle
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._take: Callable[[bytes], None] = self._take_head
        self._chunked = ChunkedBody()
        self._buffer = b""
        self._left, self._interim, self._keep = 0, 0, False
        self.served = 0
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it

    def start(self, request: bytes, exchange: Exchange) -> None:
        """Send a request; `exchange` is told what comes."""
        self._exchange, self._take = exchange, self._take_head
        self._buffer, self._left, self._interim = b"", 0, 0
        exchange.on_timeout = self.close
        cast(asyncio.Transport, self._transport).write(request)

    def data_received(self, data: bytes) -> None:
        if self._exchange is None:  # nothing was asked
            self.close()
            return
        try:
            self._take(data)
        except NotHttp as error:
            self._fail(Refusal("connection", f"no HTTP: {error}"))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        exchange = self._exchange
        if exchange is None:
            return
        if self._take == self._take_until_close and error is None:
            self._finish(reusable=False)
        elif exchange.started:
            self._fail(Refusal("truncated", f"connection lost within the body: {short(error or 'closed')}", retry=True))
        elif self.served and not self._buffer:  # it was closed while idle; the request never arrived
            self._exchange = None
            exchange.fail(StaleConnection())
        else:
            self._fail(Refusal("connection", short(error or "the server hung up"), retry=True))

    def close(self) -> None:
        """End the connection at once."""
        self.closed = True
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, refusal: Refusal) -> None:
        exchange = self._exchange
        self.close()
        if exchange is not None:
            exchange.fail(refusal)

    def _finish(self, *, reusable: bool) -> None:
        exchange, self._exchange = self._exchange, None
        self.served += 1
        if reusable and not self.closed:
            self._idle(self)
        else:
            self.close()
        if exchange is not None:
            exchange.end()

    def _take_head(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        end = _HEAD_END.search(buffer, max(0, len(self._buffer) - 3))
        if end is None or end.start() > MAX_HEAD_BYTES:
            if len(buffer) > MAX_HEAD_BYTES:
                raise NotHttp(f"more than {MAX_HEAD_BYTES} bytes of headers")
            if buffer[:5] != b"HTTP/"[: len(buffer)]:
                raise NotHttp(f"it starts with {buffer[:20]!r}")
            self._buffer = buffer
            return
        version, status, headers = parse_head(buffer[: end.start()])
        rest = buffer[end.end() :]
        if status < 200:
            self._interim += 1
            if status == 101 or self._interim > _MAX_INTERIM:
                raise NotHttp(f"status {status}, which nobody asked for")
            self._buffer = b""
            if rest:
                self._take_head(rest)
            return
        self._begin_body(version, status, headers, rest)

    def _begin_body(self, version: int, status: int, headers: Headers, rest: bytes) -> None:
        exchange = cast(Exchange, self._exchange)
        connection = headers.tokens("connection")
        self._keep = "close" not in connection and (version == 1 or "keep-alive" in connection)
        coded, length = headers.tokens("transfer-encoding"), content_length(headers)
        if coded and coded != ["chunked"]:
            raise NotHttp(f"transfer coding {short(','.join(coded))}")
        if coded and length is not None:  # two readers could frame it differently: RFC 9112, 6.3
            self._keep = False
        self._buffer = b""
        if status in _BODILESS:
            length, coded = 0, []
        useful = exchange.head(status, headers, 0 if coded else length)  # an unwanted chunked body may be short
        if not useful:
            self._finish(reusable=False)
        elif coded:
            self._take, self._chunked = self._take_chunks, ChunkedBody()
            self._take(rest)
        elif length is None:
            self._take = self._take_until_close
            if rest:
                self._take(rest)
        else:
            self._take, self._left = self._take_sized, length
            self._take(rest)

    def _take_sized(self, data: bytes) -> None:
        exchange = cast(Exchange, self._exchange)
        if len(data) > self._left:  # more than was announced: the next response cannot be trusted
            data, self._keep = data[: self._left], False
        self._left -= len(data)
        if data and not exchange.data(data):
            self.close()
        elif not self._left:
            self._finish(reusable=self._keep)

    def _take_until_close(self, data: bytes) -> None:
        exchange = cast(Exchange, self._exchange)
        if not exchange.data(data):
            self.close()

    def _take_chunks(self, data: bytes) -> None:
        exchange = cast(Exchange, self._exchange)
        block = self._chunked.decode(data)
        if block and not exchange.data(block):
            self.close()
        elif self._chunked.finished:
            self._finish(reusable=self._keep and not self._chunked.rest)


def parse_head(head: bytes) -> tuple[int, int, Headers]:
    """(minor version, status, headers) of a response's head without its empty line. Raises NotHttp."""
    first, _, rest = head.partition(b"\n")
    status = _STATUS_LINE.fullmatch(first.removesuffix(b"\r"))
    if status is None:
        raise NotHttp(f"status line {first[:40]!r}")
    fields: list[tuple[str, str]] = []
    lines = rest.decode("latin-1").split("\n") if rest else []
    if len(rest) > MAX_HEADER_BYTES and max(map(len, lines)) > MAX_HEADER_BYTES:
        raise NotHttp(f"a header of more than {MAX_HEADER_BYTES} bytes")
    for line in lines:
        if line.startswith((" ", "\t")) and fields:  # a folded line: RFC 9112, 5.2
            name, value = fields[-1]
            fields[-1] = name, f"{value} {line.strip()}"[:MAX_HEADER_BYTES]
            continue
        name, colon, value = line.partition(":")
        if colon:
            fields.append((name.strip(), value.strip()))
    if len(fields) > MAX_HEADERS:
        raise NotHttp(f"more than {MAX_HEADERS} headers")
    return int(status[1]), int(status[2]), Headers(fields)


def content_length(headers: Headers) -> int | None:
    """The body's length; None when it is not told. Raises NotHttp when it is told in two ways or is no number."""
    values = headers.tokens("content-length")
    if not values:
        return None
    text = values[0]
    if len(set(values)) > 1 or not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise NotHttp(f"Content-Length {short(', '.join(values))}")
    return int(text)
