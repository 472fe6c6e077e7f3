"""One name per URL: WHATWG canonical form (by ada-url, the parser of Node.js), ids, registered domains."""

import hashlib
import re
from functools import lru_cache
from importlib.metadata import version
from typing import NamedTuple

from ada_url import URL, idna_to_ascii, join_url, normalize_url
from publicsuffixlist import PublicSuffixList

MAX_STORED_CHARS = 4096
"""Longer URLs are stored cut, with a hash of the whole: they are never fetched, only counted."""
_DATA_CHARS = 64
_ID_CHARS = 24
_STRIPPED = "".join(map(chr, range(0x21)))  # C0 controls and space, as the URL standard strips them

_CANONICAL = re.compile(
    r"(?P<origin>(?P<scheme>https?)://(?P<host>\[[0-9a-f:]+\]|[^/?#\[\]@:\s]+)(?::\d+)?)(?P<target>/[^#\s]*)"
)


# References and bases whose canonical form is plain concatenation: only characters that the URL standard leaves as they
# are, no empty segment and none that starts with a dot, a host whose last label is a word (no IPv4 in disguise) and
# without "xn--". Most URLs of real pages are such, and their joining costs a third.
_CHARS = "A-Za-z0-9_~$&()*+,;=@!.-"
_SEGMENT = rf"(?![/.])[{_CHARS}]"
_PLAIN_PATH = rf"(?:/{_SEGMENT}*+)++(?:\?[{_CHARS}:/?]*+)?+"
_PLAIN_HOST = r"(?:[a-z0-9]++(?:-[a-z0-9]++)*+\.)++[a-z]{2,}+"
_PLAIN_REFERENCE = re.compile(
    rf"(?P<up>(?:\.\./)*+)(?P<relative>{_SEGMENT}++(?:/{_SEGMENT}++)*+)|(?P<rooted>{_PLAIN_PATH})"
)
_PLAIN_URL = re.compile(rf"(?P<origin>https?://{_PLAIN_HOST})(?P<path>{_PLAIN_PATH})")

_NEEDS_NO_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*+:|[/\\]")


class UrlName(NamedTuple):
    """How a URL of a page is stored. `url` is None when no browser could make a URL of `raw`."""

    id: str
    url: str | None
    raw: str | None  # as the page had it, where that differs from `url`


def canonical_url(raw: str, base: str | None = None) -> str | None:
    """The URL a browser would request for `raw` on a page at `base`: WHATWG-serialised, without fragment or user.

    User and password are dropped: they do not name another image, and we send no credentials of strangers. None when
    there is no such URL.
    """
    try:
        href = normalize_url(raw) if base is None else join_url(base, raw)
        if "#" in href or "@" in href:
            url = URL(href)
            del url.hash
            if url.username or url.password:
                url.username = url.password = ""
            href = url.href
    except ValueError:  # also lone surrogates
        return None
    return href


