"""Wherever a redirect or a name leads, the address that is connected to is one that was checked."""

import socket
import threading
from typing import Any

import pytest

from storage.images import ImageInfo, probe_whole
from tasks.web.resolver import Answer, CheckedResolver, Lookup
from tests.tasks.web.fetching import Fetch, redirect
from tests.tasks.web.hostile_web import IMAGE, HostileWeb, serve_hostile_web, tls_context


def test_redirects_are_followed_to_the_image(web: HostileWeb, fetch: Fetch) -> None:
    redirect(web, "a.example/1", "/2", 301)
    redirect(web, "a.example/2", "http://b.example/3", 307)
    redirect(web, "b.example/3", "//c.example/image.jpg#top", 308)
    (result,) = fetch(["http://a.example/1"])
    assert (result.reason, result.final_url, result.body) == (None, "http://c.example/image.jpg", IMAGE)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("http://10.0.0.5/image.jpg", "private_address"),
        ("http://169.254.169.254/latest/meta-data/", "private_address"),
        ("http://0xa9fea9fe/latest/", "private_address"),
        ("http://[::ffff:10.0.0.5]/image.jpg", "private_address"),
        ("http://[::1]/image.jpg", "private_address"),
        ("http://metadata.google.internal/computeMetadata/", "private_address"),
        ("http://localhost/image.jpg", "private_address"),
        ("http://user@10.0.0.5/image.jpg", "private_address"),
        ("file:///etc/passwd", "bad_redirect"),
        ("ftp://a.example/image.jpg", "bad_redirect"),
        ("javascript:alert(1)", "bad_redirect"),
        ("http://", "bad_redirect"),
        ("data:image/png;base64,AAAA", "bad_redirect"),
        ("/loop", "redirect_loop"),
    ],
)
def test_no_redirect_leads_off_the_public_web(web: HostileWeb, fetch: Fetch, target: str, reason: str) -> None:
    redirect(web, "evil.example/loop", target)
    (result,) = fetch(["http://evil.example/loop"])
    assert result.reason == reason, result.detail
    assert result.body is None


def test_a_chain_longer_than_allowed_is_a_loop(web: HostileWeb, fetch: Fetch) -> None:
    for number in range(6):
        redirect(web, f"long.example/{number}", f"/{number + 1}")
    web.page("long.example/6")
    assert fetch(["http://long.example/0"], max_redirects=5)[0].reason == "redirect_loop"
    assert fetch(["http://long.example/1"], max_redirects=5)[0].reason is None


def test_a_redirect_obeys_the_url_policy(web: HostileWeb, fetch: Fetch) -> None:
    redirect(web, "a.example/ad", "http://ads.example/image.jpg")

    def no_ads(url: str) -> tuple[str, str | None] | None:
        return ("blocked_domain", "ads.example") if "ads.example" in url else None

    (result,) = fetch(["http://a.example/ad"], check_hop=no_ads)
    assert (result.reason, result.detail) == ("bad_redirect", "blocked_domain: ads.example")
    assert web.asked["ads.example/image.jpg"] == 0


def lookup_of(**hosts: list[str]) -> Lookup:
    async def lookup(host: str) -> Answer:
        try:
            return Answer(hosts[host.partition(".")[0]])
        except KeyError:
            raise socket.gaierror(socket.EAI_NONAME, "no such name") from None

    return lookup


