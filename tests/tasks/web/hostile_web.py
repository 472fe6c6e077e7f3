"""A web server that misbehaves on purpose: raw bytes over asyncio, in a thread, on loopback."""

import asyncio
import gzip
import ssl
import threading
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers import jpeg

IMAGE = jpeg(1)
Handler = Callable[["Request", asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Request:
    """What the client sent, and the how-manieth request for this host and path it is (from 1)."""

    host: str
    path: str
    headers: dict[str, str]
    nth: int


@dataclass
class HostileWeb:
    """The running server: its port, its pages by "host/path" or "/path" (any host), and what it was asked."""

    port: int = 0
    pages: dict[str, Handler] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    open_now: Counter[str] = field(default_factory=Counter)
    most_open: Counter[str] = field(default_factory=Counter)
    connections: int = 0

    def page(self, where: str, body: bytes = IMAGE, status: int = 200, **headers: str) -> None:
        """Serve plain bytes at "host/path" or "/path"."""

        async def serve(_: Request, writer: asyncio.StreamWriter) -> None:
            reply(writer, body, status, **headers)

        self.pages[where] = serve

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while request := await self._read(reader):
                handler = self.pages.get(request.host + request.path) or self.pages.get(request.path)
                self.open_now[request.host] += 1
                self.most_open[request.host] = max(self.most_open[request.host], self.open_now[request.host])
                try:
                    if handler is None:
                        reply(writer, b"not here", 404)
                    else:
                        await handler(request, writer)
                    await writer.drain()
                finally:
                    self.open_now[request.host] -= 1
        except ConnectionError:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        except asyncio.CancelledError:  # the test is over: do not wait for the client to say goodbye
            writer.transport.abort()
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Request | None:
        try:
            start = await reader.readexactly(1)
            if start == b"\x16":  # a TLS handshake
                raise ConnectionError("no TLS here")
            head = (start + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        host, path = headers["host"].partition(":")[0], first.split(" ")[1]
        self.asked[host + path] += 1
        self.headers[host + path] = headers
        return Request(host, path, headers, self.asked[host + path])


def reply(writer: asyncio.StreamWriter, body: bytes, status: int = 200, **headers: str) -> None:
    """A well-formed response unless `headers` say otherwise (Content_Length="5"); underscores become dashes."""
    fields = {"Content-Type": "image/jpeg", "Content-Length": str(len(body))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = f"HTTP/1.1 {status} Status\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    writer.write(head.encode("latin-1") + b"\r\n" + body)


def add_misbehaviour(web: HostileWeb) -> None:
    """The pages that every hostile test may ask for."""

    async def drip(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: 100000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"\xff")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def silent(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n\xff\xd8")
        await asyncio.sleep(3)

    async def endless(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n")
        while not writer.is_closing():
            writer.write(IMAGE)
            await writer.drain()

    async def hangs_up(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def cut_off(_: Request, writer: asyncio.StreamWriter) -> None:
        reply(writer, IMAGE, Content_Length=str(len(IMAGE) + 1000))
        await writer.drain()
        writer.close()

    async def no_http(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        await writer.drain()
        writer.close()

    async def header_bomb(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(100_000):
            writer.write(b"X-%d: %s\r\n" % (number, b"a" * 100))
            await writer.drain()

    async def long_header(_: Request, writer: asyncio.StreamWriter) -> None:
        reply(writer, IMAGE, X_Long="a" * 1_000_000)

    web.pages |= {
        "/drip.jpg": drip,
        "/silent.jpg": silent,
        "/endless.jpg": endless,
        "/hangs-up.jpg": hangs_up,
        "/cut-off.jpg": cut_off,
        "/no-http.jpg": no_http,
        "/header-bomb.jpg": header_bomb,
        "/long-header.jpg": long_header,
    }
    web.page("/image.jpg")
    web.page("/large.jpg", bytes(3_000_000))
    web.page("/html.jpg", b"<!doctype html><html><body>no image</body></html>")
    web.page("/svg.jpg", b'<svg xmlns="http://www.w3.org/2000/svg"/>')
    web.page("/empty.jpg", b"")
    web.page("/truncated.jpg", IMAGE[: len(IMAGE) // 2])
    web.page("/gone.jpg", b"", 410)
    web.page("/no-content.jpg", b"", 204)
    web.page("/bomb.jpg", gzip.compress(bytes(50_000_000)), Content_Encoding="gzip")
    web.page("/members-bomb.jpg", gzip.compress(bytes(900_000)) * 3, Content_Encoding="gzip")
    web.page("/raw-bomb.jpg", zlib.compress(bytes(50_000_000), wbits=-15), Content_Encoding="deflate")
    web.page("/members.jpg", gzip.compress(IMAGE[:100]) + gzip.compress(IMAGE[100:]), Content_Encoding="gzip")
    web.page("/padded.jpg", gzip.compress(IMAGE) + bytes(100), Content_Encoding="gzip")
    web.page("/zlib.jpg", zlib.compress(IMAGE), Content_Encoding="deflate")
    web.page("/raw.jpg", zlib.compress(IMAGE, wbits=-15), Content_Encoding="deflate")
    web.page("/says-deflate.jpg", IMAGE, Content_Encoding="deflate")
    web.page("/gzip.jpg", gzip.compress(IMAGE), Content_Encoding="gzip")
    web.page("/says-gzip.jpg", IMAGE, Content_Encoding="gzip")
    web.page("/brotli.jpg", IMAGE, Content_Encoding="br")


def tls_context(seen_names: list[str | None]) -> ssl.SSLContext:
    """A server's context with a certificate for secure.example that nobody has signed; notes the names asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).with_name("secure_example.pem"))

    def note(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        seen_names.append(name)

    context.sni_callback = note  # type: ignore[assignment]
    return context


@contextmanager
def serve_hostile_web(tls: ssl.SSLContext | None = None) -> Iterator[HostileWeb]:
    """The server, on a free port of loopback, for the block."""
    web = HostileWeb()
    add_misbehaviour(web)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(web._connected, "127.0.0.1", 0, limit=1 << 20, ssl=tls)

    async def stop() -> None:
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(5):  # transports close in callbacks
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
