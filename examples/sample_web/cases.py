"""The planted cases that are about one URL: what is served, how it is answered, and where it must end.

Copies, benchmarks' copies and ways of naming an image in a page are planned in `copies.py` and `figures.py`.
"""

from dataclasses import dataclass
from typing import Literal

from examples.sample_web.hosts import (
    BLOCKED_DOMAINS,
    BUSY,
    CLOSED,
    FLAKY,
    IDN_HOST,
    IDN_SUBDOMAIN,
    OPTED_OUT_DOMAINS,
    RESERVED,
    SLOW,
)

Manner = Literal["plain", "chunked", "short", "drip", "endless", "fail_first", "redirect", "close"]
KEPT = ("kept",)


@dataclass(frozen=True)
class Answer:
    """How the server answers for a URL.

    chunked: without a length. short: 5,000 bytes fewer than Content-Length says. drip: one byte a second. endless: no
    end, with or without a (huge) length. fail_first: every odd request since the server started gets `status`, every
    even one 200 and the body; so a retry succeeds, also after a run was killed or beside a second run. close: the
    connection is closed without a word.
    """

    manner: Manner = "plain"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


PLAIN = Answer()


@dataclass(frozen=True)
class Special:
    """A case of `full` URLs in a web of 2,000 images and never fewer than `few`.

    `answers` and `sizes` are taken in turn. Without a host, hosts with pages are taken in turn.
    """

    case: str
    full: int
    few: int
    allowed: tuple[str, ...]
    encoding: str = "jpeg"
    blank: bool = False
    sizes: tuple[tuple[int, int], ...] = ()
    hosts: tuple[str, ...] = ()
    folder: str = ""
    answers: tuple[Answer, ...] = (PLAIN,)


def _redirects(*locations: str) -> tuple[Answer, ...]:
    return tuple(Answer("redirect", 302, (("Location", location),)) for location in locations)


_RETRY_SOON, _RETRY_TOMORROW = (("Retry-After", "1"),), (("Retry-After", "86400"),)
_SERVED = (
    Special("animated_gif", 4, 1, KEPT, "animated_gif"),
    Special("cmyk_jpeg", 4, 1, KEPT, "cmyk_jpeg"),
    Special("gray_jpeg", 4, 1, KEPT, "gray_jpeg"),
    Special("exif_rotated", 6, 1, KEPT, "exif_jpeg"),
    Special("palette_png", 5, 1, KEPT, "palette_png"),
    Special("png16", 4, 2, KEPT, "png16"),
    Special("png", 12, 1, KEPT, "png"),
    Special("webp", 30, 2, KEPT, "webp"),
    Special("avif", 10, 1, KEPT, "avif"),
    Special("bmp", 1, 1, KEPT, "bmp"),
    Special("tiff", 1, 1, KEPT, "tiff"),
    Special("truncated_jpeg", 5, 1, ("download:truncated", "download:undecodable"), "truncated_jpeg"),
    Special("html_as_jpeg", 4, 1, ("download:not_an_image",), "html"),
    Special("garbage", 2, 1, ("download:not_an_image",), "garbage"),
    Special("empty_body", 3, 1, ("download:empty_body",), "empty"),
    Special("svg", 4, 1, ("download:unsupported_format",), "svg"),
    Special("huge_png", 2, 1, ("download:too_many_pixels",), "bomb_png"),
    Special("too_small", 8, 2, ("screen:too_small",), sizes=((16, 16), (40, 30), (24, 40))),
    Special("extreme_aspect", 5, 2, ("screen:extreme_aspect",), sizes=((1280, 128), (128, 1200))),
    Special("near_blank", 6, 2, ("screen:near_blank",), "png", blank=True, sizes=((300, 200), (256, 256))),
    Special("non_ascii_host", 10, 2, KEPT, hosts=(IDN_HOST, IDN_SUBDOMAIN), folder="снимки"),
    Special("non_ascii_path", 6, 1, KEPT, folder="fotos/größe äußerst schön"),
)
_ANSWERED = (
    Special("http_404", 8, 1, ("download:http_404",), "html", hosts=(FLAKY,), answers=(Answer(status=404),)),
    Special("http_410", 3, 1, ("download:http_410",), "html", hosts=(FLAKY,), answers=(Answer(status=410),)),
    Special("http_500", 2, 1, ("download:http_500",), "html", hosts=(FLAKY,), answers=(Answer(status=500),)),
    Special("500_then_200", 4, 1, KEPT, hosts=(FLAKY,), answers=(Answer("fail_first", 500),)),
    Special("429_then_200", 3, 1, KEPT, hosts=(FLAKY,), answers=(Answer("fail_first", 429, _RETRY_SOON),)),
    Special(
        "rate_limited",
        1,
        1,
        ("download:rate_limited",),
        "html",
        hosts=(BUSY,),
        answers=(Answer(status=429, headers=_RETRY_TOMORROW),),
    ),
    Special("wrong_length", 3, 1, ("download:truncated",), hosts=(FLAKY,), answers=(Answer("short"),)),
    Special("connection_closed", 1, 1, ("download:connection",), hosts=(FLAKY,), answers=(Answer("close"),)),
    Special("drip", 2, 1, ("download:timeout",), hosts=(SLOW,), answers=(Answer("drip"),)),
    Special(
        "endless",
        2,
        2,
        ("download:too_large",),
        hosts=(SLOW,),
        answers=(Answer("endless"), Answer("endless", headers=(("Content-Length", "1000000000000"),))),
    ),
    Special(
        "redirect_to_private",
        2,
        2,
        ("download:private_address",),
        "empty",
        answers=_redirects("http://10.0.0.1/router.jpg", "http://169.254.169.254/latest/meta-data/photo.jpg"),
    ),
    Special("redirect_loop", 2, 1, ("download:redirect_loop",), "empty", answers=_redirects("self", "pair")),
    Special("redirect_to_file", 1, 1, ("download:bad_redirect",), "empty", answers=_redirects("file:///etc/passwd")),
    Special("redirected", 5, 2, KEPT, answers=_redirects("moved")),
    Special("robots_disallow", 4, 1, ("download:robots_txt",), hosts=(CLOSED,), folder="private"),
    Special("robots_allow", 4, 1, KEPT, hosts=(CLOSED,), folder="open"),
    Special(
        "noai",
        4,
        2,
        ("download:noai",),
        answers=(
            Answer(headers=(("X-Robots-Tag", "noai"),)),
            Answer(headers=(("X-Robots-Tag", "noindex, noimageai"),)),
        ),
    ),
    Special("tdm_header", 2, 1, ("download:tdm_reserved",), answers=(Answer(headers=(("tdm-reservation", "1"),)),)),
    Special("tdm_header_zero", 1, 1, KEPT, answers=(Answer(headers=(("tdm-reservation", "0"),)),)),
    Special("tdm_well_known", 3, 1, ("download:tdm_reserved",), hosts=(RESERVED,), folder="reserved"),
    Special("tdm_not_reserved", 3, 1, KEPT, hosts=(RESERVED,), folder="free"),
    Special("blocked_domain", 6, 1, ("url_policy:blocked_domain",), hosts=BLOCKED_DOMAINS, folder="banner"),
    Special("opted_out", 2, 1, ("url_policy:opted_out",), hosts=OPTED_OUT_DOMAINS),
)

