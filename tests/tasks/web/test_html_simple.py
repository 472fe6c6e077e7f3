"""A page shrunk to its image tags names what its whole tree names, whatever the page; or it is not shrunk."""

import re
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from tasks.web import html_images
from tasks.web.html_images import ALL_WAYS, ImageNames, PageImages
from tasks.web.html_limits import MAX_ATTRIBUTES, MAX_TAGS
from tasks.web.html_simple import shrunk


def read_tree(page: bytes) -> PageImages:
    """The slow truth: every way, every candidate of the whole tree."""
    names = ImageNames("all", frozenset(ALL_WAYS))
    base = html_images._read_nodes(LexborHTMLParser(page).css(html_images._SELECTOR), names)
    return PageImages(base if names.images else None, names.images)


def agrees(page: bytes) -> bool:
    """Whether a page is shrunk at all; then it must name the same."""
    tags = shrunk(page)
    if tags is not None:
        assert read_tree(tags) == read_tree(page)
    return tags is not None


def with_images(html: str) -> bytes:
    """`$a` is an image whose source is `a`."""
    return re.sub(r"\$(\w+)", r"<img src=\1>", html).encode()


@pytest.mark.parametrize(
    "html",
    [
        "<img alt='>' src=a><img title=\"$no\" src=b><a title='$no'>",
        "<img src=a src=b><img =src=no src=c><img a='b'src=d><img/src=e/><img src=/f/><img src = 'g' / alt>",
        "<IMG SRC=a><Image src=b><im\0g src=no><img src=c\0d><img\tsrc=e\r\n><img\fsrc=f><imgs src=no><img.x src=no>",
        "<img src='a?b&amp;c&copy=d&lt' alt='&eacute&notit;'>",
        "<!-- $no --><!-->$a--><!--->$b--><!---->$c<!-- --!>$d",
        "<!-- a <!-- b -->$a --><!-- --!- $no --><!--->--><!---!> $no -->",
        "<!doctype a '$no'>$a<!x $no$b<?x $no</ $no</><3<$c",
        "<script>'$no' </scriptx></script x='>'><script><!-- $no --></SCRIPT\n>$a<script/></script>",
        "<title>$no</titles></title/><textarea><b>$no</textarea><style>$no</style>$a",
        "<iframe>$no</iframe><noembed>$no</noembed><noframes>$no</noframes>$a",
        "<p><b><i><a href=x>x<p></b><div>$a</i></a><a><button>$b</button></p></div>$c",
        "<table><tr><td>$a<table><caption>$b</caption><td></table>$c</table>$d</table>",
        "<table><div>x<tr><th><b>$a</td><p></table>$b<td>$c</tr>",
        "<select><option>a<optgroup><option>b</select>$a</select>",
        "<head><link rel=image_src href=a><meta property=og:image content=b></head><meta name=og&#58;image content=c>",
        "<head><noscript><link rel=image_src href=a><style></style></noscript><title>x</title></head><body>$b",
        "<p><noscript>$a<br><iframe></iframe><!-- x --></noscript>$b</noscript>$c",
        "<p><picture><source srcset=a><source srcset=b><img src=c alt=x></picture><source srcset=no></picture>$d",
        "<body><noscript><picture><source srcset=a>$b</picture></noscript><video><source src=no></video>",
        "<svg><title>x</title><style>a{}</style><g><path d=x/><image href=no /></g><svg><rect/></svg></svg>$a",
        "<svg a/>$a<svg a=b />$b<svg viewBox='0'/>$c</svg>$d",
        "<base target=x><base href=/a/><base href=/b/>$c</html>$d</body>$e<html><body><head>",
    ],
)
def test_what_surrounds_an_image_counts_as_in_the_tree(html: str) -> None:
    page = with_images(html)
    assert agrees(page)
    assert not [image.url for image in read_tree(page).images if "no" in image.url]


@pytest.mark.parametrize(
    "html",
    [
        "<svg><foreignObject>$a</svg>",
        "<svg>$a<title>$b</svg>",
        "<svg><title><g></title>$a</svg>",
        "<svg><p></svg><title>$a</title>",
        "<svg a=b/>$a<title>$b</title>",
        "<svg><![CDATA[$no]]></svg>",
        "<g><svg></g>$a",
        "<math><mi>$a</math>",
        "<template>$no</template>",
        "<frameset>$no</frameset>",
        "<plaintext>$no",
        "<table>$a<td>$b</table>",
        "<table><td></td><noscript>$a</noscript></table>",
        "<table><td><th></td>$a</table>",
        "<select>$a</select>",
        "<select><textarea>$a</select>",
        "<head><noscript>$a</noscript>",
        "<p><noscript><div>$a</noscript>$b",
        "<p><noscript><p>$a</noscript>$b",
        "<div><noscript></div>$a</noscript>",
        "<picture><div><source srcset=no></div></picture>",
        "<a><picture></a><source srcset=a></picture>",
        "<script><!-- <script> </script>$no --></script>",
        "<!-- $no",
        "$a<b title='>$no",
        "<script>$no",
        f"<b {' '.join(f'a{number}' for number in range(MAX_ATTRIBUTES + 1))}>",
        "$a" * (MAX_TAGS + 1),
    ],
)
def test_where_a_tag_alone_does_not_tell_the_whole_page_is_read(html: str) -> None:
    assert shrunk(with_images(f"{html}$last")) is None


