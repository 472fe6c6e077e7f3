"""Where a page's image tags are, in one pass over its bytes, for pages whose tree need not be built to know that.

Most of what parsing costs is the tree, and of the tree an image needs little: whether its tag is markup (and not part
of a comment, a script, an attribute), and whether elements stand in the order of their tags. Of the standard's tree
construction (HTML 13.2.6) the pass knows what moves, hides or drops an image, and calls a page NOT_SIMPLE where that
could be; other nesting, misnesting and what is left open do none of these.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from tasks.web.html_tokens import (
    BETWEEN,
    CELL,
    EMPTY,
    END,
    FORM,
    FROM,
    HEAD,
    IMAGE,
    IMG,
    KIND,
    LINK,
    NOSCRIPT,
    NOT_SIMPLE,
    OPTION,
    OTHER_START,
    PICTURE,
    RAW,
    REFUSED,
    SCRIPT,
    SELECT,
    SOURCE,
    START,
    STYLE,
    SVG,
    SVG_PART,
    TABLE,
    TABLE_PART,
    TITLE,
    TO,
    VOID,
)

_LEFT_OUT, _KEPT = 0, 1  # or NOT_SIMPLE: verdicts about a tag
_MAX_TABLES = 60
# What the pass knows of the tree: whether <body> has begun, what is open (of svg and table: how many), in which of the
# tables (by bits) the parser is in a cell or caption.
_IN_BODY, _IN_NOSCRIPT, _IN_PICTURE, _IN_SELECT, _IN_SVG, _IN_SVG_TITLE, _TABLES, _CELLS = range(8)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def keep_image_tags(tags: NDArray[np.int32]) -> int:
    """How many of `tags` [tags, columns] may name images: they are moved to its front; or NOT_SIMPLE.

    They are <img>, <picture>, its <source> and its end, <noscript> and its end, <base>, and <meta> and <link> that may
    speak of images. A page of these tags alone, behind a <body>, names what the whole page names.
    NOT_SIMPLE: math, template, frameset, plaintext and xmp; one of these tags between the cells of a table (it is moved
    before the table), in a select (it is dropped), in the noscript of a head (it ends that); anything in a picture, a
    noscript or an svg that may close it, or make its end tag close something else; what is left open of these.
    """
    count = 0
    tree = np.zeros(8, np.int64)
    for place in range(len(tags)):
        kind, form = tags[place, KIND], tags[place, FORM]
        if tags[place, BETWEEN]:
            if tree[_IN_NOSCRIPT] or tree[_IN_PICTURE] or tree[_IN_SELECT] or tree[_IN_SVG]:
                return NOT_SIMPLE
            tree[_IN_BODY] |= tags[place, BETWEEN] & OTHER_START
        if tree[_IN_SVG]:
            verdict = _tag_in_svg(tree, kind, form)
        elif form == END:
            verdict = _end_tag(tree, kind)
        else:
            verdict = _start_tag(tree, kind, form)
        if verdict == NOT_SIMPLE:
            return NOT_SIMPLE
        if verdict == _KEPT:
            tags[count, FROM], tags[count, TO] = tags[place, FROM], tags[place, TO]
            count += 1
    is_left_open = tree[_IN_NOSCRIPT] or tree[_IN_PICTURE] or tree[_IN_SELECT] or tree[_IN_SVG]
    return NOT_SIMPLE if is_left_open else count


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _start_tag(tree: NDArray[np.int64], kind: int, form: int) -> int:
    """What a start tag outside of svg does to the tree, and whether it is kept."""
    if kind in (REFUSED, SVG_PART):
        return NOT_SIMPLE
    if IMG <= kind <= LINK or (kind == SOURCE and tree[_IN_PICTURE]):
        return _image_tag(tree, kind)
    if tree[_IN_SELECT]:
        return _LEFT_OUT if kind == OPTION else NOT_SIMPLE
    if tree[_IN_PICTURE]:
        return NOT_SIMPLE
    if RAW <= kind <= SCRIPT or kind in (HEAD, SOURCE):
        return _LEFT_OUT
    if tree[_IN_NOSCRIPT]:
        return _LEFT_OUT if kind == VOID else NOT_SIMPLE
    tree[_IN_BODY] = 1
    if kind == SELECT:
        tree[_IN_SELECT] = 1
    elif kind == SVG:
        if not _in_cell_or_body(tree):
            return NOT_SIMPLE
        tree[_IN_SVG] = form != EMPTY
    elif kind == TABLE:
        if not _in_cell_or_body(tree) or tree[_TABLES] == _MAX_TABLES:
            return NOT_SIMPLE
        tree[_TABLES] += 1
        tree[_CELLS] &= ~(1 << tree[_TABLES])
    elif kind == CELL:
        tree[_CELLS] |= 1 << tree[_TABLES]
    elif kind == TABLE_PART:
        tree[_CELLS] &= ~(1 << tree[_TABLES])
    return _LEFT_OUT


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _image_tag(tree: NDArray[np.int64], kind: int) -> int:
    """A start tag that may name an image, or holds what does."""
    if tree[_IN_SELECT] or not _in_cell_or_body(tree):
        return NOT_SIMPLE
    is_image = kind in (IMG, IMAGE)
    if tree[_IN_PICTURE] and not is_image and kind != SOURCE:
        return NOT_SIMPLE
    if tree[_IN_NOSCRIPT] and (kind == NOSCRIPT or (not tree[_IN_BODY] and (is_image or kind == PICTURE))):
        return NOT_SIMPLE
    if is_image:
        tree[_IN_BODY] = 1
    elif kind == PICTURE:
        tree[_IN_BODY] = tree[_IN_PICTURE] = 1
    elif kind == NOSCRIPT:
        tree[_IN_NOSCRIPT] = 1
        return _KEPT if tree[_IN_BODY] else _LEFT_OUT
    return _KEPT


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _end_tag(tree: NDArray[np.int64], kind: int) -> int:
    """What an end tag outside of svg does to the tree, and whether it is kept."""
    if kind == PICTURE and not tree[_IN_SELECT]:
        was_open, tree[_IN_PICTURE] = tree[_IN_PICTURE], 0
        return _KEPT if was_open else _LEFT_OUT
    if kind == NOSCRIPT and not tree[_IN_SELECT] and not tree[_IN_PICTURE]:
        was_open, tree[_IN_NOSCRIPT] = tree[_IN_NOSCRIPT] and tree[_IN_BODY], 0
        return _KEPT if was_open else _LEFT_OUT
    if tree[_IN_NOSCRIPT] or tree[_IN_PICTURE]:
        return NOT_SIMPLE
    if kind == SELECT:
        tree[_IN_SELECT] = 0
    elif tree[_IN_SELECT]:
        return _LEFT_OUT if kind == OPTION else NOT_SIMPLE
    elif kind == TABLE:
        tree[_TABLES] = max(0, tree[_TABLES] - 1)
    elif kind in (CELL, TABLE_PART):  # </th> does not end a <td>: then we say less than we could
        tree[_CELLS] &= ~(1 << tree[_TABLES])
    return _LEFT_OUT


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _tag_in_svg(tree: NDArray[np.int64], kind: int, form: int) -> int:
    """A tag in svg: parts of drawings, which hide nothing. Nothing but text may be in its <title> (there HTML begins
    anew), and any other element may end it. Parts outside of svg are refused: so no end tag here means one there."""
    if tree[_IN_SVG_TITLE]:
        tree[_IN_SVG_TITLE] = 0
        return _LEFT_OUT if kind == TITLE and form == END else NOT_SIMPLE
    if kind == SVG:
        tree[_IN_SVG] += 1 if form == START else -1 if form == END else 0
    elif kind == TITLE:
        tree[_IN_SVG_TITLE] = form == START
    elif kind != SVG_PART and kind != STYLE and kind != IMAGE:
        return NOT_SIMPLE
    return _LEFT_OUT


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _in_cell_or_body(tree: NDArray[np.int64]) -> bool:
    """Whether an element stays where its tag is: it does not between the cells of a table."""
    return tree[_TABLES] == 0 or (tree[_CELLS] >> tree[_TABLES]) & 1 == 1
