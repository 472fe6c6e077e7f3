"""The server behaves as planned, well and badly, for a client that speaks plain sockets and for a common one."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from examples.sample_web import SampleWeb
from examples.sample_web.routes import read_routes
from examples.sample_web.server import parse_request, serve_sample_web
from examples.sample_web.truth import read_truth


@pytest.fixture(scope="module")
def address(web: SampleWeb) -> Iterator[str]:
    with serve_sample_web(web.directory) as address:
        yield address


def url_of_case(web: SampleWeb, case: str, number: int = 0) -> str:
    return str([row["url"] for row in read_truth(web.truth).to_pylist() if row["case"] == case][number])


def connect(address: str, url: str) -> socket.socket:
    """A socket on which the URL was asked for."""
    host, _, port = address.partition(":")
    sock = socket.create_connection((host, int(port)), timeout=5)
    parts = urlsplit(url)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    sock.sendall(f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
    return sock


def read_head(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and what of the body came with them."""
    data = b""
    while b"\r\n\r\n" not in data:
        block = sock.recv(65536)
        if not block:
            return 0, {}, data
        data += block
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return int(lines[0].split()[1]), headers, rest


def fetch(address: str, url: str) -> tuple[int, dict[str, str], bytes]:
    """A whole answer with a length, or all that came until the connection ended."""
    with closing(connect(address, url)) as sock:
        status, headers, body = read_head(sock)
        while len(body) < int(headers.get("content-length", 0)):
            block = sock.recv(65536)
            if not block:
                break
            body += block
    return status, headers, body


def test_an_image_comes_with_its_bytes_and_type(web: SampleWeb, address: str) -> None:
    routes, blob = read_routes(web.directory / "served")
    url = url_of_case(web, "webp")
    route = routes[url.removeprefix("http://")]
    status, headers, body = fetch(address, url)
    assert (status, headers["content-type"]) == (200, "image/webp")
    assert body == bytes(blob[route.offset : route.offset + route.num_bytes])


@pytest.mark.parametrize(
    ("case", "status"),
    [("http_404", 404), ("http_410", 410), ("http_500", 500), ("rate_limited", 429), ("empty_body", 200)],
)
def test_a_plain_answer_has_its_status_every_time(web: SampleWeb, address: str, case: str, status: int) -> None:
    assert [fetch(address, url_of_case(web, case))[0] for _ in range(3)] == [status] * 3


@pytest.mark.parametrize(("case", "status"), [("500_then_200", 500), ("429_then_200", 429)])
def test_a_flaky_url_fails_and_then_answers_for_every_run_anew(
    web: SampleWeb, address: str, case: str, status: int
) -> None:
    answers = [fetch(address, url_of_case(web, case)) for _ in range(4)]
    assert [answer[0] for answer in answers] == [status, 200, status, 200]
    assert answers[0][1].get("retry-after") == ("1" if status == 429 else None)


def test_a_wrong_length_promises_more_than_comes_and_closes(web: SampleWeb, address: str) -> None:
    _, headers, body = fetch(address, url_of_case(web, "wrong_length"))
    assert len(body) == int(headers["content-length"]) - 5000


def test_a_closed_connection_says_nothing(web: SampleWeb, address: str) -> None:
    assert fetch(address, url_of_case(web, "connection_closed")) == (0, {}, b"")


def test_a_drip_starts_and_does_not_finish(web: SampleWeb, address: str) -> None:
    with closing(connect(address, url_of_case(web, "drip"))) as sock:
        status, headers, body = read_head(sock)
        assert (status, headers["content-length"]) == (200, "30000")
        body += sock.recv(1) if not body else b""
        assert 1 <= len(body) < 10


@pytest.mark.parametrize("number", [0, 1])
def test_an_endless_body_goes_on_past_thirty_megabytes(web: SampleWeb, address: str, number: int) -> None:
    with closing(connect(address, url_of_case(web, "endless", number))) as sock:
        read_head(sock)
        received = 0
        while received < 30 << 20:
            block = sock.recv(1 << 20)
            assert block
            received += len(block)


