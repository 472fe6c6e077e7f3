"""Nothing that comes from the web can act on a page, whoever wrote it; what a page says is what its view holds."""

import base64
import hashlib
import html
import re
from collections.abc import Callable

import pytest

from tasks.inspection.charts import Chart, Curve, Panel, bars, nearest_place
from tasks.inspection.copy_pages import benchmark_page, copies_page
from tasks.inspection.html import Frame, PageLink, Shot, Thumbnail, slug, text
from tasks.inspection.index import index_page
from tasks.inspection.pages import Album, asked_for, banded, source_page
from tasks.inspection.style import SCRIPT, STYLE
from tasks.inspection.views import (
    BenchmarkView,
    ClusterSight,
    CopiesView,
    Group,
    Key,
    Member,
    Neighbour,
    Pair,
    Query,
    Rung,
    RunView,
    SourceView,
)
from tests.tasks.inspection_html import Read

HOSTILE = [
    "<script>alert(1)</script>",
    "'><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "javascript:alert(1)",
    "http://evil.test/a.jpg' onmouseover='alert(1)",
    "</title></style></script><script src=http://evil.test/x.js></script>",
    "{{7*7}} ${7*7} %s {0} {title}",
    "\u202egpj.exe\x00\x1b[31m",
    "&lt;b&gt; &#60;script&#62;",
]
PIXEL = "data:image/jpeg;base64,/9j/4AAQ"


class Hostile:
    """An album in which every id and address is the same hostile string."""

    def __init__(self, said: str) -> None:
        self.said = said

    def __getitem__(self, key: Key) -> Thumbnail:
        return Thumbnail(self.said, self.said, 8, 8, PIXEL if key.row % 3 else None, self.said)


def pages(said: str) -> dict[str, Callable[[Album], str]]:
    """One page of each kind whose every string is `said`."""
    curve = Chart(said, [Curve(said, [1.0, 2.0]), Curve(said, [0.5, float("nan")])])
    panel = Panel(said, "n", said, [1, 2], 1, [curve])
    pool, pair = Key("embedded", 1), Pair(Key("references 0", 3), Key("described", 4), 0.5, said)
    members = [Member(pool, 0.25), Member(Key("embedded", 2))]
    cluster = ClusterSight(7, 5, 9, True, [Key("queries", 5)], members, members, members)
    missing = ClusterSight(8, 1, 2, False, [Key("queries", 7)], members, members, members)
    query = Query(Key("queries", 1), 7, [Neighbour(pool, 0, 0.9, 2, [said]), Neighbour(pool, 1, 0.8)])
    row = {said: said, "images": 3}
    source = SourceView(said, 2, ["sample"], 1, 2, 3, [row], 2, [panel], [query], [cluster, missing])
    group = Group(3, pool, members, pair)
    rungs = [Rung(0.5, 0.55, 1, [pair])]
    copies = CopiesView(0.6, 0.45, 0.99, 9, 2, [panel], [pair], [pair], rungs, [(said, 3)], [group])
    benchmark = BenchmarkView(said, 0.45, 9, 3, 2, 1, [panel], [pair], [pair], [pair], rungs)
    link = PageLink("copies.html", said)
    frame = Frame(said, link, link)
    run = RunView(said, [(said, said, said)], copies, [benchmark], [source], [row])
    return {
        "source": lambda album: source_page(source, album, frame),
        "copies": lambda album: copies_page(copies, album, frame),
        "benchmark": lambda album: benchmark_page(benchmark, album, frame),
        "index": lambda album: index_page(run, link, [link], [link]),
    }


@pytest.mark.parametrize("said", HOSTILE)
@pytest.mark.parametrize("kind", ["source", "copies", "benchmark", "index"])
def test_hostile_text_stays_text(kind: str, said: str) -> None:
    read = Read(pages(said)[kind](Hostile(said)))
    assert read.scripts == [SCRIPT]
    assert read.styles == [STYLE]
    assert {tag for tag, _ in read.tags} <= {
        *("html", "meta", "title", "style", "script", "nav", "main", "section", "div", "p", "h1", "h2", "h3", "small"),
        *("a", "b", "span", "code", "details", "summary", "ol", "li", "table", "thead", "tbody", "tr", "th", "td"),
        *("figure", "figcaption", "img", "label", "input", "output"),
        *("svg", "path", "line", "text", "polyline", "circle", "rect"),
    }
    for tag, attributes in read.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcset", "action")]
        assert attributes.get("src", PIXEL) == PIXEL, tag
        assert attributes.get("href", "copies.html") in ("copies.html", "index.html"), tag


