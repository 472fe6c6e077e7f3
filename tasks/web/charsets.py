"""Bytes of a page → text as a browser reads it: BOM, HTTP header, <meta>, then UTF-8, else windows-1252."""

import re
from typing import NamedTuple

from webencodings.labels import LABELS

_META_BYTES = 1024
_DECLARED = re.compile(rb"<meta[^>]+charset", re.I)
_LABEL = re.compile(rb"charset(?:\s*=\s*[\"']?([\w.:-]+)[\"'\s;/>])?", re.I)
_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xfe\xff", b"\xff\xfe")

# Encodings of the Encoding Standard → Python codecs that read what browsers read by that name (gb18030 for gbk, as
# Windows' supersets for what Asian pages declare). A closed table: a label comes from a stranger, and Python's registry
# also holds codecs that are no charsets (punycode, unicode_escape, utf-7).
_CODEC_OF_ENCODING: dict[str, str] = {
    **{
        name: name for name in ("utf-8", "utf-16le", "utf-16be", "gb18030", "iso-2022-jp", "euc-jp", "koi8-r", "koi8-u")
    },
    **{f"windows-125{n}": f"cp125{n}" for n in range(9)},
    **{f"iso-8859-{n}": f"iso8859_{n}" for n in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)},
    "iso-8859-8-i": "iso8859_8",
    "windows-874": "cp874",
    "ibm866": "cp866",
    "macintosh": "mac_roman",
    "x-mac-cyrillic": "mac_cyrillic",
    "gbk": "gb18030",
    "big5": "big5hkscs",
    "shift_jis": "cp932",
    "euc-kr": "cp949",
}
# What the standard has added since the library's table was made.
_LATER_LABELS: dict[str, str] = {
    **dict.fromkeys(("unicode11utf8", "unicode20utf8", "x-unicode20utf8"), "utf-8"),
    **dict.fromkeys(("csunicode", "iso-10646-ucs-2", "ucs-2", "unicode", "unicodefeff"), "utf-16le"),
    "unicodefffe": "utf-16be",
    "koi8-ru": "koi8-u",
}
_CODECS = {
    label: _CODEC_OF_ENCODING[encoding]
    for label, encoding in (LABELS | _LATER_LABELS).items()
    if encoding in _CODEC_OF_ENCODING  # not those that a browser reads as one sign of replacement
}
_NOT_LIKE_ASCII = (None, "utf-16le", "utf-16be", "iso-2022-jp")


class PageText(NamedTuple):
    """A page for the parser: UTF-8, or (`sniff`) bytes like ASCII whose <meta> lexbor reads by these rules."""

    content: bytes
    sniff: bool = False


def page_text(body: bytes, http_charset: str | None) -> PageText:
    """The page in an encoding that the parser reads, without copying what is UTF-8. Undecodable bytes become U+FFFD."""
    if body.startswith(_UTF16_BOMS):
        return _decoded(body, "utf-16")
    if body.startswith(_UTF8_BOM):
        return PageText(body[len(_UTF8_BOM) :])
    codec = _CODECS.get(http_charset.strip(" \t\"'").lower()) if http_charset else None
    if codec == "utf-8":
        return PageText(body)
    if codec is not None:
        return _decoded(body, codec)
    if _DECLARED.search(body, 0, _META_BYTES):
        return PageText(body, sniff=not _is_utf8(body))
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return _decoded(body, "cp1252")
    return PageText(body)


def _is_utf8(body: bytes) -> bool:
    """Whether bytes are UTF-8 by whichever of their declarations: all say so, or all bytes are ASCII in any of them."""
    labels = {label.decode("ascii", "replace").lower() for label in _LABEL.findall(body, 0, _META_BYTES)}
    codecs = {_CODECS.get(label) for label in labels}
    return codecs == {"utf-8"} or (codecs.isdisjoint(_NOT_LIKE_ASCII) and body.isascii())


def _decoded(body: bytes, codec: str) -> PageText:
    return PageText(body.decode(codec, "replace").encode("utf-8", "replace"))