def test_redirects_lead_where_planned(web: SampleWeb, address: str) -> None:
    targets = [fetch(address, url_of_case(web, "redirect_to_private", number))[1]["location"] for number in (0, 1)]
    assert {urlsplit(target).hostname for target in targets} == {"10.0.0.1", "169.254.169.254"}
    url = url_of_case(web, "redirected")
    status, headers, _ = fetch(address, url)
    assert status == 302
    followed = fetch(address, f"http://{urlsplit(url).netloc}{headers['location']}")
    assert followed[0] == 200
    assert followed[1]["content-type"].startswith("image/")


def test_a_redirect_loop_never_leaves_its_urls(web: SampleWeb, address: str) -> None:
    start = url = url_of_case(web, "redirect_loop")
    seen = []
    for _ in range(6):
        status, headers, _ = fetch(address, url)
        assert status in (301, 302)
        location = headers["location"]
        url = location if location.startswith("http") else f"http://{urlsplit(start).netloc}{location}"
        seen.append(url)
    assert len(set(seen)) <= 2


def test_opt_outs_are_told_as_planned(web: SampleWeb, address: str) -> None:
    tags = {fetch(address, url_of_case(web, "noai", number))[1]["x-robots-tag"] for number in (0, 1)}
    assert tags == {"noai", "noindex, noimageai"}
    assert fetch(address, url_of_case(web, "tdm_header"))[1]["tdm-reservation"] == "1"
    assert b'"/reserved/*"' in fetch(address, "http://tdm.sample.test/.well-known/tdmrep.json")[2]
    assert b"Disallow: /private/" in fetch(address, "http://closed.sample.test/robots.txt")[2]
    assert fetch(address, "http://shop.sample.test/robots.txt")[0] == 404


def test_a_page_is_served_under_its_url(web: SampleWeb, address: str) -> None:
    name, url, _ = (web.pages / "index.csv").read_text().splitlines()[1].split(",")
    assert fetch(address, url)[2] == (web.pages / name).read_bytes()


def test_one_connection_serves_many_requests_for_many_hosts(web: SampleWeb, address: str) -> None:
    urls = [url_of_case(web, "plain", number) for number in range(8)]
    with closing(connect(address, urls[0])) as sock:
        for url in [*urls[1:], urls[0]]:
            status, headers, body = read_head(sock)
            assert status == 200
            while len(body) < int(headers.get("content-length", 0)):
                body += sock.recv(65536)
            if "transfer-encoding" in headers:
                while not body.endswith(b"0\r\n\r\n"):
                    body += sock.recv(65536)
            parts = urlsplit(url)
            sock.sendall(f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}:80\r\n\r\n".encode())


def test_a_hundred_clients_at_once_all_get_their_image(web: SampleWeb, address: str) -> None:
    urls = [row["url"] for row in read_truth(web.truth).to_pylist() if row["case"] in ("plain", "face", "original")]

    async def get(session: aiohttp.ClientSession, url: str) -> int:
        parts = urlsplit(url)
        async with session.get(f"http://{address}{parts.path}", headers={"Host": parts.netloc}) as answer:
            await answer.read()
            return answer.status

    async def all_at_once() -> list[int]:
        connector = aiohttp.TCPConnector(limit=100)
        async with aiohttp.ClientSession(connector=connector) as session:
            return await asyncio.gather(*(get(session, url) for url in (urls * 8)[:200]))

    assert asyncio.run(all_at_once()) == [200] * 200


def test_requests_are_understood_in_both_forms() -> None:
    assert parse_request(b"GET /a?b HTTP/1.1\r\nHost: X.test:80\r\n\r\n") == ("GET", "x.test/a?b", True)
    assert parse_request(b"GET http://x.test/a HTTP/1.1\r\nHost: y\r\n\r\n") == ("GET", "x.test/a", True)
    assert parse_request(b"HEAD / HTTP/1.1\r\nHost: x.test\r\nConnection: close\r\n\r\n") == ("HEAD", "x.test/", False)
    assert not parse_request(b"GET / HTTP/1.0\r\n\r\n")[2]


def test_serving_what_was_not_built_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="build_sample_web"), serve_sample_web(tmp_path):
        pass
