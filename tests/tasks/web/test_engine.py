"""Whatever a server does, a URL ends in a verified image or in a drop with its reason: in time, in bounds, politely."""

import asyncio
import time
from contextlib import closing
from typing import Any

import pytest

from tasks.web.engine import Engine
from tasks.web.fetch import retry_after_seconds
from tasks.web.http import Headers
from tests.tasks.web.fetching import Fetch, config_for, redirect
from tests.tasks.web.hostile_web import IMAGE, HostileWeb, Request, reply


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ("image.jpg", None),
        ("gzip.jpg", None),
        ("says-gzip.jpg", None),
        ("members.jpg", None),
        ("padded.jpg", None),
        ("zlib.jpg", None),
        ("raw.jpg", None),
        ("says-deflate.jpg", None),
        ("drip.jpg", "timeout"),
        ("silent.jpg", "timeout"),
        ("endless.jpg", "too_large"),
        ("large.jpg", "too_large"),
        ("bomb.jpg", "too_large"),
        ("members-bomb.jpg", "too_large"),
        ("raw-bomb.jpg", "too_large"),
        ("brotli.jpg", "undecodable"),
        ("hangs-up.jpg", "connection"),
        ("cut-off.jpg", "truncated"),
        ("truncated.jpg", "truncated"),
        ("no-http.jpg", "connection"),
        ("header-bomb.jpg", "connection"),
        ("long-header.jpg", "connection"),
        ("html.jpg", "not_an_image"),
        ("svg.jpg", "unsupported_format"),
        ("empty.jpg", "empty_body"),
        ("no-content.jpg", "empty_body"),
        ("missing.jpg", "http_404"),
        ("gone.jpg", "http_410"),
    ],
)
def test_every_misbehaviour_ends_in_its_reason_and_in_time(fetch: Fetch, page: str, reason: str | None) -> None:
    started = time.monotonic()
    (result,) = fetch([f"http://photos.example/{page}"])
    assert (result.reason, result.body is not None) == (reason, reason is None), result.detail
    assert result.body in (None, IMAGE)
    assert time.monotonic() - started < 2.5


def test_an_image_with_more_pixels_than_allowed_is_not_decoded(fetch: Fetch) -> None:
    (result,) = fetch(["http://photos.example/image.jpg"], max_pixels=96 * 96 - 1)
    assert result.reason == "too_many_pixels"
    (result,) = fetch(["http://photos.example/image.jpg"], max_pixels=96 * 96)
    assert result.reason is None
    assert result.info is not None
    assert (result.info.format, result.info.width, result.info.height) == ("JPEG", 96, 96)


def test_the_request_says_who_we_are_and_asks_for_plain_bytes(web: HostileWeb, fetch: Fetch) -> None:
    fetch(["http://who.example/image.jpg"])
    headers = web.headers["who.example/image.jpg"]
    assert headers["user-agent"] == "curate-lvd/0.1 (+https://lab.example/crawler)"
    assert headers["accept-encoding"] == "identity"
    assert headers["host"] == "who.example"
    assert not {"cookie", "authorization", "referer"} & headers.keys()


def test_a_server_that_recovers_is_tried_again(web: HostileWeb, fetch: Fetch) -> None:
    async def second_time(request: Request, writer: asyncio.StreamWriter) -> None:
        reply(writer, IMAGE, 500 if request.nth == 1 else 200)

    web.pages["flaky.example/image.jpg"] = second_time
    (result,) = fetch(["http://flaky.example/image.jpg"])
    assert (result.reason, result.attempts, result.status) == (None, 2, 200)


@pytest.mark.parametrize(("status", "tries"), [(500, 3), (503, 3), (404, 1), (403, 1), (410, 1), (501, 1)])
def test_only_errors_that_may_pass_are_tried_again(web: HostileWeb, fetch: Fetch, status: int, tries: int) -> None:
    where = f"s{status}.example/image.jpg"
    web.page(where, b"", status)
    (result,) = fetch([f"http://{where}"])
    assert (result.reason, result.attempts, web.asked[where]) == (f"http_{status}", tries, tries)


def test_each_wait_before_another_try_is_twice_the_last(web: HostileWeb, fetch: Fetch) -> None:
    times: list[float] = []

    async def busy(request: Request, writer: asyncio.StreamWriter) -> None:
        times.append(time.monotonic())
        reply(writer, b"", status=503)

    web.pages["worn.example/image.jpg"] = busy
    (result,) = fetch(["http://worn.example/image.jpg"], retry_seconds=0.1, max_attempts=3)
    assert (result.reason, len(times)) == ("http_503", 3)
    early = 0.01  # libuv's timers count from when the loop woke: some are a millisecond early
    assert times[1] - times[0] >= 0.1 - early
    assert times[2] - times[1] >= 0.2 - early


