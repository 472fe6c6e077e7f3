"""Tags of a page, as the tokenizer of the HTML standard cuts them (13.2.5): compiled, one pass, nothing built."""

import random

import numba
import numpy as np
from numpy.typing import NDArray

from tasks.web.html_limits import MAX_ATTRIBUTES

NOT_SIMPLE = -1

# Whoever changes these numbers also saves html_tags.py: numba keeps what it compiled there until that file changes.
# What a tag's name says; OTHER: a name that is not here.
OTHER, IMG, IMAGE, PICTURE, NOSCRIPT, BASE, META, LINK, SOURCE, RAW, TITLE, STYLE, SCRIPT = range(13)
TABLE, CELL, TABLE_PART, SVG, SVG_PART, REFUSED, HEAD, VOID, SELECT, OPTION = range(13, 23)
_NAMES = {
    IMG: "img",
    IMAGE: "image",
    PICTURE: "picture",
    NOSCRIPT: "noscript",
    BASE: "base",
    META: "meta",
    LINK: "link",
    SOURCE: "source",
    RAW: "textarea iframe noembed noframes",
    TITLE: "title",
    STYLE: "style",
    SCRIPT: "script",
    TABLE: "table",
    CELL: "td th caption",
    TABLE_PART: "tr tbody thead tfoot col colgroup",
    SVG: "svg",
    SVG_PART: "g path rect circle ellipse line polyline polygon use defs symbol clippath mask stop text tspan",
    REFUSED: "math template frameset laintext xmp",  # plaintext: only the last eight letters are looked up
    HEAD: "html head basefont bgsound",
    VOID: "br wbr",
    SELECT: "select",
    OPTION: "option optgroup",
}
# The forms of a tag: <a>, </a>, <a/>.
START, END, EMPTY = range(3)
# What is told of a tag: where it begins and ends, what its name says, its form, which other tags came before it.
FROM, TO, KIND, FORM, BETWEEN = COLUMNS = range(5)
OTHER_START, OTHER_END = 1, 2
_SLOTS = 512


def _slot(name: int, factor: int) -> int:
    return (name * factor & (1 << 64) - 1) >> 40 & (_SLOTS - 1)


def _name_table() -> tuple[int, NDArray[np.int64], NDArray[np.uint8]]:
    """(factor, names, kinds): a name, as a number, is in the slot that its product with `factor` tells."""
    kinds = {int.from_bytes(name.encode()): kind for kind, names in _NAMES.items() for name in names.split()}
    factors, factor = random.Random(0), 0
    while len({_slot(name, factor) for name in kinds}) < len(kinds):
        factor = factors.getrandbits(62)
    slot_names, slot_kinds = np.zeros(_SLOTS, np.int64), np.zeros(_SLOTS, np.uint8)
    for name, kind in kinds.items():
        slot_names[_slot(name, factor)], slot_kinds[_slot(name, factor)] = name, kind
    return factor, slot_names, slot_kinds


