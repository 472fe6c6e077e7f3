"""A web of photographs on loopback for bench.download: any number of hosts, as fast as asyncio serves, or as badly.

`python -m bench.download_server FOLDER` serves FOLDER/<number>.jpg as /<number>.jpg on every address of 127.0.0.0/8, in
`--processes` processes, until standard input ends. Its first line tells the port.
"""

import argparse
import asyncio
import multiprocessing
import os
import re
import signal
import socket
import sys
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import cast

_TARGET = re.compile(rb"GET (?:http://[^/ ]+)?/(\d+)\.jpg")
_KEEP_ALIVE = b"Content-Type: image/jpeg\r\nConnection: keep-alive\r\n\r\n"


class Manners:
    """How the host at an address behaves: of 1,000 in a row so many are dead, so many drip, the others wait first."""

    def __init__(self, *, latency_seconds: float, dead: int, dripping: int) -> None:
        self.latency_seconds, self._dead, self._dripping = latency_seconds, dead, dripping

    def of(self, address: str) -> str:
        """ "dead", "dripping" or "sound"."""
        place = int(ip_address(address)) * 617 % 1000  # spread, and the same for everybody
        if place < self._dead:
            return "dead"
        return "dripping" if place < self._dead + self._dripping else "sound"


class Server(asyncio.Protocol):
    """One connection: pipelines nothing, answers each request after the latency."""

    def __init__(self, images: list[bytes], manners: Manners) -> None:
        self._images, self._manners, self._head = images, manners, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._kind = self._manners.of(transport.get_extra_info("sockname")[0])

    def data_received(self, data: bytes) -> None:
        self._head += data
        if b"\r\n\r\n" not in self._head:
            return
        head, self._head = self._head, b""
        if self._kind == "dead":
            return
        if self._kind == "dripping":
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 44000\r\nContent-Type: image/jpeg\r\n\r\n")
            self._drip()
        elif self._manners.latency_seconds:
            asyncio.get_running_loop().call_later(self._manners.latency_seconds, self._answer, head)
        else:
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        target = _TARGET.match(head)
        if self._transport.is_closing():
            return
        if target is None:  # robots.txt, tdmrep.json
            self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n" + _KEEP_ALIVE)
        else:
            body = self._images[int(target[1]) % len(self._images)]
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(body) + _KEEP_ALIVE + body)

    def _drip(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"\xff")
            asyncio.get_running_loop().call_later(1.0, self._drip)


def _serve(listening: socket.socket, images: list[bytes], manners: Manners) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Server(images, manners), sock=listening)
        loop.add_signal_handler(signal.SIGTERM, server.close)
        await server.wait_closed()

    asyncio.run(run())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before every answer")
    parser.add_argument("--dead", type=int, default=0, help="hosts of 1,000 that accept and say nothing")
    parser.add_argument("--dripping", type=int, default=0, help="hosts of 1,000 that send a byte a second")
    asked = parser.parse_args(arguments)
    images = [path.read_bytes() for path in sorted(asked.folder.glob("*.jpg"), key=lambda path: int(path.stem))]
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("0.0.0.0", 0))
    listening.listen(4096)
    manners = Manners(latency_seconds=asked.latency, dead=asked.dead, dripping=asked.dripping)
    start = partial(multiprocessing.get_context("fork").Process, target=_serve, args=(listening, images, manners))
    children = [start(daemon=True) for _ in range(asked.processes)]
    for child in children:
        child.start()
    print(listening.getsockname()[1], flush=True)
    sys.stdin.read()
    for child in children:
        if child.pid is not None:
            os.kill(child.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
