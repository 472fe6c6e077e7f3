"""The srcset attribute: its candidates as the HTML standard parses them, and which one is the largest image."""

import re
from typing import NamedTuple

_SPACE = " \t\n\f\r"
_START = re.compile(rf"[{_SPACE},]*")
_URL = re.compile(rf"[^{_SPACE}]+")
_DESCRIPTORS = re.compile(r"(?:[^,(]+|\([^)]*\)?)*")
_NUMBER = re.compile(r"-?(?:\d+|\d*\.\d+)(?:[eE][+-]?\d+)?")


class Candidate(NamedTuple):
    """One image of a srcset; `width` in pixels (0 = not told), `density` in device pixels per pixel."""

    url: str
    width: int
    density: float


def parse_srcset(srcset: str) -> list[Candidate]:
    """Candidates in order; those with descriptors that the standard calls errors are left out (HTML 4.8.4.2.2)."""
    candidates: list[Candidate] = []
    at = 0
    while True:
        at = _end(_START, srcset, at)
        found = _URL.match(srcset, at)
        if found is None:
            return candidates
        url, at, descriptors = found[0], found.end(), ""
        if url.endswith(","):
            url = url.rstrip(",")
        else:
            start, at = at, _end(_DESCRIPTORS, srcset, at)
            descriptors = srcset[start:at]
        candidate = _candidate(url, descriptors.split())
        if candidate is not None:
            candidates.append(candidate)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Where a match that starts at `at` ends; `at` without one."""
    match = pattern.match(text, at)
    return match.end() if match else at


def _candidate(url: str, descriptors: list[str]) -> Candidate | None:
    width, density = 0, 1.0
    for descriptor in descriptors:
        number, unit = descriptor[:-1], descriptor[-1]
        if unit == "w" and number.isascii() and number.isdigit():
            width = int(number[:9])
        elif unit == "x" and _NUMBER.fullmatch(number) and float(number) >= 0:
            density = float(number)
        elif not (unit == "h" and number.isascii() and number.isdigit()):
            return None
    return Candidate(url, width, density)


def largest(candidates: list[Candidate]) -> list[Candidate]:
    """The widest candidate, or the densest where no width is told; the first of equals. Empty stays empty."""
    return [max(candidates, key=lambda candidate: (candidate.width, candidate.density))] if candidates else []
