"""The JSON of a WAT record without the links that name no image: nine of ten links, and most of a record's bytes."""

import re
from typing import Any

import orjson

IMAGE_PATHS = ("IMG@/", "SOURCE@/")
"""How the `path` of a link begins that stands for an attribute of <img> or <source>."""
_MARKS = tuple(f'"{path}'.encode() for path in IMAGE_PATHS)
_LINKS = re.compile(rb'"Links"\s*+:\s*+\[')
_ARRAY_END = re.compile(rb"\]\s*+[,}]")
_PATH_KEY = re.compile(rb'"path"\s*+:\s*+\Z')
_FLAT_OBJECT = re.compile(rb'\{(?:\s*+"[^"\\]*+(?:\\.[^"\\]*+)*+"\s*+[:,]?+)*+\s*+\}')  # of strings alone
_MAX_SPACE = 16  # bytes around a key that are looked at
_CUT = "urn:curate-lvd:links"


def parse_record(body: bytes) -> Any:
    """`orjson.loads(body)`, but that links in HTML-Metadata may be missing whose path is none of IMAGE_PATHS.

    The array of links is cut out of the text, the rest is parsed, and of the array only the objects with an image's
    path. What ends a cut too early (`],` in an alternative text) leaves a rest that is no JSON, for behind it a key
    stands without quotes; and that it was the right array shows in what stands in its place. Wherever something is
    not as expected, all of the record is parsed. A third of the time on documentation pages. Raises
    orjson.JSONDecodeError (a ValueError).
    """
    opened = _LINKS.search(body)
    closed = _ARRAY_END.search(body, opened.end()) if opened else None
    if opened is not None and closed is not None:
        start, end = opened.end(), closed.start()
        links = _image_objects(body, start, end)
        record = None if links is None else _with_links(b'%b"%b"%b' % (body[:start], _CUT.encode(), body[end:]), links)
        if record is not None:
            return record
    return orjson.loads(body)


def html_metadata(record: Any) -> dict[str, Any] | None:
    """HTML-Metadata of a parsed record, None when it is about no page. Raises KeyError, TypeError, AttributeError."""
    payload = record["Envelope"].get("Payload-Metadata") or {}
    html: dict[str, Any] | None = (payload.get("HTTP-Response-Metadata") or {}).get("HTML-Metadata")
    return html


def _with_links(rest: bytes, links: bytes) -> Any:
    """The parsed rest with the parsed links in their place; None when that cannot be."""
    try:
        record = orjson.loads(rest)
        html = html_metadata(record)
        if html is None or html.get("Links") != [_CUT]:
            return None
        html["Links"] = orjson.loads(links)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return record


def _image_objects(body: bytes, start: int, end: int) -> bytes | None:
    """Of the array body[start:end] a JSON array of the objects with an image's path; None when one is not flat."""
    objects: list[bytes] = []
    done = start
    for at in _marks_in(body, start, end):
        brace = body.rfind(b"{", done, at)
        found = _FLAT_OBJECT.match(body, brace, end) if brace >= 0 else None
        if found is None or found.end() <= at or _PATH_KEY.search(body, max(brace, at - _MAX_SPACE), at) is None:
            return None
        if not _begins_element(body, start, brace):
            return None
        objects.append(found[0])
        done = found.end()
    return b"[%b]" % b",".join(objects)


def _marks_in(body: bytes, start: int, end: int) -> list[int]:
    """Where an image's path begins, in order."""
    places: list[int] = []
    for mark in _MARKS:
        at = body.find(mark, start, end)
        while at >= 0:
            places.append(at)
            at = body.find(mark, at + 1, end)
    return sorted(places)


def _begins_element(body: bytes, start: int, brace: int) -> bool:
    """True where an element of the array begins, and not an object inside of one."""
    before = body[max(start, brace - _MAX_SPACE) : brace].rstrip()
    return before.endswith(b",") or (not before and brace - start < _MAX_SPACE)