SPECIALS: tuple[Special, ...] = _SERVED + _ANSWERED

_GIF = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
NEVER_FETCHED: tuple[tuple[str, str, str], ...] = (
    ("data_url", _GIF, "url_policy:scheme"),
    ("data_url", "data:image/svg+xml,%3Csvg/%3E", "url_policy:scheme"),
    ("data_url", "data:image/png;base64," + "iVBORw0KGgoA" * 300, "url_policy:scheme"),
    ("file_url", "file:///etc/hostname.jpg", "url_policy:scheme"),
    ("file_url", "file:///C:/Users/me/Pictures/beach.jpg", "url_policy:scheme"),
    ("javascript_url", "javascript:void(0)", "url_policy:scheme"),
    ("javascript_url", "javascript:showPicture('beach.jpg')", "url_policy:scheme"),
    ("ftp_url", "ftp://photos.sample.test/beach.jpg", "url_policy:scheme"),
    ("malformed_url", "http://", "url_policy:malformed"),
    ("malformed_url", "http://[photos.sample.test/beach.jpg", "url_policy:malformed"),
    ("too_long_url", "http://photos.sample.test/resize?signature=" + "0123456789abcdef" * 200, "url_policy:too_long"),
    ("odd_port", "http://photos.sample.test:8081/beach.jpg", "url_policy:port"),
    ("odd_port", "http://gallery.sample.test:22/beach.jpg", "url_policy:port"),
    ("private_host", "http://192.168.0.10/x.jpg", "url_policy:private_host"),
    ("private_host", "http://[::1]/x.jpg", "url_policy:private_host"),
    ("private_host", "http://127.0.0.1/camera.jpg", "url_policy:private_host"),
    ("private_host", "http://localhost/x.jpg", "url_policy:private_host"),
    ("private_host", "http://169.254.169.254/latest/meta-data/x.jpg", "url_policy:private_host"),
)
"""(case, URL as pages write it, outcome) of URLs that a run must never open a connection for."""
