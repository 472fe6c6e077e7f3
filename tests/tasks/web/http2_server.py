"""An HTTP/2 server that answers, or misbehaves, as a test says: `h2` on the server's side, over TLS, on loopback."""

import asyncio
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived, StreamReset, WindowUpdated
from h2.exceptions import StreamClosedError, TooManyStreamsError
from h2.settings import SettingCodes, Settings

from tests.tasks.web.hostile_web import IMAGE

Answer = Callable[["Served", int], None]


@dataclass
class Http2Web:
    """The running server: its port, its pages by path, and what it saw."""

    port: int = 0
    pages: dict[str, Answer] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    requests: list[dict[str, str]] = field(default_factory=list)
    resets: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    open_connections: int = 0
    max_streams: int | None = None
    """What it says that it takes at a time on one connection."""
    most_streams: int = 0
    names: list[str | None] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait_until_left(self, *, seconds: float) -> bool:
        """Whether no connection is left, at the latest then."""
        with self.changed:
            return self.changed.wait_for(lambda: self.open_connections == 0, seconds)


class Served(asyncio.Protocol):
    """One connection. Pages call `head`, `body`, `end`; a body goes out as the client's window allows."""

    def __init__(self, web: Http2Web) -> None:
        self.web = web
        self.frames = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.unsent: dict[int, tuple[bytes, bool]] = {}
        self.open: dict[int, str] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.web.connections += 1
        self.web.open_connections += 1
        if self.web.max_streams is not None:
            limit = {SettingCodes.MAX_CONCURRENT_STREAMS: self.web.max_streams}
            self.frames.local_settings = Settings(client=False, initial_values=limit)
        self.frames.initiate_connection()
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        with self.web.changed:
            self.web.open_connections -= 1
            self.web.changed.notify_all()

    def data_received(self, data: bytes) -> None:
        try:
            events = self.frames.receive_data(data)
        except TooManyStreamsError:  # asked before it said how many: REFUSED_STREAM, and it stays
            self.transport.write(b"\0\0\4\3\0\0\0\0\1\0\0\0\7")  # type: ignore[attr-defined]
            return
        for event in events:
            if isinstance(event, RequestReceived) and event.stream_id and event.headers:
                fields = {str(name): str(value) for name, value in event.headers}
                self.web.requests.append(fields)
                self.web.asked[fields[":path"]] += 1
                self.open[event.stream_id] = fields[":path"]
                self.web.most_streams = max(self.web.most_streams, len(self.open))
                self.web.pages.get(fields[":path"], not_found)(self, event.stream_id)
            elif isinstance(event, StreamReset) and event.stream_id:
                self.web.resets[self.open.pop(event.stream_id, "")] += 1
                self.unsent.pop(event.stream_id, None)
            elif isinstance(event, WindowUpdated):
                for stream in list(self.unsent):
                    self.push(stream)
        self.flush()

    def head(self, stream: int, status: int = 200, *, ends: bool = False, **headers: str) -> None:
        fields = [(name.replace("_", "-").lower(), value) for name, value in headers.items()]
        self.frames.send_headers(stream, [(":status", str(status)), *fields], end_stream=ends)
        if ends:
            self.open.pop(stream, None)

    def body(self, stream: int, data: bytes, *, ends: bool = True) -> None:
        self.unsent[stream] = (data, ends)
        self.push(stream)

    def push(self, stream: int) -> None:
        with suppress(StreamClosedError):  # by the other side, whose word came with what called for this
            self._push(stream)

    def _push(self, stream: int) -> None:
        data, ends = self.unsent.pop(stream)
        while data:
            room = min(self.frames.local_flow_control_window(stream), self.frames.max_outbound_frame_size)
            if room <= 0:
                self.unsent[stream] = (data, ends)
                return
            piece, data = data[:room], data[room:]
            self.frames.send_data(stream, piece, end_stream=ends and not data)
        if ends:
            self.open.pop(stream, None)

    def flush(self) -> None:
        self.transport.write(self.frames.data_to_send())  # type: ignore[attr-defined]


def not_found(served: Served, stream: int) -> None:
    served.head(stream, 404, ends=True)


def page(body: bytes = IMAGE, status: int = 200, **headers: str) -> Answer:
    """Plain bytes."""

    def answer(served: Served, stream: int) -> None:
        served.head(stream, status, **headers)
        served.body(stream, body)

    return answer


@contextmanager
def serve_http2() -> Iterator[Http2Web]:
    """The server for secure.example, on a free port of loopback, for the block."""
    web = Http2Web()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).with_name("secure_example.pem"))
    context.set_alpn_protocols(["h2"])
    context.sni_callback = lambda socket, name, context: web.names.append(name)  # type: ignore[assignment]
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> asyncio.Server:
        return await loop.create_server(lambda: Served(web), "127.0.0.1", 0, ssl=context)

    async def stop() -> None:
        server.close()
        for _ in range(5):
            await asyncio.sleep(0)

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    web.port = server.sockets[0].getsockname()[1]
    try:
        yield web
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
