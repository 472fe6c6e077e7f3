"""A crawl file behind a server that stumbles is read whole, and one that is gone says so."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from storage.errors import UnreachableStorage
from storage.layout import Layout
from tasks.extract import Extract, extract
from tasks.web.crawl_stream import open_crawl_file
from tests.tasks.crawls import gz, page

DATA = bytes(range(256)) * 3000


class Server(ThreadingHTTPServer):
    """Serves `data`; breaks off after `broken` bytes the first `failures` times, with or without byte ranges."""

    data, failures, ranges, broken = DATA, 0, True, 100_000

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone away is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self._head(len(self.server.data), 200)

    def do_GET(self) -> None:
        start, end = 0, len(self.server.data) - 1
        asked = self.headers.get("Range", "") if self.server.ranges else ""
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or end), end)
        body = self.server.data[start : end + 1]
        self._head(len(body), 206 if asked else 200, f"bytes {start}-{end}/{len(self.server.data)}" if asked else None)
        if self.server.failures and len(body) > 1:
            self.server.failures -= 1
            self.wfile.write(body[: self.server.broken])
            self.close_connection = True
            return
        self.wfile.write(body)

    def _head(self, length: int, status: int, content_range: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        if self.server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Silence."""


@contextmanager
def served(**settings: object) -> Iterator[str]:
    server = Server(("127.0.0.1", 0), Handler)
    vars(server).update(settings)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/a.warc.gz"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("failures", [0, 3])
def test_what_breaks_off_is_taken_up_again_where_it_was(ranges: bool, failures: int) -> None:
    waits: list[float] = []
    with served(ranges=ranges, failures=failures) as url, open_crawl_file(url, wait=waits.append) as file:
        assert file.read() == DATA
        file.seek(5000)
        assert file.read(100) == DATA[5000:5100]
        assert file.tell() == 5100
    assert len(waits) == failures
    assert all(0.25 * 2**number <= wait <= 0.5 * 2**number * 8 for number, wait in enumerate(waits))


def test_a_server_that_never_recovers_is_named(tmp_path: Path) -> None:
    with served(failures=1000, broken=0) as url, open_crawl_file(url, wait=lambda seconds: None) as file:
        with pytest.raises(UnreachableStorage, match=r"a\.warc\.gz broke off at byte 0 .* 8 tries"):
            file.read()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_crawl_is_read_from_a_url(layout: Layout, ranges: bool) -> None:
    pages = [page(f"https://www.example/{number}", b"<img src=%d.jpg>" % number) for number in range(5)]
    with served(data=gz(pages), ranges=ranges) as url:
        manifest = extract.fn(Extract(crawl=(url,)), layout)
    assert manifest.rows_in == 5


def test_a_local_file_is_just_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"x"))
    with open_crawl_file(str(path)) as file:
        assert gzip.decompress(file.read()) == b"x"
