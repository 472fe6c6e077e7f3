"""Domain lists in the formats people publish, matched by suffix on label boundaries, in 8 bytes a domain."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from storage.filesystem import content_key, exists, join, list_files, read_bytes
from tasks.web.errors import BadDomainList
from tasks.web.urls import ascii_domain

_DOMAIN = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*")
_HOSTS_FILE = re.compile(r"(?:0\.0\.0\.0|127\.0\.0\.1|::1?|fe80::\S*|ff0\S*::\S*|255\.255\.255\.255)\s+")
_HOSTS_FILE_NAMES = frozenset(
    {"localhost", "localhost.localdomain", "local", "broadcasthost"}
    | {
        f"ip6-{name}"
        for name in ("localhost", "loopback", "localnet", "mcastprefix", "allnodes", "allrouters", "allhosts")
    }
    | {"0.0.0.0"}  # noqa: S104  (such lists map it to itself)
)


@dataclass(frozen=True)
class DomainSet:
    """Domains, and URL prefixes of single hosts. A domain covers its subdomains.

    Memory: 8 bytes a domain (sorted 64-bit hashes; with 5 million domains and a billion hosts, the chance of one wrong
    match is 3e-4), and plain strings for the prefixes.
    """

    hashes: NDArray[np.uint64]
    prefixes: dict[str, tuple[str, ...]] = field(default_factory=dict)  # host → paths, each starting with '/'

    def __len__(self) -> int:
        return len(self.hashes) + sum(map(len, self.prefixes.values()))

    def match(self, hosts: Sequence[str]) -> list[str | None]:
        """For each host the longest suffix (on a label boundary) that is in the set, or None."""
        if not len(self.hashes):
            return [None] * len(hosts)
        suffixes = [list(_suffixes(host)) for host in hosts]
        flat = np.fromiter((_hash(suffix) for one in suffixes for suffix in one), np.uint64)
        at = np.minimum(np.searchsorted(self.hashes, flat), len(self.hashes) - 1)
        hits = iter((self.hashes[at] == flat).tolist())
        return [_first([(suffix, next(hits)) for suffix in one]) for one in suffixes]

    def match_prefix(self, host: str, path: str) -> str | None:
        """The URL prefix of this set that host and path fall under, or None."""
        for prefix in self.prefixes.get(host.removeprefix("www."), ()):
            if path.startswith(prefix) and (prefix.endswith("/") or path[len(prefix) :][:1] in ("", "/", "?")):
                return host + prefix
        return None


def build_domain_set(domains: Iterable[str], prefixes: Iterable[tuple[str, str]] = ()) -> DomainSet:
    """A set from domains as `ascii_domain` writes them and (host, path prefix) pairs."""
    by_host: dict[str, list[str]] = {}
    for host, path in prefixes:
        by_host.setdefault(host.removeprefix("www."), []).append(path)
    hashes = np.unique(np.fromiter(map(_hash, domains), np.uint64))
    return DomainSet(hashes, {host: tuple(sorted(set(paths))) for host, paths in by_host.items()})


def _hash(domain: str) -> int:
    return int.from_bytes(hashlib.blake2b(domain.encode(), digest_size=8).digest(), "little")


def _suffixes(host: str) -> Iterator[str]:
    host = host.rstrip(".")
    while host:
        yield host
        host = host.partition(".")[2]


def _first(hits: list[tuple[str, bool]]) -> str | None:
    return next((suffix for suffix, hit in hits if hit), None)


def load_domain_set(inline: Sequence[str], files: Sequence[str]) -> DomainSet:
    """Domains given in a config and in text files (paths or URLs).

    A file is a plain list (one domain a line, `#` comments, `*.` allowed), a hosts file (`0.0.0.0 domain`) or a list of
    URLs without scheme (`host/path`, as UT1's `urls`). A folder is a UT1 category (`domains`, `urls`) or a folder of
    such categories. Raises BadDomainList with file and line, UnreachableStorage when there is no such file.
    """
    domains = {_checked(name, "the config", number) for number, name in enumerate(inline, start=1)}
    prefixes: set[tuple[str, str]] = set()
    for path in list_paths(files):
        for host, prefix in _entries(path):
            if prefix is None:
                domains.add(host)
            else:
                prefixes.add((host, prefix))
    return build_domain_set(domains, prefixes)


def list_paths(files: Sequence[str]) -> list[str]:
    """Text files that `files` names: themselves, or the `domains` and `urls` files of UT1 folders."""
    paths: list[str] = []
    for path in files:
        inside = [
            file
            for pattern in ("domains", "urls", "*/domains", "*/urls")
            if "://" not in path
            for file in list_files(join(path, pattern))
        ]
        if not inside and not exists(path):
            raise BadDomainList(f"no domain list at {path}. Correct the path, or fetch the list.")
        paths += inside or [path]
    return paths


def lists_key(files: Sequence[str]) -> str:
    """A key that changes when the content of any list does."""
    return " ".join(content_key(path) for path in list_paths(files))


def _entries(path: str) -> Iterator[tuple[str, str | None]]:
    try:
        lines = read_bytes(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BadDomainList(f"{path} is no text file: {error}. Give a list of domains, one a line.") from error
    for number, line in enumerate(lines, start=1):
        text, hosts_file = line.partition("#")[0].strip(), _HOSTS_FILE.match(line)
        if hosts_file is not None:
            names = text.split()[1:]
            yield from ((_checked(name, path, number), None) for name in names if name not in _HOSTS_FILE_NAMES)
        elif text:
            host, slash, rest = text.partition("/")
            yield _checked(host, path, number), f"/{rest}" if slash and rest else None


def _checked(name: str, where: str, line: int) -> str:
    try:
        domain = ascii_domain(name)
    except ValueError:
        domain = ""
    if not _DOMAIN.fullmatch(domain):
        raise BadDomainList(
            f"{where}, line {line}: {name[:80]!r} is no domain. Wanted: one domain a line (example.com), a hosts file "
            "(0.0.0.0 example.com) or UT1's layout."
        )
    return domain