@pytest.mark.parametrize(
    "addresses",
    [
        ["10.1.2.3"],
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["::1"],
        ["fe80::1"],
        ["fd00::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["2002:7f00:1::"],
        ["93.184.216.34", "10.1.2.3"],
        ["0.0.0.0"],
    ],
)
def test_a_name_that_points_inside_is_refused(web: HostileWeb, fetch: Fetch, addresses: list[str]) -> None:
    port_80 = "http://inside.example/image.jpg"
    (result,) = fetch([port_80], lookup=lookup_of(inside=addresses), connect_to={}, allow_networks=(), robots_txt=False)
    assert result.reason == "private_address", result.detail
    assert web.asked["inside.example/image.jpg"] == 0


def test_of_a_name_with_many_addresses_all_are_checked_and_few_are_dialled(
    web: HostileWeb, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled: list[str] = []
    opened = CheckedResolver.open_socket

    def note(resolver: CheckedResolver, info: Any) -> socket.socket:
        dialled.append(info[4][0])
        return opened(resolver, info)

    monkeypatch.setattr(CheckedResolver, "open_socket", note)
    nobody_there = [f"127.0.1.{number}" for number in range(100)]
    names = lookup_of(many=nobody_there, odd=[*nobody_there, "10.0.0.1"])
    urls = [f"http://{name}.example:{web.port}/image.jpg" for name in ("many", "odd")]
    results = fetch(urls, lookup=names, connect_to={}, robots_txt=False, tdm_reservation=False, max_attempts=1)
    assert [result.reason for result in results] == ["connection", "private_address"]
    assert len(dialled) == len(set(dialled)) == 16


def test_large_files_are_looked_at_aside_and_small_ones_in_the_loop(
    web: HostileWeb, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[int, str] = {}

    def note(body: bytes, *, max_pixels: int) -> ImageInfo:
        threads[len(body)] = threading.current_thread().name
        return probe_whole(body, max_pixels=max_pixels)

    monkeypatch.setattr("tasks.web.fetch.probe_whole", note)
    large = IMAGE[:2] + (b"\xff\xfe\xff\xff" + bytes(65_533)) * 20 + IMAGE[2:]
    web.page("large.example/large.jpg", large)
    results = fetch(["http://large.example/large.jpg", "http://large.example/image.jpg"], max_bytes=2_000_000)
    assert [result.body for result in results] == [large, IMAGE]
    assert threads[len(large)].startswith("verify")
    assert threads[len(IMAGE)] == "download-engine"


def test_an_allowed_network_is_connected_to_and_only_it(web: HostileWeb, fetch: Fetch) -> None:
    names = lookup_of(mirror=["127.0.0.1"], other=["10.0.0.1"])
    urls = [f"http://mirror.example:{web.port}/image.jpg", "http://other.example/image.jpg"]
    results = fetch(urls, lookup=names, connect_to={}, allow_networks=("127.0.0.0/8",))
    assert [result.reason for result in results] == [None, "private_address"]


def test_connect_to_does_not_open_closed_networks(web: HostileWeb, fetch: Fetch) -> None:
    (result,) = fetch(["http://closed-mirror.example/image.jpg"], allow_networks=())
    assert result.reason == "private_address"
    assert web.asked["closed-mirror.example/image.jpg"] == 0


def test_a_rebinding_name_never_reaches_the_address_that_was_not_checked(web: HostileWeb, fetch: Fetch) -> None:
    answers: list[str] = []

    async def rebinding(host: str) -> Answer:
        answers.append("127.0.0.1")  # public on the first look would be 93.184.216.34; inside on every later one
        return Answer(["93.184.216.34"] if len(answers) == 1 else ["127.0.0.1"])

    url = f"http://rebinding.example:{web.port}/image.jpg"
    (result,) = fetch(
        [url], lookup=rebinding, connect_to={}, allow_networks=(), robots_txt=False, tdm_reservation=False
    )
    assert result.reason in ("timeout", "connection")  # the first, checked address; nobody answers there
    assert web.asked["rebinding.example/image.jpg"] == 0
    assert len(answers) == 1  # one look-up serves check and connection alike


def test_a_name_whose_record_lasts_no_time_is_checked_again_at_every_connection(web: HostileWeb, fetch: Fetch) -> None:
    answers: list[str] = []

    async def rebinding(host: str) -> Answer:
        answers.append(host)
        return Answer(["93.184.216.34"] if len(answers) == 1 else ["127.0.0.1"], seconds=0)

    url = f"http://rebinding2.example:{web.port}/image.jpg"
    (result,) = fetch(
        [url], lookup=rebinding, connect_to={}, allow_networks=(), robots_txt=False, tdm_reservation=False
    )
    assert (result.reason, len(answers)) == ("private_address", 2)
    assert web.asked["rebinding2.example/image.jpg"] == 0


def test_a_name_without_address_is_a_dns_drop(fetch: Fetch) -> None:
    results = fetch(["http://nowhere.example/a.jpg", "http://nowhere.example/b.jpg"], lookup=lookup_of(), connect_to={})
    assert [result.reason for result in results] == ["dns", "dns"]


def test_plain_http_on_a_tls_port_is_a_tls_drop(fetch: Fetch) -> None:
    (result,) = fetch(["https://photos.example/image.jpg"], robots_txt=False, tdm_reservation=False)
    assert result.reason == "tls", result.detail


def test_tls_asks_for_the_name_and_not_for_the_address(fetch: Fetch) -> None:
    names: list[str | None] = []
    url = "https://secure.example/image.jpg"
    with serve_hostile_web(tls_context(names)) as secure:
        here = {"connect_to": {"secure.example": f"127.0.0.1:{secure.port}"}}
        (unsigned,) = fetch([url], **here)
        (trusted,) = fetch([url], verify_tls=False, **here)
    assert (unsigned.reason, trusted.reason) == ("tls", None)
    assert set(names) == {"secure.example"}
    assert secure.headers["secure.example/image.jpg"]["host"] == "secure.example"