def test_retry_after_is_obeyed(web: HostileWeb, fetch: Fetch) -> None:
    times: list[float] = []

    async def later(request: Request, writer: asyncio.StreamWriter) -> None:
        times.append(time.monotonic())
        reply(writer, IMAGE, **({} if request.nth > 1 else {"status": 429, "Retry_After": "1"}))  # type: ignore[arg-type]

    web.pages["busy.example/image.jpg"] = later
    (result,) = fetch(["http://busy.example/image.jpg"])
    assert (result.reason, result.attempts) == (None, 2)
    assert times[1] - times[0] >= 0.99


def test_a_retry_after_beyond_the_limit_gives_up(web: HostileWeb, fetch: Fetch) -> None:
    web.page("closed.example/image.jpg", b"", 429, Retry_After="3600")
    (result,) = fetch(["http://closed.example/image.jpg"], max_retry_after_seconds=0.1)
    assert (result.reason, result.attempts, result.status) == ("rate_limited", 1, 429)


def test_a_host_that_wants_to_be_left_alone_is_left_alone_and_others_go_on(web: HostileWeb, fetch: Fetch) -> None:
    web.page("tired.shop.example/image.jpg", b"", 429, Retry_After="3600")
    urls = [f"http://{host}.shop.example/image.jpg" for host in ("tired", "fresh")]
    urls.insert(1, "http://tired.shop.example/large.jpg")
    results = fetch(urls, concurrency_per_domain=1)
    assert [result.reason for result in results] == ["rate_limited", "rate_limited", None]
    assert web.asked["tired.shop.example/large.jpg"] == 0


def test_a_domain_is_asked_by_few_at_a_time_and_others_do_not_wait(web: HostileWeb, fetch: Fetch) -> None:
    async def slow(_: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        reply(writer, IMAGE)

    for number in range(8):
        web.pages[f"slow.example/{number}"] = slow
    done: list[str] = []
    urls = [f"http://slow.example/{number}" for number in range(8)] + ["http://quick.example/image.jpg"]
    with closing(Engine(config_for(web, concurrency_per_domain=2), check_hop=lambda url: None)) as engine:
        for number, result in engine.download(urls):
            assert result.reason is None
            done.append(urls[number])
    assert web.most_open["slow.example"] == 2
    assert done.index("http://quick.example/image.jpg") < 4


def test_subdomains_share_the_pace_of_their_registered_domain(web: HostileWeb, fetch: Fetch) -> None:
    urls = [f"http://img{number}.shop.example/image.jpg" for number in range(5)]
    started = time.monotonic()
    fetch(urls, requests_per_second_per_domain=20, robots_txt=False, tdm_reservation=False)
    assert time.monotonic() - started >= 4 / 20


def test_a_host_that_only_fails_is_given_up(web: HostileWeb, fetch: Fetch) -> None:
    urls = [f"http://dead.example/hangs-up.jpg?{number}" for number in range(30)]
    for number in range(30):
        web.pages[f"dead.example/hangs-up.jpg?{number}"] = web.pages["/hangs-up.jpg"]
    results = fetch(urls, failures_in_a_row=5, max_attempts=1, concurrency_per_domain=1)
    assert {result.reason for result in results} == {"connection"}
    assert [result.attempts for result in results] == [1] * 5 + [0] * 25


def test_a_host_has_only_so_much_time(web: HostileWeb, fetch: Fetch) -> None:
    urls = [f"http://tar.example/drip.jpg?{number}" for number in range(10)]
    for number in range(10):
        web.pages[f"tar.example/drip.jpg?{number}"] = web.pages["/drip.jpg"]
    results = fetch(urls, max_host_seconds=0.3, total_seconds=0.4, concurrency_per_domain=4)
    assert [result.attempts for result in results] == [1] * 4 + [0] * 6
    assert {result.reason for result in results} == {"timeout"}


def test_robots_txt_is_asked_once_and_obeyed(web: HostileWeb, fetch: Fetch) -> None:
    web.page("polite.example/robots.txt", b"User-agent: *\nDisallow: /private/\n")
    web.page("polite.example/private/image.jpg")
    results = fetch([f"http://polite.example/{where}image.jpg" for where in ("", "private/", "private/../")])
    assert [result.reason for result in results[:2]] == [None, "robots_txt"]
    assert web.asked["polite.example/robots.txt"] == 1
    assert web.asked["polite.example/private/image.jpg"] == 0


@pytest.mark.parametrize(
    ("status", "reason"), [(404, None), (403, None), (401, None), (500, "robots_txt"), (429, "robots_txt")]
)
def test_a_robots_txt_that_cannot_be_had(web: HostileWeb, fetch: Fetch, status: int, reason: str | None) -> None:
    web.page(f"robots{status}.example/robots.txt", b"User-agent: *\nDisallow: /", status)
    (result,) = fetch([f"http://robots{status}.example/image.jpg"])
    assert result.reason == reason


def test_robots_txt_of_every_hop_counts(web: HostileWeb, fetch: Fetch) -> None:
    redirect(web, "open.example/a.jpg", "http://shut.example/image.jpg")
    web.page("shut.example/robots.txt", b"User-agent: curate-lvd\nDisallow: /\n")
    (result,) = fetch(["http://open.example/a.jpg"])
    assert result.reason == "robots_txt"
    assert web.asked["shut.example/image.jpg"] == 0


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"X_Robots_Tag": "noai"}, "noai"),
        ({"X_Robots_Tag": "noindex, NoImageAI"}, "noai"),
        ({"X_Robots_Tag": "curate-lvd: noai"}, "noai"),
        ({"X_Robots_Tag": "otherbot: noai"}, None),
        ({"X_Robots_Tag": "noindex"}, None),
        ({"X_Robots_Tag": "max-snippet: 10, noai"}, "noai"),
        ({"tdm_reservation": "1"}, "tdm_reserved"),
        ({"tdm_reservation": "0"}, None),
    ],
)
def test_reservations_in_headers(web: HostileWeb, fetch: Fetch, headers: dict[str, str], reason: str | None) -> None:
    web.page("rights.example/image.jpg", **headers)
    assert fetch(["http://rights.example/image.jpg"])[0].reason == reason


