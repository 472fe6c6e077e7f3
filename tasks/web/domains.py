"""Domain lists in the formats people publish, matched by suffix on label boundaries, in 8 bytes a domain."""

import gzip
import hashlib
import io
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from storage.filesystem import content_key, exists, is_url, join, list_files, read_bytes
from tasks.web.errors import BadDomainList
from tasks.web.urls import ascii_domain, is_public_suffix

# As hosts are written in URLs, not as they may be registered: blogs have names that begin or end with a hyphen.
_DOMAIN = re.compile(r"(?=.*[a-z0-9])[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_PORT = re.compile(r":\d{1,5}$")
_HOSTS_FILE = re.compile(r"(?:0|0\.0\.0\.0|127\.0\.0\.1|::1?|fe80::\S*|ff0\S*::\S*|255\.255\.255\.255)\s+")
_HOSTS_FILE_NAMES = frozenset(
    {"localhost", "localhost.localdomain", "local", "broadcasthost"}
    | {
        f"ip6-{name}"
        for name in ("localhost", "loopback", "localnet", "mcastprefix", "allnodes", "allrouters", "allhosts")
    }
    | {"0.0.0.0"}  # noqa: S104  (such lists map it to itself)
)


_UT1_NAMES = ("domains", "urls")
_ARCHIVES = (".tar.gz", ".tgz", ".tar")
_MAX_LIST_BYTES = 1 << 30
_ALONE = "="  # before a host that covers no subdomain; no domain starts with it


@dataclass(frozen=True)
class DomainSet:
    """Domains, and URL prefixes of single hosts. A domain covers its subdomains, an `alone` one only itself.

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


def build_domain_set(
    domains: Iterable[str], prefixes: Iterable[tuple[str, str]] = (), alone: Iterable[str] = ()
) -> DomainSet:
    """A set from domains as `ascii_domain` writes them, (host, path prefix) pairs, and hosts that stand for themselves
    alone."""
    by_host: dict[str, list[str]] = {}
    for host, path in prefixes:
        by_host.setdefault(host.removeprefix("www."), []).append(path)
    names = (*domains, *(_ALONE + host for host in alone))
    hashes = np.unique(np.fromiter(map(_hash, names), np.uint64))
    return DomainSet(hashes, {host: tuple(sorted(set(paths))) for host, paths in by_host.items()})


def _hash(domain: str) -> int:
    return int.from_bytes(hashlib.blake2b(domain.encode(), digest_size=8).digest(), "little")


def _suffixes(host: str) -> Iterator[str]:
    host = host.rstrip(".")
    if host:
        yield _ALONE + host
    while host:
        yield host
        host = host.partition(".")[2]


def _first(hits: list[tuple[str, bool]]) -> str | None:
    return next((suffix.removeprefix(_ALONE) for suffix, hit in hits if hit), None)


def load_domain_set(inline: Sequence[str], files: Sequence[str]) -> DomainSet:
    """Domains given in a config and in text files (paths or URLs, also .gz).

    A file is a plain list (one domain a line, `#` comments, `*.` allowed), a hosts file (`0.0.0.0 domain`) or a list of
    URLs without scheme (`host/path`, as UT1's `urls`). A folder, a URL that ends in a slash or a tar file (.tar.gz, as
    UT1 publishes) is a UT1 category (`domains`, `urls`) or, but for URLs, holds such categories.

    A public suffix (`com`, `co.uk`, `github.io`) stands for the host of that name alone, because it has no one owner:
    a slip of the pen would forbid, or allow, a country. Written `*.github.io` it stands for all below it.

    Raises BadDomainList with file and line, UnreachableStorage when there is no such file.
    """
    entries = [(name, "the config", number) for number, name in enumerate(inline, start=1)]
    domains: set[str] = set()
    alone: set[str] = set()
    prefixes: set[tuple[str, str]] = set()
    for name, where, number in entries:
        _add(name, _checked(name, where, number), domains, alone)
    for path in list_paths(files):
        for written, host, prefix in _entries(path):
            if prefix is None:
                _add(written, host, domains, alone)
            else:
                prefixes.add((host, prefix))
    return build_domain_set(domains, prefixes, alone)


def _add(written: str, domain: str, domains: set[str], alone: set[str]) -> None:
    everything_below = written.strip().startswith(("*.", "."))
    (alone if is_public_suffix(domain) and not everything_below else domains).add(domain)


def list_paths(files: Sequence[str]) -> list[str]:
    """Text files that `files` names: themselves, or the `domains` and `urls` files of UT1 folders."""
    paths: list[str] = []
    for path in files:
        if is_url(path):
            inside = [join(path, name) for name in _UT1_NAMES if path.endswith("/") and exists(join(path, name))]
        else:
            inside = [file for name in _UT1_NAMES for file in list_files(join(path, name))]
            inside += [file for name in _UT1_NAMES for file in list_files(join(path, "*", name))]
        if not inside and not exists(path):
            raise BadDomainList(f"no domain list at {path}. Correct the path, or fetch the list.")
        paths += inside or [path]
    return paths


def lists_key(files: Sequence[str]) -> str:
    """A key that changes when the content of any list does."""
    return " ".join(content_key(path) for path in list_paths(files))


def _texts(path: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each list in a file: itself, unpacked, or the `domains` and `urls` of a tar file."""
    data = read_bytes(path)
    try:
        if path.lower().endswith(_ARCHIVES):
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                for member in archive:
                    if member.isfile() and member.name.rsplit("/", 1)[-1] in _UT1_NAMES:
                        opened = archive.extractfile(member)
                        yield f"{path}:{member.name}", opened.read(_MAX_LIST_BYTES) if opened else b""
        elif path.lower().endswith(".gz"):
            with gzip.open(io.BytesIO(data)) as file:
                yield path, file.read(_MAX_LIST_BYTES)
        else:
            yield path, data
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise BadDomainList(f"{path} cannot be unpacked: {error}. Fetch the list again.") from error


def _entries(path: str) -> Iterator[tuple[str, str, str | None]]:
    """(as written, domain, path prefix or None) of every entry."""
    for where, data in _texts(path):
        try:
            lines = data.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise BadDomainList(f"{where} is no text file: {error}. Give a list of domains, one a line.") from error
        for number, line in enumerate(lines, start=1):
            text = line.partition("#")[0].strip()
            hosts_file = _HOSTS_FILE.match(text)
            if hosts_file is not None:
                names = [name for name in text.split()[1:] if name not in _HOSTS_FILE_NAMES]
                yield from ((name, _checked(name, where, number), None) for name in names)
            elif text:
                host, slash, rest = text.partition("/")
                host = _PORT.sub("", host)  # on whatever port: the others are forbidden by `allowed_ports`
                yield host, _checked(host, where, number), f"/{rest}" if slash and rest else None


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