WRITTEN = """
<img_src=$> <IMG_src=$> <img/src=$> <image_src=$> <img_src="$>"> <img_src='$'/> <img_alt="<img_src=no>"_src=$>
<img_src=$\0> <im\0g_src=no> <img_src="$&amp;b&copy=1"> <p> </p> <div> </div> <b> </b> <a> </a> <nobr> </nobr>
<li> </ul> <button> </button> <form> </form> <option> </option> <select> </select> <input> <hr> <br> </br>
<object> </object> <font> </font> <video> <source_srcset=$> <textarea> </textarea> <title> </title> <style>
</style> <script> </script> </script/> <iframe> </iframe> <noembed> </noembed> <noframes> </noframes> <!-- -->
<!--> <!---> --!> <!x <?x > </> <3 <table> <table> </table> </table> <tr> </tr> <td> <td> </td> <th> </th>
<tbody> </thead> <caption> </caption> <col> <colgroup> <noscript> <noscript> </noscript> </noscript> <picture>
<picture> </picture> </picture> <html> <head> </head> <body> </body> </html> <base_href=$>
<link_rel=image_src_href=$> <link_rel=image&#95;src_href=$> <meta_property=og:image_content=$>
<META_name=OG:Image_content=$> <meta_property=og&colon;image_content=$> <link_rel=x> <basefont> <wbr> <svg>
<svg> </svg> </svg> <svg/> <svg_a=b/> <g> </g> <path_d=x/> </path> <use> <text> <math> </math> <template>
</template> <frameset> <plaintext> <![CDATA[ ]]> ' " = / x & <a_title=' <a_title=" <xmp> </xmp> <scriptx>
</title\n> <keygen> <embed>
"""
TAGS = [tag.replace("_", " ") for tag in WRITTEN.split()]
OFTEN = [tag for tag in TAGS if re.match("</?(im|source|pict|nos|td)|<meta p", tag)]
pieces = st.one_of(st.sampled_from(TAGS), st.sampled_from(OFTEN))
CLOSED = "--></script></style></title></textarea></iframe></noscript></picture></select></svg>"


def page_of(tags: list[str], end: str) -> bytes:
    return ("".join(tag.replace("$", f"i{number}") for number, tag in enumerate(tags)) + end).encode()


@settings(max_examples=200)
@given(st.lists(pieces, min_size=2, max_size=16), st.sampled_from(["", CLOSED]))
def test_a_shrunk_page_names_what_the_tree_names(tags: list[str], end: str) -> None:
    agrees(page_of(tags, end))


@pytest.mark.parametrize("seed", range(4))
def test_thousands_of_pages_of_a_few_kinds_of_tags_agree(seed: int) -> None:
    """Few kinds in one page meet more often than many: a third of these pages are shrunk and name images."""
    random = Random(seed)
    num_shrunk = 0
    for _ in range(3000):
        kinds = random.sample(TAGS, random.choice((3, 6, 12))) + random.choices(OFTEN, k=3)
        num_shrunk += agrees(
            page_of(random.choices(kinds, k=random.choice((4, 8, 16, 32))), random.choice(("", CLOSED)))
        )
    assert num_shrunk > 900


@given(st.text(alphabet="<>!-/'\"= \tisrcmgalt&;\0\r", max_size=200))
def test_bytes_of_any_kind_agree(noise: str) -> None:
    agrees(f"<img src=a>{noise}<img src=b>".encode())


PARTS = """<!-- <! </ < <b <a_ <a_b=' <script> <script><!--< </title <title></titl <svg> <td> <table> <noscript>
<picture> <b_a> <table><td> <img> & <meta_: - --! <select><option> <svg><title>"""


@pytest.mark.parametrize("part", [part.replace("_", " ") for part in PARTS.split()])
def test_no_page_costs_more_than_a_pass_over_it(part: str) -> None:
    """Four megabytes of it: what costs a square would take hours."""
    shrunk(("<!doctype html>" + part * (4_000_000 // len(part))).encode())
    shrunk((part * (4_000_000 // len(part)) + "<img src=a>").encode())
