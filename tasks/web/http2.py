"""HTTP/2 as a client needs it: many requests over one connection, framed by `h2`, each kept in its limits.

Memory: flow control lets a server send at most 1 MiB ahead per stream and 8 MiB per connection; server push is refused.
"""

import asyncio
from contextlib import suppress
from typing import cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import H2Error, InvalidBodyLengthError, StreamClosedError
from h2.settings import SettingCodes, Settings

from tasks.web.frame_count import SmallFrames
from tasks.web.http import MAX_HEAD_BYTES, MAX_HEADERS, Exchange, Headers, Refusal, StaleConnection, short
from tasks.web.urls import UrlParts

_STREAM_WINDOW, _CONNECTION_WINDOW = 1 << 20, 8 << 20
_MAX_STREAMS = 100
_MAX_INTERIM = 8
_READ_BYTES = 16 << 10
_MAX_SMALL_FRAMES = 1000
"""Since a request got on; `h2` takes 20 us for each, for which every other transfer waits."""
_MAX_UNSENT_BYTES = 1 << 20
"""Acknowledgements that a server asks for and does not read: beyond this it is an attack."""
_SETTINGS = {
    SettingCodes.ENABLE_PUSH: 0,
    SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
    SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEAD_BYTES,
}


class Http2Connection(asyncio.Protocol):
    """One connection to one origin, shared by all requests to it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._frames = H2Connection(H2Configuration(client_side=True, header_encoding="latin-1"))
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, Exchange] = {}
        self._interim: dict[int, int] = {}
        self._leaving = False
        self._small, self._small_frames = SmallFrames(), 0
        self.closed = False
        self.told: asyncio.Future[None] = loop.create_future()
        """Done when the server has said how many requests it takes at a time, or has hung up."""
        self.idle_since = loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it
        self._frames.local_settings = Settings(client=True, initial_values=_SETTINGS)
        self._frames.initiate_connection()
        self._frames.increment_flow_control_window(_CONNECTION_WINDOW)
        self._send()

    @property
    def can_start(self) -> bool:
        """Whether it takes another request now."""
        if self.closed or self._leaving or len(self._streams) >= _MAX_STREAMS:
            return False
        if not self.told.done():
            return not self._streams
        return len(self._streams) < self._frames.remote_settings.max_concurrent_streams

    @property
    def busy(self) -> bool:
        """Whether it carries a request."""
        return bool(self._streams)

    @property
    def quiet_since(self) -> float:
        """When the last request ended, on the loop's clock; now, while there is one."""
        return self._loop.time() if self._streams else self.idle_since

    def start(self, parts: UrlParts, user_agent: str, exchange: Exchange) -> None:
        """Send a request; `exchange` is told what comes. Raises StaleConnection when the connection takes none."""
        fields = [
            (":method", "GET"),
            (":scheme", parts.scheme),
            (":authority", parts.origin[len(parts.scheme) + 3 :]),
            (":path", parts.target),
            ("user-agent", user_agent),
            ("accept", "image/*,*/*;q=0.1"),
            ("accept-encoding", "identity"),
        ]
        try:
            if self.closed or self._leaving:
                raise StaleConnection
            stream = self._frames.get_next_available_stream_id()
            self._frames.send_headers(stream, fields, end_stream=True)
        except (StaleConnection, H2Error) as error:
            exchange.abandon()
            self._close_if_useless()
            raise StaleConnection from error
        self._streams[stream] = exchange
        exchange.on_timeout = lambda: self._cancel(stream)
        self._send()

    def data_received(self, data: bytes) -> None:
        try:
            for start in range(0, len(data), _READ_BYTES):
                self._take_frames(data[start : start + _READ_BYTES])
                if self.closed:
                    return
        except InvalidBodyLengthError as error:  # `h2` gives up the connection, not only the stream
            self._fail_all(Refusal("truncated", short(error), retry=True))
            return
        except H2Error as error:
            self._fail_all(Refusal("connection", f"no HTTP/2: {short(error)}"))
            return
        self._send()
        if self._transport is not None and self._transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
            self._fail_all(Refusal("connection", "it asks for answers and reads none"))
        else:
            self._close_if_useless()

    def _take_frames(self, data: bytes) -> None:
        self._small_frames += self._small.count(data)  # not all of them are events: those of streams that are given up
        for event in self._frames.receive_data(data):
            self._take(event)
        if self._small_frames > _MAX_SMALL_FRAMES:
            self._fail_all(Refusal("connection", "frames without content, one after the other"))

    def _close_if_useless(self) -> None:
        """It carries no request, and takes none."""
        if not self._streams and not self.can_start:
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail_all(Refusal("connection", short(error or "the server hung up"), retry=True))

    def close(self) -> None:
        """End the connection at once."""
        self.closed = True
        self._is_told()
        if self._transport is not None:
            self._transport.abort()

    def _is_told(self) -> None:
        if not self.told.done():
            self.told.set_result(None)

    def _take(self, event: Event) -> None:
        if isinstance(event, ConnectionTerminated):
            self._leave(event)
            return
        if isinstance(event, RemoteSettingsChanged):
            self._is_told()
        stream = getattr(event, "stream_id", None)
        exchange = self._streams.get(stream) if stream is not None else None
        if isinstance(event, DataReceived) and event.flow_controlled_length:
            self._frames.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if exchange is None or stream is None:  # of a stream that is given up, or of none
            return
        if isinstance(event, ResponseReceived):
            self._small_frames = 0
            self._head(stream, exchange, event)
        elif isinstance(event, DataReceived):
            if event.data:
                self._small_frames = 0
            if not exchange.data(event.data):
                self._cancel(stream)
        elif isinstance(event, StreamEnded):
            self._forget(stream)
            exchange.end()
        elif isinstance(event, StreamReset):
            self._forget(stream)
            exchange.fail(_reset(event, started=exchange.started))
        elif isinstance(event, InformationalResponseReceived):
            self._interim[stream] = self._interim.get(stream, 0) + 1
            if self._interim[stream] > _MAX_INTERIM:
                self._cancel(stream)
                exchange.fail(Refusal("connection", "interim responses without end"))

    def _head(self, stream: int, exchange: Exchange, event: ResponseReceived) -> None:
        fields = [(str(name), str(value)) for name, value in event.headers or ()]
        status = next((value for name, value in fields if name == ":status"), "")
        headers = Headers((name, value) for name, value in fields if not name.startswith(":"))
        length = headers.get("content-length", "")
        if len(fields) > MAX_HEADERS or not (status.isascii() and status.isdigit() and len(status) == 3):
            self._cancel(stream)
            exchange.fail(Refusal("connection", f"no HTTP: status {short(status)}, {len(fields)} headers"))
            return
        told = int(length) if length.isascii() and length.isdigit() and len(length) <= 15 else None
        useful = exchange.head(int(status), headers, told or 0)  # an unwanted body of unknown length may be short
        if not useful and event.stream_ended is None:
            self._cancel(stream)
            exchange.end()

    def _leave(self, event: ConnectionTerminated) -> None:
        """GOAWAY: what the server has not taken up may be asked again elsewhere."""
        self._leaving = True
        for stream in [stream for stream in self._streams if stream > (event.last_stream_id or 0)]:
            self._forget(stream).fail(StaleConnection())

    def _cancel(self, stream: int) -> None:
        """Tell the server that nobody wants a stream any more."""
        if stream in self._streams:
            self._forget(stream)
            if not self.closed:
                with suppress(StreamClosedError):  # its last frames were read together with what made it unwanted
                    self._frames.reset_stream(stream, ErrorCodes.CANCEL)
                self._send()
                if self.told.done():
                    self._close_if_useless()
                else:  # not even its settings came (RFC 9113, 3.4: the first frame): others wait for these
                    self.close()

    def _forget(self, stream: int) -> Exchange:
        self.idle_since = self._loop.time()
        self._interim.pop(stream, None)
        return self._streams.pop(stream)

    def _fail_all(self, refusal: Refusal) -> None:
        self.close()
        streams, self._streams = self._streams, {}
        for exchange in streams.values():
            if exchange.started:
                detail = f"connection lost within the body: {refusal.detail}"
                exchange.fail(Refusal("truncated", detail, retry=True))
            else:
                exchange.fail(Refusal(refusal.reason, refusal.detail, retry=refusal.retry))

    def _send(self) -> None:
        data = self._frames.data_to_send()
        if data and self._transport is not None and not self.closed:
            self._transport.write(data)


def _reset(event: StreamReset, *, started: bool) -> Refusal:
    if event.error_code == ErrorCodes.REFUSED_STREAM:  # RFC 9113, 8.7: nothing was done
        return StaleConnection()
    name = getattr(event.error_code, "name", event.error_code)
    if started:
        return Refusal("truncated", f"the server reset the stream: {name}", retry=True)
    return Refusal("connection", f"the server reset the stream: {name}", retry=True)
