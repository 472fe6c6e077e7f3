"""An HTTP/1.1 response means the same however it is cut into pieces, and what is no HTTP ends in a refusal."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.web.http import MAX_DRAINED_BYTES, Clock, Exchange, Headers, Limits, NotHttp, Refusal, Response
from tasks.web.http1 import Http1Connection, content_length, parse_head

LIMITS = Limits(total_seconds=10, connect_seconds=10, read_seconds=10, max_bytes=1000)
BODY = bytes(range(256)) * 2
RESPONSES = {
    "sized": b"HTTP/1.1 200 OK\r\nContent-Length: 512\r\n\r\n" + BODY,
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64;a=b\r\n"
    + BODY[:100] + b"\r\n19C\r\n" + BODY[100:] + b"\r\n0\r\nX-Sum: 1\r\n\r\n",
    "until close": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + BODY,
    "old": b"HTTP/1.0 200 OK\r\nX-A: 1\r\n\r\n" + BODY,
    "after hints": b"HTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 512\r\n\r\n" + BODY,
    "bare newlines": b"HTTP/1.1 200\nContent-Length: 512\n\n" + BODY,
    "equal lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 512\r\nContent-Length: 512, 512\r\n\r\n" + BODY,
}  # fmt: skip


class Wire(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.gone = b"", False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def abort(self) -> None:
        self.gone = True


def receive(
    pieces: Sequence[bytes], *, closes: bool = True, wants: bool = True, limits: Limits = LIMITS, seconds: float = 10
) -> tuple[Response | Refusal | None, bool]:
    """(outcome, whether the connection may be used again) of one request answered by these pieces."""

    async def run() -> tuple[Response | Refusal | None, bool]:
        kept: list[Http1Connection] = []
        connection, wire = Http1Connection(kept.append), Wire()
        connection.connection_made(wire)
        loop = asyncio.get_running_loop()
        exchange = Exchange(limits, lambda status, headers: wants, until=loop.time() + seconds, clock=Clock(loop, 10))
        connection.start(b"GET / HTTP/1.1\r\n\r\n", exchange)
        for piece in pieces:
            if not wire.gone:
                connection.data_received(piece)
        reusable = bool(kept) and not wire.gone
        if closes:
            connection.connection_lost(None)
        if not exchange.done.done():
            exchange.abandon()
            return None, reusable
        error = exchange.done.exception()
        assert error is None or isinstance(error, Refusal)
        return error or exchange.done.result(), reusable

    return asyncio.run(run())


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    ends = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(ends)]


@pytest.mark.parametrize("kind", RESPONSES)
@given(places=st.lists(st.integers(0, 10_000), max_size=12))
@settings(max_examples=40, deadline=None)
def test_a_response_is_the_same_however_it_is_cut(kind: str, places: list[int]) -> None:
    outcome, _ = receive(cut(RESPONSES[kind], places))
    assert isinstance(outcome, Response), outcome
    assert (outcome.status, outcome.body) == (200, BODY)


@pytest.mark.parametrize("size", [1, 7, 200, 5000])
def test_thousands_of_small_chunks_in_one_read_are_one_body_and_one_piece(size: int) -> None:
    body = BODY * 200
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    limits = Limits(total_seconds=10, connect_seconds=10, read_seconds=10, max_bytes=len(body))
    for pieces in ([head + coded], [head, coded[:60_000], coded[60_000:]]):
        outcome, reusable = receive(pieces, closes=False, limits=limits)
        assert isinstance(outcome, Response), outcome
        assert outcome.body == body
        assert reusable


@pytest.mark.parametrize("kind", RESPONSES)
def test_byte_by_byte_it_is_the_same_too(kind: str) -> None:
    data = RESPONSES[kind]
    outcome, reusable = receive([data[at : at + 1] for at in range(len(data))])
    assert isinstance(outcome, Response)
    assert outcome.body == BODY
    assert reusable is (kind not in ("until close", "old"))


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", *RESPONSES.values()]), st.integers(0, 600)
)
@settings(max_examples=300, deadline=None)
def test_no_bytes_break_the_reader(noise: bytes, start: bytes, at: int) -> None:
    outcome, _ = receive(cut(start[:at] + noise + start[at:], [at, at + 7, at + 100]))
    assert isinstance(outcome, (Response, Refusal))
    assert not isinstance(outcome, Response) or len(outcome.body) <= LIMITS.max_bytes


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 10_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 1000,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n" * 20,
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"<html>hello</html>",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 9000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000,
    ],
)
def test_what_is_no_http_or_beyond_bounds_is_refused_at_once(head: bytes) -> None:
    outcome, reusable = receive([head], closes=False)
    assert isinstance(outcome, Refusal), outcome
    assert (outcome.reason, outcome.retry, reusable) == ("connection", False, False)


@pytest.mark.parametrize(
    ("data", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi and more", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: Close\r\n\r\nhi", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nHTTP/1.1 200", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
    ],
)
def test_a_connection_is_used_again_only_where_the_response_ended_for_sure(data: bytes, reusable: bool) -> None:
    outcome, again = receive([data], closes=False)
    assert isinstance(outcome, Response)
    assert again is reusable
    assert outcome.body in (b"hi", b"")


@pytest.mark.parametrize("missing", range(1, 6))
@pytest.mark.parametrize("kind", ["sized", "chunked"])
def test_a_body_cut_short_is_truncated_and_worth_another_try(kind: str, missing: int) -> None:
    outcome, _ = receive([RESPONSES[kind][:-missing]])
    assert isinstance(outcome, Refusal)
    assert (outcome.reason, outcome.retry) == ("truncated", True)


@pytest.mark.parametrize("kind", RESPONSES)
def test_a_body_beyond_the_limit_is_refused_or_cut(kind: str) -> None:
    refused, _ = receive([RESPONSES[kind]], limits=Limits(10, 10, 10, max_bytes=511))
    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.retry) == ("too_large", False)
    taken, _ = receive([RESPONSES[kind]], limits=Limits(10, 10, 10, max_bytes=100, cut=True))
    assert isinstance(taken, Response)
    assert taken.body == BODY[:100]


def test_an_unwanted_body_is_read_off_where_it_is_short_and_cut_off_where_it_is_long() -> None:
    for size, reusable in ((500, True), (MAX_DRAINED_BYTES + 1, False)):
        outcome, again = receive([b"HTTP/1.1 404 No\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)], wants=False)
        assert isinstance(outcome, Response)
        assert (outcome.status, outcome.body, again) == (404, b"", reusable)


def test_headers_are_found_in_any_case_and_folded_lines_are_one() -> None:
    version, status, headers = parse_head(
        b"HTTP/1.1 302 Found\r\nlocation: /a\r\nX-B : 1\r\nx-b: 2,\r\n\t3\r\nnoise\r\nE:"
    )
    assert (version, status, headers["Location"]) == (1, 302, "/a")
    assert headers.all_of("X-B") == ["1", "2, 3"]
    assert headers.tokens("x-b") == ["1", "2", "3"]
    assert (headers["e"], "noise" in headers, headers.get("none")) == ("", False, None)


def test_a_length_that_is_told_twice_alike_is_told() -> None:
    assert content_length(Headers([("Content-Length", "5, 5"), ("content-length", "5")])) == 5
    with pytest.raises(NotHttp):
        content_length(Headers([("Content-Length", "5"), ("Content-Length", "50")]))


def test_bytes_that_still_come_when_the_time_is_over_end_it_at_the_next_read() -> None:
    """Without a turn of the loop, in which a clock could look."""
    outcome, reusable = receive(cut(RESPONSES["sized"], [100]), closes=False, seconds=-1)
    assert isinstance(outcome, Refusal)
    assert (outcome.reason, reusable) == ("timeout", False)
