"""Over HTTP/2 a URL ends as it does over HTTP/1.1: the same limits and wishes, many requests on one connection."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest
from h2.errors import ErrorCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.web.engine import Engine
from tasks.web.fetch import FetchConfig, Fetched
from tasks.web.frame_count import SmallFrames
from tasks.web.http import Clock, Exchange, Limits, StaleConnection
from tasks.web.http2 import Http2Connection
from tasks.web.urls import split_url
from tests.tasks.web.hostile_web import IMAGE, serve_hostile_web, tls_context
from tests.tasks.web.http2_server import Answer, Http2Web, Served, page, serve_http2
from tests.tasks.web.test_http1 import Wire, cut

HOST = "https://secure.example"


@pytest.fixture
def web() -> Iterator[Http2Web]:
    with serve_http2() as served:
        served.pages["/image.jpg"] = page()
        yield served


def engine_for(port: int, **changes: Any) -> "closing[Engine]":
    """An engine, for the block."""
    fast: dict[str, Any] = {
        "connect_to": {"*": f"127.0.0.1:{port}"}, "allow_networks": ("127.0.0.0/8",), "verify_tls": False,
        "total_seconds": 4.0, "connect_seconds": 4.0, "read_seconds": 1.0, "retry_seconds": 0.01,
        "max_bytes": 1_000_000, "requests_per_second_per_domain": 10_000, "max_attempts": 1,
    }  # fmt: skip
    return closing(Engine(FetchConfig(**(fast | changes)), check_hop=lambda url: None))


def fetch(port: int, urls: Sequence[str], **changes: Any) -> list[Fetched]:
    """Results in the URLs' order, by an engine of their own."""
    with engine_for(port, **changes) as engine:
        return [result for _, result in sorted(engine.download(urls), key=lambda one: one[0])]


def test_many_requests_share_one_connection_and_say_who_asks_for_what(web: Http2Web) -> None:
    urls = [f"{HOST}/{number}.jpg" for number in range(30)]
    web.pages |= {f"/{number}.jpg": page() for number in range(30)}
    results = fetch(web.port, urls, concurrency_per_domain=8, contact="me@lab.example")
    assert [(result.reason, result.body) for result in results] == [(None, IMAGE)] * 30
    assert (web.connections, set(web.names)) == (1, {"secure.example"})
    assert {fields[":authority"] for fields in web.requests} == {"secure.example"}
    assert {fields["user-agent"] for fields in web.requests} == {"curate-lvd/0.1 (+me@lab.example)"}
    assert web.asked["/robots.txt"] == 1


def test_requests_do_not_wait_for_one_another(web: Http2Web) -> None:
    """Every answer waits until four requests stand open: one after the other would end in timeouts."""
    waiting: list[int] = []

    def together(served: Served, stream: int) -> None:
        waiting.append(stream)
        if len(waiting) == 4:
            for one in waiting:
                page()(served, one)

    urls = [f"{HOST}/{number}" for number in range(4)]
    web.pages |= {f"/{number}": together for number in range(4)}
    assert [result.reason for result in fetch(web.port, urls, concurrency_per_domain=4)] == [None] * 4
    assert web.most_streams == 4


def test_http2_can_be_left_out_and_http1_servers_are_spoken_to_as_before(web: Http2Web) -> None:
    (refused,) = fetch(web.port, [f"{HOST}/image.jpg"], http2=False)
    assert refused.reason in ("connection", "tls")
    with serve_hostile_web(tls_context([])) as older:
        results = fetch(older.port, [f"{HOST}/image.jpg"] * 3)
    assert [result.body for result in results] == [IMAGE] * 3


def endless(served: Served, stream: int) -> None:
    served.head(stream)
    served.body(stream, bytes(3_000_000), ends=False)


def promises_much(served: Served, stream: int) -> None:
    served.head(stream, content_length="2000000")
    served.body(stream, bytes(10), ends=False)


def silent(served: Served, stream: int) -> None:
    served.head(stream)
    served.body(stream, IMAGE[:10], ends=False)


