"""One URL to one verified image: robots and reservations first, every hop checked, retries only where they help."""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from storage.image_marks import UNMARKED
from storage.images import ImageError, ImageInfo, probe_whole, verify
from tasks.config import StageConfig
from tasks.web.addresses import why_private_host
from tasks.web.client import Client
from tasks.web.http import Headers, Limits, Refusal, Response, WantsBody
from tasks.web.opt_out import robots_tag_opt_out, tdm_header_reserved
from tasks.web.politeness import Gates, Turns
from tasks.web.resolver import parse_connect_to, parse_nameserver
from tasks.web.site_rules import PRODUCT, Retries, SiteRules
from tasks.web.urls import UrlParts, canonical_url, registered_domain, split_url

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_EMPTY = frozenset({204, 205})
_WORTH_RETRYING = frozenset({408, 429, 500, 502, 503, 504})

HopCheck = Callable[[str], tuple[str, str | None] | None]
"""Redirect target (canonical URL) → why the URL policy forbids it (reason, detail), or None."""


class FetchConfig(StageConfig):
    """How images are fetched: limits, politeness, what owners' wishes are honoured."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset(
        {"connect_to", "concurrency", "concurrency_per_domain", "requests_per_second_per_domain", "verify_threads"}
        | {"memory_bytes", "contact", "resolver", "nameservers", "dns_seconds", "http2"}
    )

    contact: Annotated[str, Field(max_length=200, pattern=r"^[\x21-\x7e ]*$")] = ""
    """URL or mail address at which site owners reach you; it stands in the user agent. Please set it."""
    total_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """Longest time of one request, from connecting to the last byte."""
    connect_seconds: Annotated[float, Field(gt=0, le=600)] = 10.0
    """Longest time until a connection stands."""
    read_seconds: Annotated[float, Field(gt=0, le=600)] = 10.0
    """Longest silence while a response is read."""
    max_bytes: Annotated[int, Field(ge=1, le=1 << 30)] = 20 << 20
    """Largest body (unpacked) that is taken."""
    max_pixels: Annotated[int, Field(ge=1, le=1 << 31)] = 89_478_485
    """Largest width x height that is decoded."""
    max_redirects: Annotated[int, Field(ge=0, le=20)] = 5
    """Redirects followed for one URL."""
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Tries of one URL; only connection failures, bodies cut short and 408, 429, 500, 502, 503, 504 are tried again."""
    retry_seconds: Annotated[float, Field(ge=0, le=600)] = 1.0
    """Wait before the second try; doubled before each further one."""
    max_retry_after_seconds: Annotated[float, Field(ge=0, le=3600)] = 60.0
    """Longest `Retry-After` that is waited for; a host that wants longer is not asked again until then."""
    allow_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks that are not public and may be connected to all the same (127.0.0.0/8, 10.0.0.0/8, fd00::/8)."""
    connect_to: dict[str, str] = Field(default_factory=dict)
    """Where to connect instead of resolving: host, `*.suffix` or `*` → address:port, for mirrors and tests. The request
    keeps its Host and TLS name; the address is checked like any other."""
    resolver: Literal["own", "system"] = "own"
    """own: asks the name servers itself, A and AAAA at once, and keeps answers as long as they say. system: the
    machine's own (hosts file and all), in threads, its answers kept for 5 minutes."""
    nameservers: tuple[str, ...] = ()
    """Servers that the own resolver asks, as address or address:port; none = those of this machine's resolv.conf."""
    dns_seconds: Annotated[float, Field(gt=0, le=60)] = 5.0
    """Wait for a name server's answer; then another is asked, or the same once more."""
    verify_tls: bool = True
    """Refuse bad certificates."""
    http2: bool = True
    """Speak HTTP/2 with https servers that offer it: all requests to an origin share one connection."""
    robots_txt: bool = True
    """Honour robots.txt (RFC 9309)."""
    tdm_reservation: bool = True
    """Honour the TDM Reservation Protocol: the tdm-reservation header and /.well-known/tdmrep.json."""
    x_robots_tag: frozenset[str] = frozenset({"noai", "noimageai"})
    """Directives of X-Robots-Tag that drop an image; add noindex, noimageindex or none to be stricter."""
    concurrency: Annotated[int, Field(ge=1, le=10_000)] = 256
    """Requests at a time, in one process."""
    concurrency_per_domain: Annotated[int, Field(ge=1, le=1000)] = 4
    """Requests at a time to one registered domain, in one process."""
    requests_per_second_per_domain: Annotated[float, Field(gt=0, le=100_000)] = 10.0
    """Requests a second to one registered domain, in one process."""
    failures_in_a_row: Annotated[int, Field(ge=1)] = 20
    """After so many network failures of a host in a row, the rest of its URLs in a part are given up."""
    max_host_seconds: Annotated[float, Field(gt=0)] = 1800.0
    """Longest time spent on one host in a part; the rest of its URLs are dropped as timeout."""
    decode: bool = False
    """Decode every image to see that it is sound. Without, the file's own marks must be whole (right header, every
    block there, an end), and `screen`, which decodes it anyway, drops what is damaged inside."""
    verify_threads: Annotated[int, Field(ge=1, le=64)] = 2
    """Threads that decode, where `decode` asks for it."""
    memory_bytes: Annotated[int, Field(ge=1 << 20)] = 512 << 20
    """Bodies kept in memory; more wait in a temporary file until their turn in the shard comes."""

    @field_validator("nameservers")
    @classmethod
    def _servers(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            parse_nameserver(entry)
        return entries

    @field_validator("connect_to")
    @classmethod
    def _endpoints(cls, entries: dict[str, str]) -> dict[str, str]:
        parse_connect_to(entries)
        return entries

    @property
    def user_agent(self) -> str:
        """What we call ourselves, with whom to write to."""
        return f"{PRODUCT}/0.1" + (f" (+{self.contact})" if self.contact else "")

    @property
    def limits(self) -> Limits:
        """Limits of one image request."""
        return Limits(self.total_seconds, self.connect_seconds, self.read_seconds, self.max_bytes)


@dataclass(slots=True)
class Fetched:
    """What became of one URL. `reason` None: `body` is an image, described by `info`."""

    url: str
    reason: str | None = None
    detail: str | None = None
    body: bytes | None = field(default=None, repr=False)
    info: ImageInfo | None = None
    status: int | None = None
    final_url: str | None = None
    content_type: str | None = None
    attempts: int = 0
    seconds: float = 0.0
    fetched_at: float | None = None
    """Seconds since 1970, UTC."""


class Fetcher:
    """Fetches URLs through one session; shared by everything in this process that downloads alike."""

    def __init__(self, client: Client, config: FetchConfig, *, verifiers: Executor, check_hop: HopCheck) -> None:
        self.config, self._client, self._verifiers, self._check_hop = config, client, verifiers, check_hop
        self._slots = Turns(config.concurrency)
        self.gates = Gates(
            concurrency=config.concurrency_per_domain, requests_per_second=config.requests_per_second_per_domain
        )
        self._limits = config.limits
        self._rules = SiteRules(
            self._request,
            self._check_target,
            robots=config.robots_txt,
            tdm=config.tdm_reservation,
            limits=self._limits,
            retries=Retries(config.max_attempts, config.retry_seconds),
        )

    async def fetch(self, url: str) -> Fetched:
        """The image at a canonical URL, or why there is none. Never raises for what a server does."""
        started, attempt = time.monotonic(), 0
        while True:
            attempt += 1
            result, again = await self._attempt(url)
            if again is None or attempt >= self.config.max_attempts:
                break
            # A host's own wish was noted where it came in; every request to that host waits for it.
            wait = self.config.retry_seconds * 2 ** (attempt - 1) if again.wait_seconds is None else 0.0
            if (again.wait_seconds or 0.0) > self.config.max_retry_after_seconds:
                break
            await asyncio.sleep(wait)
        result.attempts, result.seconds, result.fetched_at = attempt, time.monotonic() - started, time.time()
        return result

    async def _attempt(self, url: str) -> tuple[Fetched, Refusal | None]:
        """One try: the result, and the refusal when another try may help."""
        here, seen = url, {url}
        try:
            while True:
                response = await self._visit(here, first=here == url)
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or location is None:
                    return await self._verified(url, here, response), None
                here = self._next_hop(here, location, seen)
        except Refusal as refusal:
            result = Fetched(url, refusal.reason, refusal.detail, status=refusal.status, final_url=here)
            return result, refusal if refusal.retry else None

    def _next_hop(self, here: str, location: str, seen: set[str]) -> str:
        target = canonical_url(location, here)
        if target is None or not target.startswith(("http://", "https://")):
            raise Refusal("bad_redirect", f"to {location[:200]!a}")
        if target in seen:
            raise Refusal("redirect_loop", f"back to {target[:200]}")
        if len(seen) > self.config.max_redirects:
            raise Refusal("redirect_loop", f"more than {self.config.max_redirects} redirects")
        seen.add(target)
        return target

    def _check_target(self, url: str, *, first: bool) -> UrlParts:
        """A hop's parts. Raises Refusal when its looks alone forbid it: not public, or against the URL policy."""
        try:
            parts = split_url(url)
        except ValueError as error:
            raise Refusal("bad_redirect", str(error)) from error
        private = why_private_host(parts.host, self.config.allow_networks)
        if private is not None:
            raise Refusal("private_address", f"{parts.host} ({private})")
        forbidden = None if first else self._check_hop(url)
        if forbidden is not None:
            raise Refusal("bad_redirect", f"{forbidden[0]}: {forbidden[1] or url[:200]}")
        return parts

    async def _visit(self, url: str, *, first: bool) -> Response:
        parts = self._check_target(url, first=first)
        await self._rules.check(parts)
        return await self._request(parts, self._limits, self._wants_body)

    async def _request(self, parts: UrlParts, limits: Limits, wants: WantsBody) -> Response:
        """A request in the domain's turn and in one of the process's slots, taken in this order: a slot never waits."""
        while (wait := self.gates.pause_seconds(parts.host)) > 0:
            if wait > self.config.max_retry_after_seconds:
                raise Refusal("rate_limited", f"{parts.host} wants no request for {wait:.0f} s")
            await asyncio.sleep(wait)
        gate, slots = self.gates.of(registered_domain(parts.host)), self._slots
        if not gate.try_enter():
            await gate.enter()
        try:
            if not slots.try_take():
                await slots.take()
            try:
                return await self._client.get(parts, limits, wants)
            finally:
                slots.give()
        except Refusal as refusal:
            if refusal.wait_seconds is not None:
                self.gates.pause(parts.host, refusal.wait_seconds)
            raise
        finally:
            gate.leave()

    def _wants_body(self, status: int, headers: Headers) -> bool:
        """Owners' wishes and the status, before a byte of the body is paid for."""
        if status in _REDIRECTS and "Location" in headers:
            return False
        if status in _EMPTY:
            raise Refusal("empty_body", f"HTTP {status}", status=status)
        if status != 200:
            raise Refusal(
                "rate_limited" if status == 429 else f"http_{status}", retry=status in _WORTH_RETRYING,
                wait_seconds=retry_after_seconds(headers) if status in (429, 503) else None, status=status,
            )  # fmt: skip
        directive = robots_tag_opt_out(headers.all_of("X-Robots-Tag"), PRODUCT, self.config.x_robots_tag)
        if directive is not None:
            raise Refusal("noai", f"X-Robots-Tag: {directive}", status=status)
        if self.config.tdm_reservation and tdm_header_reserved(headers):
            raise Refusal("tdm_reserved", "tdm-reservation: 1", status=status)
        return True

    async def _verified(self, url: str, final_url: str, response: Response) -> Fetched:
        content_type = _printable(response.headers.get("Content-Type"))
        result = Fetched(url, status=response.status, final_url=final_url, content_type=content_type)
        if response.status in _REDIRECTS:
            result.reason, result.detail = "bad_redirect", "no Location"
        elif not response.body:
            result.reason, result.detail = "empty_body", "0 bytes"
        else:
            try:
                result.info = await self._checked(response.body)
                result.body = response.body
            except ImageError as error:
                result.reason, result.detail = error.reason, error.detail
        return result

    async def _checked(self, body: bytes) -> ImageInfo:
        """What the bytes are. Raises ImageError when they are no whole image."""
        limit = self.config.max_pixels
        info = probe_whole(body, max_pixels=limit)
        if not self.config.decode and info.format not in UNMARKED:
            return info
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._verifiers, lambda: verify(body, max_pixels=limit))


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Seconds that `Retry-After` asks for, given as a number or a date; None without one that can be read."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):  # years and zones of twenty digits overflow
        return None


def _printable(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "replace").decode()[:200]
