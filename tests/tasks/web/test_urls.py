"""One URL has one name: what browsers would request alike is stored alike, and nothing else is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.web.urls import (
    MAX_STORED_CHARS,
    Base,
    ascii_domain,
    canonical_url,
    name_url,
    registered_domain,
    split_url,
    url_id,
)

PAGE = "https://www.example/dir/page.html?q=1"


@pytest.mark.parametrize(
    ("raw", "canonical"),
    [
        ("a.jpg", "https://www.example/dir/a.jpg"),
        ("/a.jpg", "https://www.example/a.jpg"),
        ("../../a.jpg", "https://www.example/a.jpg"),
        ("?x=1", "https://www.example/dir/page.html?x=1"),
        ("//cdn.example/a.jpg", "https://cdn.example/a.jpg"),
        ("HTTP://CDN.Example:80/A.jpg", "http://cdn.example/A.jpg"),
        ("https://cdn.example:443/a.jpg", "https://cdn.example/a.jpg"),
        ("https://cdn.example:8443/a.jpg", "https://cdn.example:8443/a.jpg"),
        ("https://cdn.example/a.jpg#part", "https://cdn.example/a.jpg"),
        ("https://user:secret@cdn.example/a.jpg", "https://cdn.example/a.jpg"),
        ("https://good.example@evil.example/a.jpg", "https://evil.example/a.jpg"),
        ("https:\\\\cdn.example\\a.jpg", "https://cdn.example/a.jpg"),
        (" \n a.jpg \t", "https://www.example/dir/a.jpg"),
        ("a\n.j\tpg", "https://www.example/dir/a.jpg"),
        ("bü ber.jpg", "https://www.example/dir/b%C3%BC%20ber.jpg"),
        ("a%20b.jpg", "https://www.example/dir/a%20b.jpg"),
        ("http://bücher.example/a.jpg", "http://xn--bcher-kva.example/a.jpg"),
        ("http://BÜCHER.example/a.jpg", "http://xn--bcher-kva.example/a.jpg"),
        ("http://0x7f.1/a.jpg", "http://127.0.0.1/a.jpg"),
        ("http://[::FFFF:127.0.0.1]/", "http://[::ffff:7f00:1]/"),
        ("http://a b/", None),
        ("http://", None),
        ("http://a.example:99999/", None),
        ("http://[::1/", None),
        ("\ud800", None),
        ("javascript:alert(1)", "javascript:alert(1)"),
        ("file:///etc/passwd", "file:///etc/passwd"),
    ],
)
def test_canonical_form_is_what_a_browser_would_request(raw: str, canonical: str | None) -> None:
    assert canonical_url(raw, PAGE) == canonical


@given(st.text(max_size=60))
def test_canonical_form_is_its_own_canonical_form(raw: str) -> None:
    url = canonical_url(raw, PAGE)
    if url is not None:
        assert canonical_url(url) == url
        assert name_url(raw, PAGE).id == name_url(url).id == url_id(url)


@given(st.text(max_size=60))
def test_every_canonical_http_url_can_be_cut_into_parts(raw: str) -> None:
    url = canonical_url(f"http://host.example/{raw}")
    if url is not None:
        parts = split_url(url)
        assert parts.origin + parts.target == url
        assert parts.host == "host.example"


def test_a_relative_url_without_page_has_no_name_but_keeps_its_text() -> None:
    name = name_url("a.jpg", None)
    assert (name.url, name.raw) == (None, "a.jpg")


def test_long_and_data_urls_are_cut_but_still_differ() -> None:
    one, other = (name_url(f"data:image/png;base64,{'A' * 5000}{end}") for end in "BC")
    assert one.id != other.id
    assert one.url is not None
    assert one.url.startswith("data:image/png;base64,AAA")
    assert len(one.url) < 200
    long = name_url(f"https://a.example/{'x' * 10_000}")
    assert long.url is not None
    assert MAX_STORED_CHARS < len(long.url) < MAX_STORED_CHARS + 100


def test_the_raw_form_is_kept_only_where_it_differs() -> None:
    assert name_url("https://a.example/x.jpg").raw is None
    assert name_url("x.jpg", "https://a.example/").raw == "x.jpg"


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("img.shop.example", "shop.example"),
        ("a.b.shop.co.uk", "shop.co.uk"),
        ("someone.github.io", "someone.github.io"),
        ("d1.cloudfront.net", "d1.cloudfront.net"),
        ("93.184.216.34", "93.184.216.34"),
        ("[2606:4700::1]", "[2606:4700::1]"),
        ("localhost", "localhost"),
    ],
)
def test_the_registered_domain_is_what_one_owner_holds(host: str, domain: str) -> None:
    assert registered_domain(host) == domain


def test_domains_of_lists_are_written_as_hosts_are() -> None:
    assert ascii_domain(" *.BÜCHER.Example. ") == "xn--bcher-kva.example"


references = st.text(alphabet="aZ0.-_~/:?#%=&@\\ \t'é", max_size=12) | st.lists(
    st.sampled_from(["../", "./", "a/", "b.c", "..", "?d", "/"]), max_size=6
).map("".join)
bases = st.sampled_from(
    [
        "https://www.example.com/dir/page.html?q=1/2", "http://a.b-c.example.org/", "https://x.example.com/a/b?x=/y",
        "HTTP://X.example.com/a", "https://1.2.3.4/", "https://a.1x/x", "https://a_b.example/x", "https://a.com:8080/x",
        "https://xn--bcher-kva.example/a", "https://ab--c.example/x/y", "data:text/html,x", None,
    ]
)  # fmt: skip


@settings(max_examples=1000)
@given(bases, st.sampled_from(["", "", "https://", "http://h.example.org/", "//"]), references)
def test_joining_what_is_plain_by_hand_gives_what_the_standards_parser_gives(
    base: str | None, start: str, rest: str
) -> None:
    assert Base(base).join(start + rest) == canonical_url(start + rest, base)


def test_plain_references_do_without_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    base = Base("https://www.example.com/dir/page.html")
    monkeypatch.setattr("tasks.web.urls.canonical_url", lambda raw, base: "parsed")
    assert base.join("images/a.png") == "https://www.example.com/dir/images/a.png"
    assert base.join("../../../a.png") == "https://www.example.com/a.png"
    assert base.join("/a.png?x=1") == "https://www.example.com/a.png?x=1"
    assert base.join("https://cdn.example.com/a.png") == "https://cdn.example.com/a.png"
    assert [base.join(raw) for raw in ("./a", "//a.example.com/b", "a b", "HTTPS://x.example.com/")] == ["parsed"] * 4