def cut_off(served: Served, stream: int) -> None:
    served.head(stream)
    served.body(stream, IMAGE[:100], ends=False)
    served.frames.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)


def hangs_up(served: Served, stream: int) -> None:
    served.head(stream)
    served.body(stream, IMAGE[:100], ends=False)
    served.flush()
    served.transport.close()


def no_frames(served: Served, stream: int) -> None:
    served.transport.write(b"\x00\xff\xff\x99\x99\x00\x00\x00\x00" + bytes(100_000))  # type: ignore[attr-defined]


def hints_without_end(served: Served, stream: int) -> None:
    for _ in range(40):
        served.frames.send_headers(stream, [(":status", "103")])
    page()(served, stream)


MISBEHAVIOUR: dict[str, tuple[Answer, str]] = {
    "missing": (page(status=404), "http_404"),
    "too large by its word": (promises_much, "too_large"),
    "endless": (endless, "too_large"),
    "silent": (silent, "timeout"),
    "never answers": (lambda served, stream: None, "timeout"),
    "cut off": (cut_off, "truncated"),
    "hangs up": (hangs_up, "truncated"),
    "no frames": (no_frames, "connection"),
    "shorter than its word": (page(IMAGE, content_length=str(len(IMAGE) + 9)), "truncated"),
    "hints without end": (hints_without_end, "connection"),
    "html": (page(b"<!doctype html><p>no image"), "not_an_image"),
    "reserved": (page(x_robots_tag="noai"), "noai"),
    "a redirect inside": (page(b"", 302, location="https://169.254.169.254/"), "private_address"),
}


@pytest.mark.parametrize("case", MISBEHAVIOUR)
def test_every_misbehaviour_ends_in_its_reason_and_in_time(web: Http2Web, case: str) -> None:
    answer, reason = MISBEHAVIOUR[case]
    web.pages["/bad.jpg"] = answer
    started = time.monotonic()
    (result,) = fetch(web.port, [f"{HOST}/bad.jpg"], robots_txt=False, tdm_reservation=False)
    assert (result.reason, result.body) == (reason, None), result.detail
    assert time.monotonic() - started < 9


def test_one_stream_that_fails_leaves_the_others_alone(web: Http2Web) -> None:
    web.pages |= {"/endless.jpg": endless, "/silent.jpg": silent, "/cut.jpg": cut_off}
    urls = [f"{HOST}/{name}.jpg" for name in ("endless", "image", "silent", "cut", "image")]
    results = fetch(web.port, urls, concurrency_per_domain=5)
    assert [result.reason for result in results] == ["too_large", None, "timeout", "truncated", None]
    assert web.connections == 1
    assert web.resets["/endless.jpg"] == 1


def test_what_a_leaving_server_has_not_taken_up_is_asked_again_on_a_new_connection(web: Http2Web) -> None:
    def leaves_once(served: Served, stream: int) -> None:
        if web.connections > 1:
            page()(served, stream)
        else:
            served.frames.close_connection(last_stream_id=0)

    web.pages["/image.jpg"] = page()
    web.pages["/again.jpg"] = leaves_once
    results = fetch(web.port, [f"{HOST}/image.jpg", f"{HOST}/again.jpg"], concurrency_per_domain=1)
    assert [(result.reason, result.attempts) for result in results] == [(None, 1)] * 2
    assert web.connections == 2


def test_a_server_that_takes_one_request_on_a_connection_gets_a_connection_for_each_lane(web: Http2Web) -> None:
    web.max_streams = 1
    web.pages |= {f"/{number}.jpg": page() for number in range(20)}
    urls = [f"{HOST}/{number}.jpg" for number in range(20)]
    results = fetch(web.port, urls, concurrency_per_domain=4, robots_txt=False, tdm_reservation=False)
    assert [result.reason for result in results] == [None] * 20
    assert web.connections <= 8  # one for each lane, and one more where another's came free while it was opened


