"""A page in pieces that lexbor parses in bounded time and memory, whoever wrote the page.

The tree of a page can cost its square, by the HTML standard itself: every `<p>` may look through all open elements,
every attribute is compared with those before it, and formatting elements that were never closed are built anew in every
block that follows (32 KB of `<b a1><b a2>... <p>x</p><p>x</p>...` take 1.3 GB in lexbor, as in any parser that follows
the standard). Browsers cap the depth; lexbor caps nothing.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

SMALL_BYTES = 8192
"""A page of so many bytes is parsed as it is: nothing in it costs more than 15 ms or 100 MB."""
MAX_TAGS = 32_768
"""Opening brackets of one piece: elements 32,768 deep take a second or two. One documentation page in 500 has more."""
MIN_TAGS = 2048
MAX_REBUILT = 2_000_000
"""Elements of a piece (times 330 bytes) that can come of formatting elements never closed, where MIN_TAGS allows it."""
MAX_PIECES = 16
MAX_ATTRIBUTES = 1024
_LONG_TAG_BYTES = 4096  # what fewer bytes can hold costs 3 ms
_BLOCK_BYTES = _LONG_TAG_BYTES // 2  # a longer tag covers a whole block
_LONGEST_TAG = 8  # <strong>

_FORMATTING = re.compile(rb"<(?:b|big|code|em|font|i|s|small|strike|strong|tt|u|nobr)(?=[\s/])[^<>]*+>?+", re.I)
# A tag that ends at its first `>` beyond doubt; any other is taken for one of its kind.
_CLEAR_TAG = re.compile(
    rb"<\w++(?:\s++[a-z][\w:-]*+(?:\s*+=\s*+(?:\"[^\"'<>]*+\"|'[^\"'<>]*+'|[\w#%.:-]++))?+)*+\s*+/?+>", re.I
)
_NUM_NAMES = 13
_NAME = re.compile(rb"<[a-zA-Z][^\s/>]*+")
# HTML 13.2.5.32-40: a name (whose first character may be `=`) and, behind `=`, a value.
_ATTRIBUTE = re.compile(rb"[\s/]*+[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:\"[^\"]*+\"?+|'[^']*+'?+|[^\s>\"'][^\s>]*+|))?+")


def pieces(page: bytes) -> Iterator[bytes]:
    """The page, cut before tags where a piece would cost too much: almost always one piece, the page itself.

    What lies behind a tag with more than MAX_ATTRIBUTES attributes, or behind MAX_PIECES pieces, is left out. A piece
    begins outside of any element, comment or script, be the page inside of one there. Cost: 5 us for a page of 30 KB.
    """
    if len(page) <= SMALL_BYTES:
        yield page
        return
    codes = np.frombuffer(page, np.uint8)
    is_open = codes == ord("<")
    blocks = is_open[: len(page) // _BLOCK_BYTES * _BLOCK_BYTES].reshape(-1, _BLOCK_BYTES)
    if blocks.any(axis=1).all() and np.count_nonzero(is_open) <= MIN_TAGS:
        yield page
        return
    opens = np.flatnonzero(is_open)
    opens, end = _without_attributes(page, opens)
    start = first = 0
    for _ in range(MAX_PIECES):
        last = first + _piece_tags(page, codes, opens[first : first + MAX_TAGS + 1])
        if last >= len(opens):
            yield page[start:end]
            return
        yield page[start : int(opens[last])]
        start, first = int(opens[last]), last


def is_whole(page: bytes, parts: list[bytes]) -> bool:
    """Whether all of a page is in its pieces."""
    return sum(map(len, parts)) == len(page)


def _without_attributes(page: bytes, opens: NDArray[np.intp]) -> tuple[NDArray[np.intp], int]:
    """(where tags begin, where the page ends), up to the first tag with too many attributes."""
    ends = np.append(opens[1:], len(page))
    for tag in np.flatnonzero(ends - opens > _LONG_TAG_BYTES).tolist():
        if _has_too_many_attributes(page, int(opens[tag])):
            return opens[:tag], int(opens[tag])
    return opens, len(page)


def _piece_tags(page: bytes, codes: NDArray[np.uint8], opens: NDArray[np.intp]) -> int:
    """How many of the tags that begin at `opens` (one more than a piece may have, at most) go into one piece."""
    count = min(len(opens), MAX_TAGS)
    if len(opens) <= MIN_TAGS:
        return count
    candidates = _formatting_with_attributes(codes, opens[:count])
    # Tags without attributes are of one kind each; of a kind at most three are built anew (HTML 13.2.4.3, Noah's Ark).
    rebuilt = len(candidates) + 3 * _NUM_NAMES
    if rebuilt * count > MAX_REBUILT:
        rebuilt = _num_rebuilt(page, candidates) + 3 * _NUM_NAMES
    return min(count, max(MIN_TAGS, MAX_REBUILT // rebuilt))


def _formatting_with_attributes(codes: NDArray[np.uint8], opens: NDArray[np.intp]) -> list[int]:
    """Where formatting elements with attributes begin, and a few others: told by a name's first two letters."""
    opens = opens[opens < len(codes) - _LONGEST_TAG]
    pairs = (codes[opens + 1].astype(np.intp) << 8) | codes[opens + 2]
    lengths = _NAME_LENGTHS[pairs]
    found, lengths = opens[lengths > 0], lengths[lengths > 0]
    result: list[int] = found[codes[found + lengths + 1] != ord(">")].tolist()
    return result


def _num_rebuilt(page: bytes, opens: list[int]) -> int:
    kinds: Counter[bytes] = Counter()
    unclear = 0
    for at in opens:
        found = _FORMATTING.match(page, at)
        if found is None:
            continue
        if _CLEAR_TAG.fullmatch(found[0]):
            kinds[found[0]] += 1
        else:
            unclear += 1
    return unclear + sum(min(3, number) for number in kinds.values())


def _name_lengths() -> NDArray[np.intp]:
    """By the two bytes behind `<`: how long the name of the formatting element is that may stand there, 0 if none."""
    lengths = np.zeros(1 << 16, np.intp)
    names = ("big", "code", "em", "font", "small", "strike", "tt", "nobr")  # strong is as long as strike
    starts = [(name[:2], len(name)) for name in names] + [(name + end, 1) for name in "bisu" for end in " \t\n\f\r/"]
    for start, length in starts:
        for first, second in itertools.product(*({letter, letter.upper()} for letter in start)):
            lengths[ord(first) << 8 | ord(second)] = length
    return lengths


_NAME_LENGTHS = _name_lengths()


def _has_too_many_attributes(page: bytes, at: int) -> bool:
    """Whether the tag that begins there has more than MAX_ATTRIBUTES. Cost: linear in that tag."""
    name = _NAME.match(page, at)
    if name is None:  # text, a comment, an end tag (whose attributes are dropped: not kept, but compared)
        name = _NAME.match(page[at : at + 64].replace(b"</", b"<", 1))
        if name is None:
            return False
        at += 1 + name.end()
    else:
        at = name.end()
    for _ in range(MAX_ATTRIBUTES):
        found = _ATTRIBUTE.match(page, at)
        if found is None:
            return False
        at = found.end()
    return True