def test_tdmrep_json_reserves_the_paths_it_names(web: HostileWeb, fetch: Fetch) -> None:
    rules = b'[{"location": "/art/*", "tdm-reservation": 1}, {"location": "/art/free/", "tdm-reservation": 0}]'
    web.page("museum.example/.well-known/tdmrep.json", rules)
    for where in ("art/", "art/free/", ""):
        web.page(f"museum.example/{where}image.jpg")
    results = fetch([f"http://museum.example/{where}image.jpg" for where in ("art/", "art/free/", "")])
    assert [result.reason for result in results] == ["tdm_reserved", None, None]


def test_wishes_can_be_left_out_only_by_config(web: HostileWeb, fetch: Fetch) -> None:
    web.page("shut2.example/robots.txt", b"User-agent: *\nDisallow: /")
    web.page("shut2.example/image.jpg", tdm_reservation="1")
    off = {"robots_txt": False, "tdm_reservation": False, "x_robots_tag": frozenset[str]()}
    assert fetch(["http://shut2.example/image.jpg"])[0].reason == "robots_txt"
    assert fetch(["http://shut2.example/image.jpg"], **off)[0].reason is None
    assert web.asked["shut2.example/robots.txt"] == 1


def test_connections_are_kept_and_used_again(web: HostileWeb, fetch: Fetch) -> None:
    before = web.connections
    urls = [f"http://kept.example/{page}.jpg" for page in ("image", "missing", "html", "gzip", "gone") * 4]
    fetch(urls, concurrency_per_domain=2)
    assert web.connections - before <= 2


def test_a_connection_that_was_closed_while_idle_costs_no_attempt(web: HostileWeb, fetch: Fetch) -> None:
    async def closes_unsaid(_: Request, writer: asyncio.StreamWriter) -> None:
        reply(writer, IMAGE)
        await writer.drain()
        writer.close()

    web.pages |= {f"closing.example/{number}.jpg": closes_unsaid for number in range(10)}
    results = fetch([f"http://closing.example/{number}.jpg" for number in range(10)], max_attempts=1)
    assert [(result.reason, result.attempts) for result in results] == [(None, 1)] * 10


def test_no_more_connections_are_kept_than_may_be(web: HostileWeb, fetch: Fetch, monkeypatch: Any) -> None:
    monkeypatch.setattr("tasks.web.engine._idle_connections", lambda in_use: 2)
    urls = [f"http://many{number}.example/image.jpg" for number in range(8)]
    results = fetch([*urls, *urls], concurrency=1)
    assert [result.reason for result in results] == [None] * 16


def test_the_own_resolver_is_asked_where_nothing_else_is_said(web: HostileWeb, fetch: Fetch) -> None:
    """Nobody listens at that name server: the drop says so, and the system's resolver is not asked behind its back."""
    url = "http://photos.example/image.jpg"
    (result,) = fetch([url], connect_to={}, nameservers=("127.0.0.1:9",), dns_seconds=0.05, max_attempts=1)
    assert (result.reason, result.body) == ("dns", None)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("9" * 500, 999_999_999.0),
        ("Mon, 20 Nov 1995 19:12:08 GMT", 0.0),
        ("-5", None),
        ("soon", None),
        ("Mon, 20 Nov 1995 19:12:08 +99999999999999", None),
        ("Mon, 99999999999999999999 Nov 1995 19:12:08 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_anything_else_is_nothing(value: str, seconds: float | None) -> None:
    assert retry_after_seconds(Headers([("Retry-After", value)])) == seconds
