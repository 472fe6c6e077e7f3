"""robots.txt, X-Robots-Tag and tdmrep.json mean what their specifications say."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.web.opt_out import parse_tdmrep, robots_tag_opt_out
from tasks.web.patterns import matches, normal_path
from tasks.web.robots import parse_robots

NOAI = frozenset({"noai", "noimageai"})


@given(st.text(alphabet="ab/*$", max_size=8).map(lambda text: f"/{text}"), st.text(alphabet="ab/", max_size=10))
def test_patterns_match_as_their_regular_expression_does(pattern: str, rest: str) -> None:
    body, anchor = (pattern[:-1], r"\Z") if pattern.endswith("$") else (pattern, "")
    expression = ".*".join(re.escape(piece) for piece in body.split("*")) + anchor
    assert matches(pattern, f"/{rest}") == bool(re.match(expression, f"/{rest}", re.S))


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    started = time.monotonic()
    assert not matches("/" + "*a" * 5000 + "b$", "/" + "a" * 10_000)
    assert time.monotonic() - started < 1.0


@pytest.mark.parametrize(
    "agents", [b"".join(b"User-agent: a%d\n" % n for n in range(12_000)), b"User-agent: *\n" * 12_000]
)
def test_a_file_of_many_agents_and_many_rules_costs_no_more_than_its_lines(agents: bytes) -> None:
    started = time.monotonic()
    body = b"User-agent: curate-lvd\n" + agents + b"Disallow: /x\n" * 18_000
    assert not parse_robots(body, "curate-lvd").allows("/x")
    assert time.monotonic() - started < 2.0


@pytest.mark.parametrize(
    ("one", "other"), [("/%7Eme", "/~me"), ("/ü", "/%C3%BC"), ("/%c3%bc", "/%C3%BC"), ("/a%2fb", "/a%2Fb")]
)
def test_equal_paths_have_one_normal_form(one: str, other: str) -> None:
    assert normal_path(one) == normal_path(other)


@pytest.mark.parametrize(
    ("robots", "path", "allowed"),
    [
        ("", "/a", True),
        ("User-agent: *\nDisallow: /", "/a", False),
        ("User-agent: *\nDisallow:", "/a", True),
        ("user-agent: *\ndisallow: /a\nallow: /a/b", "/a/b/c", True),
        ("User-agent: *\nAllow: /a\nDisallow: /a/b", "/a/b/c", False),
        ("User-agent: *\nDisallow: /a\nAllow: /a", "/a", True),
        ("User-agent: *\nDisallow: /*.gif$", "/x/y.gif", False),
        ("User-agent: *\nDisallow: /*.gif$", "/x/y.gif?z", True),
        ("User-agent: *\nDisallow: /\n\nUser-agent: Curate-LVD\nAllow: /", "/a", True),
        ("User-agent: *\nAllow: /\n\nUser-agent: curate-lvd/2.0\nDisallow: /", "/a", False),
        ("User-agent: curate-lvd-images\nDisallow: /", "/a", True),
        ("User-agent: other\nUser-agent: curate-lvd\nDisallow: /", "/a", False),
        ("User-agent: curate-lvd\nDisallow: /a\nUser-agent: x\nDisallow: /b\nUser-agent: curate-lvd\nDisallow: /c",
         "/c", False),
        ("User-agent: curate-lvd\nCrawl-delay: 5\nDisallow: /a\n", "/a", False),
        ("# comment\nUser-agent: * # all\nDisallow: /a # this", "/a", False),
        ("\ufeffUser-agent: *\r\nDisallow: /a\r\n", "/a", False),
        ("Disallow: /", "/a", True),
        ("User-agent: *\nDisallow: /", "/robots.txt", True),
        ("User-agent: *\nDisallow: /caf%C3%A9", "/caf%c3%a9", False),
        ("<html>404</html>", "/a", True),
    ],
)  # fmt: skip
def test_robots_txt_by_rfc_9309(robots: str, path: str, allowed: bool) -> None:
    assert parse_robots(robots.encode(), "curate-lvd").allows(path) is allowed


@given(st.binary(max_size=500))
def test_no_bytes_break_robots_txt_or_tdmrep(noise: bytes) -> None:
    parse_robots(b"User-agent: *\nDisallow: /" + noise, "curate-lvd").allows("/a")
    parse_tdmrep(b'[{"location": "/"}, ' + noise).reserves("/a")


@pytest.mark.parametrize(
    ("values", "directive"),
    [
        ([], None),
        (["noai"], "noai"),
        (["index, follow", "NOIMAGEAI"], "noimageai"),
        (["googlebot: noai"], None),
        (["googlebot: noindex, noai"], None),
        (["googlebot: noindex, curate-lvd: noai"], "noai"),
        (["*: noai"], "noai"),
        (["unavailable_after: 25 Jun 2030, noai"], "noai"),
    ],
)
def test_x_robots_tag_speaks_to_all_or_to_us(values: list[str], directive: str | None) -> None:
    assert robots_tag_opt_out(values, "curate-lvd", NOAI) == directive


@pytest.mark.parametrize(
    ("tdmrep", "reserved"),
    [
        (b'[{"location": "/", "tdm-reservation": 1}]', True),
        (b'[{"location": "*", "tdm-reservation": 1}]', True),
        (b'[{"location": "/", "tdm-reservation": 0}]', False),
        (b'[{"location": "/", "tdm-reservation": "1"}]', True),
        (b'[{"location": "/", "tdm-reservation": 1}, {"location": "/a/", "tdm-reservation": 0}]', False),
        (b'[{"location": "/a/", "tdm-reservation": 0}, {"location": "/a/", "tdm-reservation": 1}]', True),
        (b'[{"location": "/b", "tdm-reservation": 1}]', False),
        (b'{"location": "/", "tdm-reservation": 1}', False),
        (b"[1, null, {}]", False),
        (b"<html>", False),
        (b"[" * 100_000, False),
    ],
)
def test_tdmrep_json(tdmrep: bytes, reserved: bool) -> None:
    assert parse_tdmrep(tdmrep).reserves("/a/x.jpg") is reserved
