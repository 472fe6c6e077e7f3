"""Path patterns of robots.txt and tdmrep.json (RFC 9309, 2.2.2-2.2.3), matched in linear time."""

import re
from urllib.parse import quote

_TRIPLET = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def normal_path(path: str) -> str:
    """Percent-encoding made comparable: non-ASCII encoded, unreserved characters decoded, hex digits in upper case."""

    def triplet(match: re.Match[str]) -> str:
        character = chr(int(match[1], 16))
        return character if character in _UNRESERVED else match[0].upper()

    ascii_only = path if path.isascii() else quote(path, safe="%/?#[]@!$&'()*+,;=:", errors="replace")
    return _TRIPLET.sub(triplet, ascii_only)


def matches(pattern: str, path: str) -> bool:
    """True when a pattern (`*` any characters, `$` at its end the end) matches from the start of the path.

    Both in normal form. Cost: linear, whatever the number of stars.
    """
    anchored = pattern.endswith("$")
    first, *others = (pattern[:-1] if anchored else pattern).split("*")
    if not path.startswith(first):
        return False
    at = len(first)
    if not others:
        return not anchored or at == len(path)
    *middle, last = others
    for piece in middle:
        found = path.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    if anchored:
        return len(path) - len(last) >= at and path.endswith(last)
    return path.find(last, at) >= 0
