"""robots.txt as RFC 9309 has it: groups merged by product token, the longest rule wins, allow wins a tie."""

import re
from dataclasses import dataclass

from tasks.web.patterns import matches, normal_path

MAX_BYTES = 500 << 10  # RFC 9309, 2.5: at least 500 KiB must be parsed
_MAX_RULES = 10_000
_TOKEN = re.compile(r"[A-Za-z_-]+|\*")


@dataclass(frozen=True)
class Robots:
    """Rules for us: (pattern in normal form, allowed). No rules: everything is allowed."""

    rules: tuple[tuple[str, bool], ...] = ()

    def allows(self, path: str) -> bool:
        """Whether a path (with its query) may be fetched."""
        if not self.rules or path == "/robots.txt":
            return True
        path = normal_path(path)
        hits = [(len(pattern), allowed) for pattern, allowed in self.rules if matches(pattern, path)]
        return max(hits)[1] if hits else True


def parse_robots(body: bytes, product: str) -> Robots:
    """Rules of the groups that name `product` (any case), else of the groups for `*`.

    Cost: linear. Other robots' groups are passed over: rules kept for every agent of a group would cost their product.
    """
    ours = product.lower()
    groups: dict[str, list[tuple[str, bool]]] = {}
    agents: set[str] = set()
    in_rules = False
    for line in body[:MAX_BYTES].decode("utf-8", "replace").removeprefix("\ufeff").splitlines():
        key, colon, value = line.partition("#")[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if not colon:
            continue
        if key == "user-agent":
            agents = set() if in_rules else agents
            in_rules = False
            token = _TOKEN.match(value)
            if token is not None and (name := token[0].lower()) in (ours, "*"):
                agents.add(name)
                groups.setdefault(name, [])
        elif key in ("allow", "disallow"):
            in_rules = True
            if value:  # an empty rule allows everything it could forbid
                for agent in agents:
                    groups[agent].append((normal_path(value), key == "allow"))
    return Robots(tuple(groups.get(ours, groups.get("*", []))[:_MAX_RULES]))
