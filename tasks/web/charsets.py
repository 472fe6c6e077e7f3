"""Bytes of a page → text as a browser reads it: BOM, HTTP header, <meta>, then UTF-8, else windows-1252."""

import re
from typing import NamedTuple

_META_BYTES = 1024
_DECLARED = re.compile(rb"<meta[^>]+charset", re.I)
_LABEL = re.compile(rb"charset(?:\s*=\s*[\"']?([\w.:-]+)[\"'\s;/>])?", re.I)
_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xfe\xff", b"\xff\xfe")

# Labels of the Encoding Standard → Python codecs. A closed table: a label comes from a stranger, and Python's registry
# also holds codecs that are no charsets (punycode, unicode_escape, utf-7).
_CODECS: dict[str, str] = {
    **dict.fromkeys(("utf-8", "utf8", "unicode-1-1-utf-8"), "utf-8"),
    **dict.fromkeys(("utf-16", "utf-16le", "unicode"), "utf-16-le"),
    "utf-16be": "utf-16-be",
    **dict.fromkeys(
        ("iso-8859-1", "latin1", "l1", "ascii", "us-ascii", "windows-1252", "cp1252", "x-cp1252"), "cp1252"
    ),
    **dict.fromkeys(("iso-8859-9", "latin5", "windows-1254", "cp1254"), "cp1254"),
    **{f"iso-8859-{n}": f"iso8859_{n}" for n in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)},
    **{f"{prefix}125{n}": f"cp125{n}" for n in (0, 1, 3, 5, 6, 7, 8) for prefix in ("windows-", "cp", "x-cp")},
    **dict.fromkeys(("tis-620", "iso-8859-11", "windows-874"), "cp874"),
    **dict.fromkeys(("koi8-r", "koi8", "koi"), "koi8_r"),
    **dict.fromkeys(("koi8-u", "koi8-ru"), "koi8_u"),
    **dict.fromkeys(("macintosh", "mac", "x-mac-roman"), "mac_roman"),
    "x-mac-cyrillic": "mac_cyrillic",
    **dict.fromkeys(("ibm866", "cp866", "866"), "cp866"),
    **dict.fromkeys(("gb2312", "gbk", "gb_2312-80", "chinese", "x-gbk", "gb18030"), "gb18030"),
    **dict.fromkeys(("big5", "big5-hkscs", "cn-big5", "x-x-big5"), "big5hkscs"),
    **dict.fromkeys(("euc-jp", "x-euc-jp"), "euc_jp"),
    "iso-2022-jp": "iso2022_jp",
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis", "x-sjis", "windows-31j", "ms_kanji"), "cp932"),
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987", "korean", "windows-949", "ksc5601"), "cp949"),
}
_NOT_LIKE_ASCII = (None, "utf-16-le", "utf-16-be", "iso2022_jp")


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
