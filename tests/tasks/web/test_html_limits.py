"""No page costs its square: what would is read in pieces, and cut where that is still too much."""

import pytest

from tasks.web import html_images
from tasks.web.html_images import images_of_page
from tasks.web.html_limits import MAX_PIECES, MAX_TAGS, MIN_TAGS, pieces
from tasks.web.urls import MAX_STORED_CHARS, Base

IMAGE = b"<img src=a.jpg>"
MANY = 40_000


def sizes(page: bytes) -> list[int]:
    return [piece.count(b"<") for piece in pieces(page)]


@pytest.mark.parametrize(
    "page",
    [
        IMAGE + b"<p>text</p>" * 1000,
        b"<li>" * 20_000 + IMAGE,
        b"<code>x</code><b class=x>y</b>" * 8000 + IMAGE,
        b"<img src='data:image/png;base64," + b"a/b+" * 50_000 + b"'>" + IMAGE,
        b"<script>" + b"a b " * 50_000 + b"</script>" + IMAGE,
        b"text " * 50_000 + IMAGE,
    ],
)
def test_what_people_write_is_one_piece(page: bytes) -> None:
    assert list(pieces(page)) == [page]


@pytest.mark.parametrize("opened", [b"<div>", b"<ul><li>", b"<noscript>", b"<font color=red>", b"<img a< b<"])
def test_many_tags_are_read_in_pieces_that_are_together_the_page(opened: bytes) -> None:
    page = opened * MANY + IMAGE
    parts = list(pieces(page))
    assert b"".join(parts) == page
    assert max(part.count(b"<") for part in parts) <= MAX_TAGS


@pytest.mark.parametrize("tag", ["<b a{}>", "<FONT id='x{}'>", "<strong \"a='x> ' {}>", "<i/{}>"])
def test_formatting_elements_of_many_kinds_are_kept_from_being_built_anew_in_every_block(tag: str) -> None:
    page = b"<p>" + b"".join(tag.format(number).encode() for number in range(5000)) + b"</p>" + b"<p>x" * 10_000
    assert max(sizes(page)[:2]) == MIN_TAGS


def test_pages_have_an_end() -> None:
    assert len(sizes(b"<div>" * MAX_TAGS * (MAX_PIECES + 1))) == MAX_PIECES


@pytest.mark.parametrize("tag", [b"<img %b>", b"</p %b>", b'<img " %b">', b"<img a='x'%b>"])
def test_a_page_ends_before_a_tag_with_thousands_of_attributes(tag: bytes) -> None:
    attributes = b" ".join(b"a%d=x" % number for number in range(MANY))
    page = b"<img src=before.jpg>" + tag % attributes + b"<img src=after.jpg>"
    found = images_of_page(page)
    assert [image.url for image in found.images] == ["before.jpg"]
    assert not found.whole


def test_images_are_found_in_every_piece_and_the_first_base_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.web.html_limits.MAX_TAGS", MIN_TAGS)
    monkeypatch.setattr(html_images, "_shrunk", lambda page: None)
    page = b"<base href=/first/>" + (b"<p>" * MIN_TAGS + IMAGE + b"<base href=/other/>") * 3
    found = images_of_page(page)
    assert (found.base, len(found.images), found.whole) == ("/first/", 3, True)


def test_nested_noscripts_and_pictures_are_visited_once(monkeypatch: pytest.MonkeyPatch) -> None:
    visited = 0
    visit = html_images._visit_image

    def noted(*arguments: object) -> None:
        nonlocal visited
        visited += 1
        visit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(html_images, "_visit_image", noted)
    assert len(images_of_page(b"<body>" + b"<noscript>" * 2000 + IMAGE).images) == 1
    assert len(images_of_page(b"<picture><source srcset=a>" * 2000 + IMAGE + b"</picture>").images) == 2001
    assert visited == 2002


def test_a_giant_base_is_not_joined_with_every_image() -> None:
    base = Base("https://a.example/" + "x/" * MAX_STORED_CHARS)
    assert base.url == "https://a.example/"
    assert [base.join(raw) for raw in ("a.jpg", "../a.jpg", "/a.jpg", "//b.example/a.jpg", "http://c.example/a")] == [
        None, None, "https://a.example/a.jpg", "https://b.example/a.jpg", "http://c.example/a",
    ]  # fmt: skip
