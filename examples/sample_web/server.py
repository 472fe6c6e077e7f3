"""Serves a sample web over HTTP/1.1 on loopback, well and, where planned, badly.

`python -m examples.sample_web.server DIRECTORY --port 8765` serves until interrupted.
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

from examples.sample_web.routes import Route, read_routes

_MAX_HEAD_BYTES = 32 << 10
_SHORT_BY = 5000  # bytes that a "short" answer promises and does not send
_DRIP_BYTES = 30_000  # length of an answer that comes one byte a second: more than eight hours
_FLOOD = bytes(range(256)) * 256
_KEEP_ALIVE_SECONDS = 30.0


class SampleServer:
    """Answers for every host of one sample web; which one is asked for stands in the Host header."""

    def __init__(self, directory: Path) -> None:
        self._routes, self._bodies = read_routes(directory / "served")
        self._requests: Counter[str] = Counter()  # of fail_first routes

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, kept alive until the client leaves, is idle for long, or an answer ends it."""
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            pass  # a client may leave at any time, and a crawler leaves the endless answers
        except asyncio.CancelledError:
            pass  # the server is stopping; asyncio 3.11 would report every open connection as an error
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; False when the connection ends with it."""
        async with asyncio.timeout(_KEEP_ALIVE_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
        method, key, alive = parse_request(head)
        if method not in ("GET", "HEAD"):
            return await _send(
                writer, 405, b"method not allowed\n", "text/plain", (("Allow", "GET, HEAD"),), alive=alive
            )
        route = self._routes.get(key)
        if route is None:
            return await _send(writer, 404, b"not found\n", "text/plain", (), alive=alive)
        body = bytes(self._bodies[route.offset : route.offset + route.num_bytes])
        if method == "HEAD":
            return await _send(writer, route.status, body, route.mime, route.headers, alive=alive, head_only=True)
        return await self._answer(key, route, body, writer, alive)

    async def _answer(self, key: str, route: Route, body: bytes, writer: asyncio.StreamWriter, alive: bool) -> bool:
        match route.manner:
            case "close":
                return False
            case "chunked":
                return await _send_chunked(writer, body, route.mime, alive=alive)
            case "short":
                promised = len(body) + _SHORT_BY
                return await _send(writer, 200, body, route.mime, (), alive=False, length=promised)
            case "drip":
                return await _drip(writer, route.mime)
            case "endless":
                return await _flood(writer, route)
            case "fail_first":
                self._requests[key] += 1
                if self._requests[key] % 2 == 1:
                    return await _send(writer, route.status, b"later\n", "text/plain", route.headers, alive=alive)
                return await _send(writer, 200, body, route.mime, (), alive=alive)
            case _:  # plain and redirect
                return await _send(writer, route.status, body, route.mime, route.headers, alive=alive)


def parse_request(head: bytes) -> tuple[str, str, bool]:
    """(method, "host/path?query", whether to keep the connection) of a request's head."""
    lines = head.decode("latin-1").split("\r\n")
    method, _, rest = lines[0].partition(" ")
    target, _, version = rest.rpartition(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    host = headers.get("host", "")
    if target.startswith("http://"):  # absolute form, as proxies are asked
        host, _, path = target.removeprefix("http://").partition("/")
        target = f"/{path}"
    alive = version != "HTTP/1.0" and headers.get("connection", "").lower() != "close"
    return method, f"{host.lower().partition(':')[0]}{target}", alive


def _head(status: int, headers: tuple[tuple[str, str], ...], *, alive: bool) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Server: sample-web", "Cache-Control: max-age=60"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines.append(f"Connection: {'keep-alive' if alive else 'close'}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


async def _send(
    writer: asyncio.StreamWriter,
    status: int,
    body: bytes,
    mime: str,
    headers: tuple[tuple[str, str], ...],
    *,
    alive: bool,
    length: int | None = None,
    head_only: bool = False,
) -> bool:
    own = (("Content-Type", mime), ("Content-Length", str(len(body) if length is None else length)))
    writer.write(_head(status, own + headers, alive=alive) + (b"" if head_only else body))
    await writer.drain()
    return alive


async def _send_chunked(writer: asyncio.StreamWriter, body: bytes, mime: str, *, alive: bool) -> bool:
    writer.write(_head(200, (("Content-Type", mime), ("Transfer-Encoding", "chunked")), alive=alive))
    for start in range(0, len(body), 4096):
        chunk = body[start : start + 4096]
        writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return alive


async def _drip(writer: asyncio.StreamWriter, mime: str) -> bool:
    """A JPEG's first bytes, one a second: never idle for long, never done."""
    writer.write(_head(200, (("Content-Type", mime), ("Content-Length", str(_DRIP_BYTES))), alive=False))
    for _ in range(_DRIP_BYTES):
        writer.write(b"\xff")
        await writer.drain()
        await asyncio.sleep(1)
    return False


async def _flood(writer: asyncio.StreamWriter, route: Route) -> bool:
    """Bytes as fast as the client takes them; in chunks unless the plan promises a length."""
    chunked = not any(name == "Content-Length" for name, _ in route.headers)
    how = (("Transfer-Encoding", "chunked"),) if chunked else ()
    writer.write(_head(200, (("Content-Type", route.mime), *how, *route.headers), alive=False))
    block = f"{len(_FLOOD):x}\r\n".encode() + _FLOOD + b"\r\n" if chunked else _FLOOD
    while True:
        writer.write(block)
        await writer.drain()


async def serve(directory: Path, port: int, *, until_parent_ends: bool) -> None:
    """Serve on 127.0.0.1, printing the address once connections are taken. Raises OSError when the port is taken."""
    app = SampleServer(directory)
    server = await asyncio.start_server(app.handle, "127.0.0.1", port, limit=_MAX_HEAD_BYTES, backlog=1024)
    print(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    if until_parent_ends:
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    else:
        await server.serve_forever()


@contextlib.contextmanager
def serve_sample_web(directory: Path, *, port: int = 0) -> Iterator[str]:
    """Serve a built sample web from a child process; yields its address, "127.0.0.1:PORT".

    The child ends with the block, and also when this process is killed: it waits for the end of its input. Raises
    FileNotFoundError when nothing is built there, RuntimeError when the child cannot serve.
    """
    directory = Path(directory).resolve()
    if not (directory / "sample_web.json").exists():
        raise FileNotFoundError(f"no finished sample web in {directory}: call build_sample_web first")
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    command = [sys.executable, "-m", "examples.sample_web.server", str(directory), "--port", str(port), "--child"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            address = child.stdout.readline().strip()
            if not address:
                raise RuntimeError(f"the server of {directory} ended with code {child.wait()}: its error stands above")
            yield address
        finally:
            child.stdin.close()
            child.wait(timeout=30)


def main() -> None:
    """Command line: serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="folder that build_sample_web made")
    parser.add_argument("--port", type=int, default=8765, help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--child", action="store_true", help="end when the standard input ends")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(options.directory, options.port, until_parent_ends=options.child))


if __name__ == "__main__":
    main()
