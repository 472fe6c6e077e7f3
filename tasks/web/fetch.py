"""One URL to one verified image: robots and reservations first, every hop checked, retries only where they help."""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from storage.image_marks import UNMARKED
from storage.images import ImageError, ImageInfo, probe_whole, verify
from tasks.web.addresses import why_private_host
from tasks.web.client import Client
from tasks.web.fetch_config import FetchConfig
from tasks.web.http import Headers, Limits, Refusal, Response, WantsBody
from tasks.web.opt_out import robots_tag_opt_out, tdm_header_reserved
from tasks.web.politeness import Gates, Turns
from tasks.web.site_rules import PRODUCT, Retries, SiteRules
from tasks.web.urls import UrlParts, canonical_url, registered_domain, split_url

__all__ = ["FetchConfig", "Fetched", "Fetcher", "HopCheck", "retry_after_seconds"]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_EMPTY = frozenset({204, 205})
_MAX_HOSTS = 50_000
_PROBED_AT_ONCE_BYTES = 1 << 20  # a walk over headers, microseconds; a file made for it may take seconds
_WORTH_RETRYING = frozenset({408, 429, 500, 502, 503, 504})

HopCheck = Callable[[str], tuple[str, str | None] | None]
"""Redirect target (canonical URL) → why the URL policy forbids it (reason, detail), or None."""


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
        self._private_hosts: dict[str, str | None] = {}
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
                parts = self._check_target(here, first=here == url)
                if not self._rules.check_known(parts):
                    await self._rules.check(parts)
                response = await self._request(parts, self._limits, self._wants_body)
                location = response.headers.get("location")
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
        try:
            private = self._private_hosts[parts.host]
        except KeyError:
            private = self._look_at_host(parts.host)
        if private is not None:
            raise Refusal("private_address", f"{parts.host} ({private})")
        forbidden = None if first else self._check_hop(url)
        if forbidden is not None:
            raise Refusal("bad_redirect", f"{forbidden[0]}: {forbidden[1] or url[:200]}")
        return parts

    def _look_at_host(self, host: str) -> str | None:
        """Why a host is not on the public web by its look alone, kept: one host has many URLs."""
        if len(self._private_hosts) >= _MAX_HOSTS:
            self._private_hosts.clear()
        return self._private_hosts.setdefault(host, why_private_host(host, self.config.allow_networks))

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
        if status in _REDIRECTS and "location" in headers:
            return False
        if status in _EMPTY:
            raise Refusal("empty_body", f"HTTP {status}", status=status)
        if status != 200:
            raise Refusal(
                "rate_limited" if status == 429 else f"http_{status}", retry=status in _WORTH_RETRYING,
                wait_seconds=retry_after_seconds(headers) if status in (429, 503) else None, status=status,
            )  # fmt: skip
        directive = robots_tag_opt_out(headers.all_of("x-robots-tag"), PRODUCT, self.config.x_robots_tag)
        if directive is not None:
            raise Refusal("noai", f"X-Robots-Tag: {directive}", status=status)
        if self.config.tdm_reservation and tdm_header_reserved(headers):
            raise Refusal("tdm_reserved", "tdm-reservation: 1", status=status)
        return True

    async def _verified(self, url: str, final_url: str, response: Response) -> Fetched:
        content_type = _printable(response.headers.get("content-type"))
        result = Fetched(url, status=response.status, final_url=final_url, content_type=content_type)
        if response.status in _REDIRECTS:
            result.reason, result.detail = "bad_redirect", "no Location"
        elif not response.body:
            result.reason, result.detail = "empty_body", "0 bytes"
        else:
            try:
                if len(response.body) > _PROBED_AT_ONCE_BYTES:
                    info = await self._aside(probe_whole, response.body)
                else:
                    info = probe_whole(response.body, max_pixels=self.config.max_pixels)
                if self.config.decode or info.format in UNMARKED:
                    info = await self._aside(verify, response.body)
                result.info, result.body = info, response.body
            except ImageError as error:
                result.reason, result.detail = error.reason, error.detail
        return result

    async def _aside(self, check: Callable[..., ImageInfo], body: bytes) -> ImageInfo:
        """What a check says of the bytes, in a thread that does not hold up others' transfers. Raises ImageError."""
        limit, loop = self.config.max_pixels, asyncio.get_running_loop()
        return await loop.run_in_executor(self._verifiers, lambda: check(body, max_pixels=limit))


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
    if text is None or (text.isascii() and len(text) <= 200):
        return text
    return text.encode("utf-8", "replace").decode()[:200]
