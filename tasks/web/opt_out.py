"""What an owner says beside robots.txt: X-Robots-Tag (noai, noimageai) and the W3C's TDM Reservation Protocol."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from tasks.web.patterns import matches, normal_path

TDMREP_PATH = "/.well-known/tdmrep.json"
TDMREP_MAX_BYTES = 1 << 20
_MAX_RULES = 10_000
# Directives of X-Robots-Tag that carry a colon themselves; before any other colon stands the name of a robot.
_WITH_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


def robots_tag_opt_out(values: Iterable[str], product: str, directives: frozenset[str]) -> str | None:
    """The directive among `directives` that an X-Robots-Tag addresses to all robots or to us, or None."""
    for value in values:
        addressee: str | None = None
        for item in value.lower().split(","):
            name, colon, rest = item.partition(":")
            if colon and name.strip() not in _WITH_VALUE:
                addressee, item = name.strip(), rest
            if item.strip() in directives and addressee in (None, "*", product.lower()):
                return item.strip()
    return None


def tdm_header_reserved(headers: Mapping[str, str]) -> bool:
    """True when the response header `tdm-reservation` says 1."""
    return headers.get("tdm-reservation", "").strip() == "1"


@dataclass(frozen=True)
class TdmRules:
    """Rules of a tdmrep.json: (location pattern in normal form, reserved)."""

    rules: tuple[tuple[str, bool], ...] = ()

    def reserves(self, path: str) -> bool:
        """Whether text and data mining of a path is reserved: the longest location counts, reserved wins a tie."""
        if not self.rules:
            return False
        path = normal_path(path)
        hits = [(len(location), reserved) for location, reserved in self.rules if matches(location, path)]
        return max(hits)[1] if hits else False


def parse_tdmrep(body: bytes) -> TdmRules:
    """Rules of /.well-known/tdmrep.json; what is not the protocol's JSON reserves nothing."""
    try:
        content: Any = orjson.loads(body)
    except ValueError:
        return TdmRules()
    if not isinstance(content, list):
        return TdmRules()
    rules = []
    for rule in content[:_MAX_RULES]:
        location = rule.get("location") if isinstance(rule, dict) else None
        if isinstance(location, str) and location.startswith(("/", "*")):
            rules.append((normal_path(location), str(rule.get("tdm-reservation")) == "1"))
    return TdmRules(tuple(rules))
