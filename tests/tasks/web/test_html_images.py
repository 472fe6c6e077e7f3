"""Every way a page names an image is found, and nothing that is no image."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from tasks.web.charsets import _CODECS, _NOT_LIKE_ASCII, PageText, page_text
from tasks.web.html_images import FoundImage, images_of_page
from tasks.web.srcset import Candidate, largest, parse_srcset

ASCII = "".join(map(chr, range(0x20, 0x7F))).translate(str.maketrans("", "", "'&"))


def found(html: str, **options: object) -> list[tuple[str, str]]:
    page = images_of_page(html.encode(), None, **options)  # type: ignore[arg-type]
    return [(image.how, image.url) for image in page.images]


@pytest.mark.parametrize(
    ("html", "images"),
    [
        ("<img src=a.jpg>", [("img@src", "a.jpg")]),
        ("<IMG SRC='a.jpg'/>", [("img@src", "a.jpg")]),
        ("<image src=a.jpg>", [("img@src", "a.jpg")]),
        ('<img src="a.jpg?x=1&amp;y=2">', [("img@src", "a.jpg?x=1&y=2")]),
        ("<img srcset='a.jpg 1x, b.jpg 2x'>", [("img@srcset", "b.jpg")]),
        ("<img src=s.jpg srcset='a.jpg 640w, b.jpg 320w'>", [("img@src", "s.jpg"), ("img@srcset", "a.jpg")]),
        ("<img data-src=a.jpg>", [("img@data-src", "a.jpg")]),
        ("<img data-original=a.jpg>", [("img@data-original", "a.jpg")]),
        ("<img data-lazy-src=a.jpg>", [("img@data-lazy-src", "a.jpg")]),
        ("<img data-srcset='a.jpg 1x, b.jpg 3x'>", [("img@data-srcset", "b.jpg")]),
        ("<p><noscript><img src=a.jpg></noscript>", [("noscript:img@src", "a.jpg")]),
        (
            "<head><noscript><img src=a.jpg></noscript>",
            [("img@src", "a.jpg")],
        ),  # it ends the head and stands in the body
        ("<meta property='og:image' content='a.jpg'>", [("meta@og:image", "a.jpg")]),
        ("<meta name='OG:image:secure_url' content='a.jpg'>", [("meta@og:image:secure_url", "a.jpg")]),
        ("<link rel='x IMAGE_SRC' href=a.jpg>", [("link@image_src", "a.jpg")]),
        (
            "<picture><source srcset='a.webp 1x, b.webp 2x' src=no><img src=c.jpg></picture>",
            [("source@srcset", "b.webp"), ("img@src", "c.jpg")],
        ),
        ("<video><source src=v.mp4 srcset=no.jpg></video><img src=a.jpg>", [("img@src", "a.jpg")]),
        ("<!-- <img src=a.jpg> --><textarea><img src=b.jpg></textarea>", []),
        ("<script>'<img src=a.jpg>'</script><template><img src=b.jpg></template>", []),
        ("<img src=''><img src='  '><img alt=x>", []),
        ("<p>no picture</p>", []),
        ("<table><img src=a.jpg><td><img src=b.jpg>", [("img@src", "a.jpg"), ("img@src", "b.jpg")]),
    ],
)
def test_each_way_of_naming_an_image(html: str, images: list[tuple[str, str]]) -> None:
    assert found(html) == images


def test_all_candidates_are_taken_when_asked() -> None:
    assert found("<img srcset='a 1x, b 2x'>", srcset="all") == [("img@srcset", "a"), ("img@srcset", "b")]


def test_only_the_ways_that_are_asked_for_count() -> None:
    html = (
        "<img src=a srcset='b 2x' data-src=c><noscript><img src=d></noscript><picture><source srcset=e></picture>"
        "<meta property=og:image content=f><link rel=image_src href=g>"
    )
    ways = {
        "img": "a", "srcset": "b", "lazy": "c", "noscript": "d", "picture": "e", "og_image": "f", "image_src": "g",
    }  # fmt: skip
    for way, url in ways.items():
        assert [image for _, image in found(html, ways=frozenset({way}))] == [url]


def test_alt_text_is_one_bounded_line_and_follows_into_the_picture() -> None:
    html = "<picture><source srcset=a><img src=b alt=' A &amp;\n  B '></picture><img src=c alt=''><img src=d alt='{}'>"
    images = images_of_page(html.format("x" * 5000).encode()).images
    assert [image.alt for image in images[:3]] == ["A & B", "A & B", None]
    assert len(images[3].alt or "") == 2048


def test_the_first_base_counts() -> None:
    assert images_of_page(b"<base target=x><base href=/a/><base href=/b/><img src=c>").base == "/a/"


@pytest.mark.parametrize(
    ("body", "charset", "alt"),
    [
        ("<img src=a alt='é'>".encode(), None, "é"),
        ("<img src=a alt='é'>".encode("latin-1"), None, "é"),
        ("<img src=a alt='Привет'>".encode("windows-1251"), "windows-1251", "Привет"),
        ("<meta charset=windows-1251><img src=a alt='Привет'>".encode("windows-1251"), None, "Привет"),
        ("<meta charset=windows-1251><img src=a alt='é'>".encode(), "utf-8", "é"),
        ("\ufeff<meta charset=windows-1251><img src=a alt='é'>".encode(), "koi8-r", "é"),
        ("<img src=a alt='日本'>".encode("shift_jis"), "Shift_JIS", "日本"),
        ("<img src=a alt='“'>".encode("cp1252"), "ISO-8859-1", "“"),
        ("\ufeff<img src=a alt='é'>".encode("utf-16-le"), None, "é"),
        ("<img src=a alt='é'>".encode("utf-16-be"), "UTF-16BE", "é"),
        ("<table><img src=a alt='é'>".encode("utf-16-le"), " utf-16 ", "é"),
        ("<table><img src=a alt='ž'>".encode("iso8859_2"), "latin2", "ž"),
        ("<img src=a alt='שלום'>".encode("iso8859_8"), "logical", "שלום"),
        ("<img src=a alt='한글'>".encode("cp949"), "ks_c_5601-1989", "한글"),
        (b"<img src=a alt='\\u00e9'>", "unicode_escape", "\\u00e9"),
        (b"<img src=a alt='+AOk-'>", "utf-7", "+AOk-"),
    ],
)
def test_text_is_read_as_a_browser_reads_it(body: bytes, charset: str | None, alt: str) -> None:
    assert images_of_page(body, charset).images == [FoundImage("a", "img@src", alt)]


LABELS = [label for label, codec in _CODECS.items() if codec not in _NOT_LIKE_ASCII]


@pytest.mark.parametrize("label", LABELS)
def test_in_ascii_all_charsets_that_hold_it_are_read_alike(label: str) -> None:
    body = f"<meta charset={label}><img src=a alt='{ASCII}'>".encode()
    assert page_text(body, None) == PageText(body)
    assert LexborHTMLParser(body, encoding=True).css("img")[0].attributes["alt"] == ASCII


@pytest.mark.parametrize(
    ("head", "is_sniffed"),
    [
        ("<meta charset=UTF8>", False),
        ("<meta http-equiv=content-type content='text/html; charset=utf-8'><script charset='utf-8'></script>", False),
        ("<!-- <meta charset=utf-8> --><meta charset=windows-1251>", True),
        ("<meta charset=utf-8><script charset=koi8-r></script>", True),
        ("<meta charset=utf-16>", True),
        ("<meta charset>", True),
        ("<meta charset=nonsense>", True),
        ("<script charset=koi8-r></script>", False),
    ],
)
def test_a_declaration_is_only_looked_for_by_the_parser_where_it_may_be_another_than_utf8(
    head: str, is_sniffed: bool
) -> None:
    body = f"{head}<img src=a alt='é'>".encode()
    assert page_text(body, None).sniff == is_sniffed


@given(st.binary(max_size=300), st.sampled_from([None, "utf-8", "shift_jis", "gbk", "iso-2022-jp", "nonsense"]))
def test_no_bytes_break_the_reading(noise: bytes, charset: str | None) -> None:
    images = images_of_page(b"<img src=a.jpg>" + noise, charset).images
    assert charset in ("iso-2022-jp",) or images[0].url == "a.jpg"


@pytest.mark.parametrize(
    ("srcset", "candidates"),
    [
        ("a.jpg", [Candidate("a.jpg", 0, 1.0)]),
        ("a.jpg, b.jpg 2x", [Candidate("a.jpg", 0, 1.0), Candidate("b.jpg", 0, 2.0)]),
        ("a.jpg 100w,b.jpg 50w", [Candidate("a.jpg", 100, 1.0), Candidate("b.jpg", 50, 1.0)]),
        ("a,b.jpg 2x", [Candidate("a,b.jpg", 0, 2.0)]),
        ("data:image/png;base64,AA== 2x", [Candidate("data:image/png;base64,AA==", 0, 2.0)]),
        (" ,, a.jpg ,", [Candidate("a.jpg", 0, 1.0)]),
        ("a.jpg 100w 50h", [Candidate("a.jpg", 100, 1.0)]),
        ("a.jpg 1.5x, b.jpg 1e1x", [Candidate("a.jpg", 0, 1.5), Candidate("b.jpg", 0, 10.0)]),
        ("a.jpg wide, b.jpg -1x, c.jpg 2y, d.jpg x", []),
        ("a.jpg (1x, 2x), b.jpg 3x", [Candidate("b.jpg", 0, 3.0)]),
        ("", []),
    ],
)
def test_srcset_is_parsed_as_the_standard_says(srcset: str, candidates: list[Candidate]) -> None:
    assert parse_srcset(srcset) == candidates


@given(st.text(alphabet="ab ,()12xw.\t", max_size=80))
def test_the_largest_is_one_of_the_candidates_and_none_is_larger(srcset: str) -> None:
    candidates = parse_srcset(srcset)
    best = largest(candidates)
    assert len(best) == bool(candidates)
    assert all((one.width, one.density) <= (best[0].width, best[0].density) for one in candidates)