_FACTOR, _SLOT_NAMES, _SLOT_KINDS = _name_table()
# By byte: what of these it is.
_SPACE, _SLASH, _GREATER, _EQUALS = 1, 2, 4, 8
_CLASSES = np.zeros(256, np.uint8)
_CLASSES[list(b" \t\n\f\r")] = _SPACE
_CLASSES[list(b"/>=")] = _SLASH, _GREATER, _EQUALS


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def find_tags(page: NDArray[np.uint8], tags: NDArray[np.int32]) -> int:
    """How many tags of a page have a name that counts, and what they are in `tags` [tags, columns]; or NOT_SIMPLE.

    What is in comments, scripts and the like is no tag. NOT_SIMPLE: a tag or a comment that the page ends in, a tag
    with too many attributes, CDATA, a script that may hide its end tag, more tags than `tags` holds. Cost: linear.
    """
    size, count, at = len(page), 0, 0
    between, num_svg = 0, 0
    while True:
        while at < size and _byte(page, at) != 60:
            at += 1
        if at + 2 >= size:
            return count
        start, is_end = at, page[at + 1] == 47
        at += 2 if is_end else 1
        if not 97 <= _byte(page, at) | 32 <= 122:
            at = _behind_bracket(page, at) if is_end else _behind_markup(page, at)  # "</>" is nothing, "</ " a comment
            if at < 0:
                return NOT_SIMPLE
            continue
        kind, at = _kind_of_name(page, at)
        if at < size and _byte(page, at) == 62:
            at, is_empty = at + 1, False
        else:
            at, is_empty = _behind_tag(page, at)
        if at < 0 or count == len(tags):
            return NOT_SIMPLE
        if kind == OTHER:
            between |= OTHER_END if is_end else OTHER_START
            continue
        if (kind == META and not _contains(page, start, at, ord(":"), ord("i"))) or (
            kind == LINK and not _contains(page, start, at, ord("_"), ord("s"))
        ):
            kind = HEAD
        tags[count, FROM], tags[count, TO], tags[count, KIND], tags[count, BETWEEN] = start, at, kind, between
        tags[count, FORM] = END if is_end else EMPTY if is_empty else START
        count += 1
        between = 0
        if kind == SVG:
            num_svg = max(0, num_svg + (-1 if is_end else 0 if is_empty else 1))
        elif not is_end and (RAW <= kind <= SCRIPT) and (num_svg == 0 or kind == SCRIPT):
            at = _behind_text(page, start, at, kind == SCRIPT)
            if at < 0:
                return NOT_SIMPLE


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _behind_text(page: NDArray[np.uint8], start: int, at: int, is_script: bool) -> int:
    """Behind the end tag of the element whose tag is from `start` to `at`: what comes before it is text.

    NOT_SIMPLE without one, and for a script with <!-- and then <script: its first end tag may be text too (13.2.5.25).
    """
    size, length, in_comment = len(page), 0, False
    while 97 <= page[start + 1 + length] | 32 <= 122:
        length += 1
    while True:
        while at < size and _byte(page, at) != 60:
            at += 1
        if at + 2 + length >= size:
            return NOT_SIMPLE
        if page[at + 1] == 47 and _same_name(page, start + 1, at + 2, length):
            last = page[at + 2 + length]
            if last == 62 or last == 47 or _is_space(last):
                return _behind_tag(page, at + 2 + length)[0]
        if is_script:
            in_comment = in_comment or (page[at + 1] == 33 and page[at + 2] == 45 and page[at + 3] == 45)
            if in_comment and _same_name(page, start + 1, at + 1, length):
                return NOT_SIMPLE
        at += 1


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _contains(page: NDArray[np.uint8], at: int, end: int, mark: int, letter: int) -> bool:
    """Whether `mark` and then `letter` (of any case) stand in a tag, or a character reference, which may be both."""
    while at < end - 1:
        if _byte(page, at) == 38 or (_byte(page, at) == mark and page[at + 1] | 32 == letter):
            return True
        at += 1
    return False


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _byte(page: NDArray[np.uint8], at: int) -> int:
    """`page[at]`, without numba's look whether `at` counts from the end: a quarter of the time of a pass."""
    return page[np.uint64(at)]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _is_space(byte: int) -> bool:
    return _CLASSES[byte] == _SPACE


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _kind_of_name(page: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """(what the tag name that begins there says, where it ends). A name is a number: its last eight letters."""
    size, start, name = len(page), at, np.int64(0)
    while at < size and not _CLASSES[_byte(page, at)] & (_SPACE | _SLASH | _GREATER):
        name = name << 8 | _byte(page, at) | 32
        at += 1
    slot = (name * _FACTOR) >> 40 & (_SLOTS - 1)
    if _SLOT_NAMES[slot] != name:
        return OTHER, at
    kind = _SLOT_KINDS[slot]
    return (kind if at - start <= 8 or kind == REFUSED else OTHER), at


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _behind_tag(page: NDArray[np.uint8], at: int) -> tuple[int, bool]:
    """(behind the `>` of the tag whose name ends at `at`, whether a `/` closes it); NOT_SIMPLE without a `>`, or after
    too many attributes."""
    size = len(page)
    for _ in range(MAX_ATTRIBUTES + 1):
        gap = at
        while at < size and _CLASSES[_byte(page, at)] & (_SPACE | _SLASH):
            at += 1
        if at >= size:
            break
        if _byte(page, at) == 62:
            return at + 1, at > gap and page[at - 1] == 47
        at += 1  # the first byte of a name may be a "="
        while at < size and not _CLASSES[_byte(page, at)]:
            at += 1
        while at < size and _is_space(_byte(page, at)):
            at += 1
        if at < size and _byte(page, at) == 61:
            at = _behind_value(page, at + 1)
    return NOT_SIMPLE, False


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _behind_value(page: NDArray[np.uint8], at: int) -> int:
    """Behind the value of an attribute, whose `=` stands before `at`."""
    size = len(page)
    while at < size and _is_space(_byte(page, at)):
        at += 1
    if at < size and (_byte(page, at) == 34 or _byte(page, at) == 39):
        quote = _byte(page, at)
        at += 1
        while at < size and _byte(page, at) != quote:
            at += 1
        return at + 1
    while at < size and not _CLASSES[_byte(page, at)] & (_SPACE | _GREATER):
        at += 1
    return at


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _behind_bracket(page: NDArray[np.uint8], at: int) -> int:
    """Behind the next `>`, or the end of the page."""
    while at < len(page) and _byte(page, at) != 62:
        at += 1
    return at + 1


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _behind_markup(page: NDArray[np.uint8], at: int) -> int:
    """Behind what begins with `<` (before `at`) and no name: a comment, a doctype, or text; NOT_SIMPLE for a comment
    without end, and for CDATA, which is a comment in HTML and text in SVG."""
    size = len(page)
    if _byte(page, at) == 63:
        return _behind_bracket(page, at)
    if _byte(page, at) != 33:
        return at
    if at + 2 >= size or page[at + 1] != 45 or page[at + 2] != 45:
        is_cdata = at + 2 < size and page[at + 1] == 91 and page[at + 2] == 67
        return NOT_SIMPLE if is_cdata else _behind_bracket(page, at)
    at += 3
    if at < size and _byte(page, at) == 62:  # <!-->
        return at + 1
    if at + 1 < size and _byte(page, at) == 45 and page[at + 1] == 62:  # <!--->
        return at + 2
    while at + 2 < size:
        if _byte(page, at) == 45 and page[at + 1] == 45:
            if page[at + 2] == 62:
                return at + 3
            if page[at + 2] == 33 and at + 3 < size and page[at + 3] == 62:  # --!>
                return at + 4
        at += 1
    return NOT_SIMPLE


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _same_name(page: NDArray[np.uint8], one: int, other: int, length: int) -> bool:
    for place in range(length):  # noqa: SIM110, a generator does not compile
        if page[one + place] | 32 != page[other + place] | 32:
            return False
    return True