def test_hostile_text_can_still_be_read() -> None:
    said = "<b>'quoted' & \"told\"</b>"
    read = Read(pages(said)["source"](Hostile(said)))
    assert said in "".join(read.text)
    assert any(said in attributes.get("alt", "") for attributes in read.all("img"))


def test_the_policy_names_the_style_and_the_script_that_stand_in_the_page() -> None:
    read = Read(pages("x")["source"](Hostile("x")))
    policy = next(meta["content"] for meta in read.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    said = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    for name, content in (("style-src", read.styles[0]), ("script-src", read.scripts[0])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert said[name] == f"'sha256-{digest}'"
    assert said["default-src"] == "'none'"
    assert said["img-src"] == "data:"


def test_a_picture_that_is_no_jpeg_data_is_refused() -> None:
    class Wrong:
        def __getitem__(self, key: Key) -> Thumbnail:
            return Thumbnail("1", "x", 8, 8, "http://evil.test/x.jpg")

    with pytest.raises(ValueError, match="JPEG's data URI"):
        pages("x")["source"](Wrong())


@pytest.mark.parametrize("kind", ["source", "copies", "benchmark"])
def test_a_page_asks_for_exactly_the_pictures_that_it_shows(kind: str) -> None:
    make = pages("x")[kind]
    asked = asked_for(make)

    class Numbered:
        def __getitem__(self, key: Key) -> Thumbnail:
            return Thumbnail("", f"image {asked.index(key)}", 8, 8, PIXEL)

    shown = [int(image["title"].removeprefix("image ")) for image in Read(make(Numbered())).all("img")]
    assert sorted(shown) == sorted(asked.index(key) for key in asked)


def test_every_picture_has_an_alt_text_that_says_what_it_is() -> None:
    for make in pages("http://a.test/b.jpg").values():
        images = Read(make(Hostile("http://a.test/b.jpg"))).all("img")
        assert all(re.fullmatch(r"[a-z].*: http://a\.test/b\.jpg", image["alt"]) for image in images)


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 32, 1000])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 32])
def test_bands_hold_every_image_once_and_one_ends_where_the_run_cuts(cut: int, count: int) -> None:
    shots = [Shot(Thumbnail(str(place), "", 1, 1, None), "") for place in range(count)]
    bands = banded(shots, cut=cut, name="N")
    assert [shot for band in bands for shot in band.shots] == shots
    ends = [sum(len(band.shots) for band in bands[: place + 1]) for place in range(len(bands))]
    assert cut in ends or cut > count
    assert all(end in (1, 2, 4, 8, 16, 32, 64, cut, count) for end in ends)


def test_the_table_below_a_chart_holds_its_numbers_and_marks_the_runs_own() -> None:
    page = pages("x")["source"](Hostile("x"))
    assert "<tr class=now data-x='1'><td class=n>1</td><td class=n>1</td><td class=n>0.500</td></tr>" in page
    assert "<tr data-x='2'><td class=n>2</td><td class=n>2</td><td class=n></td></tr>" in page


def test_a_value_between_the_numbers_of_a_panel_is_marked_at_the_nearest() -> None:
    assert [nearest_place([0.45, 0.5, 0.6], value) for value in (0.1, 0.5, 0.54, 0.56, 2.0)] == [0, 1, 1, 2, 2]


def test_bars_say_every_count() -> None:
    read = Read(bars("Sizes", ["1", "2–4"], [1000, 0]))
    assert "".join(read.text) == "Sizes11,0002–40"


@pytest.mark.parametrize("name", ["Birds of Paradise!", "../../etc/passwd", "<x>", "", "ÄÖ", "a" * 300])
def test_a_file_name_is_letters_digits_and_hyphens(name: str) -> None:
    made = slug(name)
    assert made
    assert len(made) <= 40
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_long_text_is_cut_before_it_is_escaped() -> None:
    assert text("<" * 400, 10) == html.escape("<" * 9 + "…")