class Base:
    """What the relative URLs of one page are resolved against. Equal to `canonical_url(raw, base)`, and faster.

    Against a base of more than MAX_STORED_CHARS only what does not need its path is resolved: else a page with one
    long base and many images would cost their product.
    """

    def __init__(self, base: str | None) -> None:
        self._is_long = base is not None and len(base) > MAX_STORED_CHARS
        if base is not None and self._is_long:
            origin = _CANONICAL.match(base)
            base = f"{origin['origin']}/" if origin is not None else None
        self.url = base
        plain = _PLAIN_URL.fullmatch(base) if base is not None else None
        self._origin = plain["origin"] if plain is not None else None
        self._folders = plain["path"].partition("?")[0].split("/")[:-1] if plain is not None else [""]

    def join(self, raw: str) -> str | None:
        """The canonical URL of what the page wrote, or None when there is no such URL."""
        if self._is_long and _NEEDS_NO_PATH.match(raw) is None:
            return None
        if self._origin is not None and (reference := _PLAIN_REFERENCE.fullmatch(raw)) is not None:
            if reference.lastgroup == "rooted":
                return self._origin + raw
            up, relative = reference["up"], reference["relative"]
            folders = self._folders[: max(1, len(self._folders) - len(up) // 3)] if up else self._folders
            return f"{self._origin}{'/'.join(folders)}/{relative}"
        return raw if _PLAIN_URL.fullmatch(raw) is not None else canonical_url(raw, self.url)


def plain_or_canonical(url: str) -> str | None:
    """`canonical_url(url)`, without the parser where the URL is plain."""
    return url if _PLAIN_URL.fullmatch(url) is not None else canonical_url(url)


def name_url(raw: str, base: "str | Base | None" = None) -> UrlName:
    """Canonical URL and id of what a page wrote; equal URLs have equal ids whatever page they stand on."""
    raw = raw.strip(_STRIPPED)
    if raw[:5].lower() == "data:":
        short = _cut(raw, _DATA_CHARS)
        return UrlName(url_id(short), short, None)
    url = base.join(raw) if isinstance(base, Base) else canonical_url(raw, base)
    if url is None:
        return UrlName(url_id(f"unparsable {raw}"), None, _cut(raw, MAX_STORED_CHARS))
    return UrlName(url_id(url), _cut(url, MAX_STORED_CHARS), None if raw == url else _cut(raw, MAX_STORED_CHARS))


class UrlParts(NamedTuple):
    """A canonical http(s) URL, cut: `origin` is scheme, host and port; `target` is path and query."""

    scheme: str
    host: str
    origin: str
    target: str


def split_url(url: str) -> UrlParts:
    """Parts of a canonical URL. Raises ValueError when it is not a canonical http(s) URL."""
    match = _CANONICAL.fullmatch(url)
    if match is None:
        raise ValueError(f"not a canonical http(s) URL: {url[:200]!r}")
    return UrlParts(match["scheme"], match["host"], match["origin"], match["target"])


def url_id(url: str) -> str:
    """24 hex characters of the SHA-256 of a canonical URL: 96 bits, so 10^10 URLs collide with chance 10^-9."""
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:_ID_CHARS]


def _cut(text: str, limit: int) -> str:
    """Text of bounded length that still differs where the whole differs."""
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()  # lone surrogates cannot be stored
    return text if len(text) <= limit else f"{text[:limit]}...sha256:{url_id(text)}"


def ascii_host(host: str) -> str | None:
    """A host name or address in any notation → as a canonical URL writes it; None when it is no host.

    `0x7f.1`, `2130706433`, `0177.0.0.1` → `127.0.0.1`; `BÜCHER.example` → `xn--bcher-kva.example`; IPv6 in brackets.
    """
    try:
        return URL(f"http://{host}/").hostname or None
    except ValueError:
        return None


def ascii_domain(name: str) -> str:
    """A domain as lists write it (any case, non-ASCII, leading `*.` or dot, trailing dot) → as hosts write it."""
    bare = name.strip().lower().removeprefix("*").strip(".")
    return bare if bare.isascii() else str(idna_to_ascii(bare.encode()).decode())


@lru_cache(maxsize=1)
def _public_suffixes() -> PublicSuffixList:
    return PublicSuffixList()  # the copy that the package carries: no download


@lru_cache(maxsize=1)
def public_suffix_version() -> str:
    """Which Public Suffix List this is: the version of the package that carries it."""
    return version("publicsuffixlist")


def is_public_suffix(domain: str) -> bool:
    """True for what nobody owns as a whole: `com`, `co.uk`, `github.io` (private section included)."""
    return _public_suffixes().is_public(domain)


@lru_cache(maxsize=65536)
def registered_domain(host: str) -> str:
    """What someone registered: `a.b.co.uk` → `b.co.uk`, `x.github.io` → itself; addresses and suffixes are themselves.

    Rules: the Public Suffix List with its private section, because there each label is another owner's.
    """
    host = host.rstrip(".")
    if host.startswith("[") or host.replace(".", "").isdigit():
        return host
    return _public_suffixes().privatesuffix(host) or host