def test_a_connection_that_takes_no_request_at_all_is_closed_at_once_and_the_url_is_a_drop(web: Http2Web) -> None:
    web.max_streams = 0
    alone = {"robots_txt": False, "tdm_reservation": False, "max_attempts": 2}
    with engine_for(web.port, **alone) as engine:
        ((_, result),) = engine.download([f"{HOST}/image.jpg"])
        assert web.wait_until_left(seconds=4)  # while the engine lives on
    assert (result.reason, result.attempts, web.connections) == ("connection", 2, 2)


def test_a_connection_that_is_gone_takes_no_request() -> None:
    async def start() -> None:
        loop = asyncio.get_running_loop()
        connection = Http2Connection(loop)
        connection.connection_made(Wire())
        connection.close()
        limits = Limits(total_seconds=1, connect_seconds=1, read_seconds=1, max_bytes=1)
        exchange = Exchange(limits, lambda status, headers: True, until=loop.time() + 1, clock=Clock(loop, 1))
        with pytest.raises(StaleConnection):
            connection.start(split_url(f"{HOST}/image.jpg"), "agent", exchange)
        assert exchange.done.cancelled()

    asyncio.run(start())


def test_a_server_that_says_nothing_keeps_no_other_request_waiting_once_the_first_gave_up() -> None:
    async def start() -> None:
        loop = asyncio.get_running_loop()
        connection = Http2Connection(loop)
        connection.connection_made(Wire())
        limits = Limits(total_seconds=1, connect_seconds=1, read_seconds=1, max_bytes=1)
        exchange = Exchange(limits, lambda status, headers: True, until=loop.time() + 1, clock=Clock(loop, 1))
        connection.start(split_url(f"{HOST}/image.jpg"), "agent", exchange)
        assert not connection.told.done()
        exchange.on_timeout()
        assert (connection.told.done(), connection.closed) == (True, True)
        exchange.abandon()

    asyncio.run(start())


def frame(kind: int, stream: int, content: bytes = b"", flags: int = 0) -> bytes:
    return len(content).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + content


FLOODS: dict[str, Callable[[int], bytes]] = {
    "data": lambda stream: frame(0, stream),
    "data that is padding": lambda stream: frame(0, stream, b"\x1f" + bytes(31), flags=8),
    "data of a stream that ended": lambda stream: frame(3, stream, bytes(4)) + frame(0, stream, b"a"),
    "priority": lambda stream: frame(2, stream, bytes(5)),
    "resets of what nobody asked for": lambda stream: frame(3, 99, bytes(4)),
    "settings": lambda stream: frame(4, 0),
    "pings": lambda stream: frame(6, 0, bytes(8)),
    "windows": lambda stream: frame(8, 0, (1).to_bytes(4)),
    "of no known kind": lambda stream: frame(250, 0),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_frames_without_content_end_the_connection_before_they_hold_up_others(web: Http2Web, kind: str) -> None:
    def floods(served: Served, stream: int) -> None:
        served.head(stream)
        served.flush()
        served.transport.write(FLOODS[kind](stream) * 10_000)  # type: ignore[attr-defined]

    web.pages["/flood.jpg"] = floods
    with engine_for(web.port, robots_txt=False, tdm_reservation=False) as engine:
        ((_, result),) = engine.download([f"{HOST}/flood.jpg"])
        assert web.wait_until_left(seconds=4)
    assert result.reason == "truncated"
    assert "ended" in kind or "frames without content" in (result.detail or "")


@given(
    sizes=st.lists(st.sampled_from([0, 1, 1023, 1024, 16_384]), max_size=12), places=st.lists(st.integers(0, 99_999))
)
@settings(max_examples=100, deadline=None)
def test_small_frames_are_counted_alike_however_the_reads_cut_them(sizes: list[int], places: list[int]) -> None:
    data = b"".join(frame(0, 1, bytes(size)) for size in sizes)
    counter = SmallFrames()
    assert sum(counter.count(piece) for piece in cut(data, places)) == sum(size < 1024 for size in sizes)
