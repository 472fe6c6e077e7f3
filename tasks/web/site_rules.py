"""What a site says to robots, asked once per origin and kept: robots.txt and /.well-known/tdmrep.json."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from tasks.web import robots
from tasks.web.http import Headers, Limits, Refusal, Response, WantsBody
from tasks.web.opt_out import TDMREP_MAX_BYTES, TDMREP_PATH, TdmRules, parse_tdmrep
from tasks.web.robots import Robots, parse_robots
from tasks.web.urls import UrlParts, canonical_url

PRODUCT = "curate-lvd"
_KEEP_SECONDS = 24 * 3600.0  # RFC 9309, 2.4
_KEEP_FAILED_SECONDS = 300.0
_MAX_ORIGINS = 50_000
_MAX_REDIRECTS = 5  # RFC 9309, 2.3.1.2
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NETWORK = frozenset({"dns", "rate_limited", "connection", "tls", "timeout", "private_address", "truncated"})

Request = Callable[[UrlParts, Limits, WantsBody], Awaitable[Response]]


class CheckTarget(Protocol):
    """Parts of a URL that may be asked; raises Refusal when it may not."""

    def __call__(self, url: str, *, first: bool) -> UrlParts: ...


@dataclass(frozen=True)
class _Rules:
    """One origin's rules; `refusal` when it could not be asked, which forbids everything."""

    robots: Robots = field(default_factory=Robots)
    tdm: TdmRules = field(default_factory=TdmRules)
    refusal: Refusal | None = None


@dataclass(frozen=True)
class Retries:
    """How often something is tried, and the wait before the second try, doubled before each further one."""

    attempts: int
    seconds: float


class SiteRules:
    """Rules by origin: fetched at the first URL of an origin (once, however many wait), kept for a day."""

    def __init__(
        self, request: Request, check_target: CheckTarget, *, robots: bool, tdm: bool, limits: Limits, retries: Retries
    ) -> None:
        self._request, self._check_target, self._use_robots, self._use_tdm = request, check_target, robots, tdm
        self._limits, self._retries = limits, retries
        self._known: dict[str, tuple[float, asyncio.Task[_Rules]]] = {}

    async def check(self, parts: UrlParts) -> None:
        """Raises Refusal (robots_txt, tdm_reserved, or the network's reason) when a URL may not be fetched."""
        if not self.check_known(parts):
            _judge(parts, await self._rules_of(parts))

    def check_known(self, parts: UrlParts) -> bool:
        """Whether that needs no question; then it is checked, too."""
        if not (self._use_robots or self._use_tdm):
            return True
        until, task = self._known.get(parts.origin, (0.0, None))
        if task is None or not task.done() or task.cancelled() or until < time.monotonic():
            return False
        _judge(parts, task.result())
        return True

    async def _rules_of(self, parts: UrlParts) -> _Rules:
        now = time.monotonic()
        until, task = self._known.get(parts.origin, (0.0, None))
        if task is None or until < now or task.cancelled():
            if len(self._known) >= _MAX_ORIGINS:
                self._known.clear()
            task = asyncio.ensure_future(self._ask(parts))
            self._known[parts.origin] = (now + _KEEP_SECONDS, task)
        rules = task.result() if task.done() else await asyncio.shield(task)
        if rules.refusal is not None:
            self._known[parts.origin] = (min(self._known[parts.origin][0], now + _KEEP_FAILED_SECONDS), task)
        return rules

    async def _ask(self, parts: UrlParts) -> _Rules:
        found, tdm = Robots(), TdmRules()
        try:
            if self._use_robots:
                found = parse_robots(await self._try_file(parts, "/robots.txt", robots.MAX_BYTES), PRODUCT)
        except Refusal as refusal:
            return _Rules(refusal=_forbidding(refusal))
        if self._use_tdm and found.allows(TDMREP_PATH):
            try:
                tdm = parse_tdmrep(await self._try_file(parts, TDMREP_PATH, TDMREP_MAX_BYTES))
            except Refusal:  # no file that can be read reserves nothing
                tdm = TdmRules()
        return _Rules(found, tdm)

    async def _try_file(self, parts: UrlParts, path: str, max_bytes: int) -> bytes:
        for attempt in range(1, self._retries.attempts):
            try:
                return await self._file(parts, path, max_bytes)
            except Refusal as refusal:
                if not refusal.retry:
                    raise
                await asyncio.sleep(self._retries.seconds * 2 ** (attempt - 1))
        return await self._file(parts, path, max_bytes)

    async def _file(self, parts: UrlParts, path: str, max_bytes: int) -> bytes:
        """A small file of an origin; empty when there is none (4xx, endless redirects). Raises Refusal on the rest."""
        url = f"{parts.origin}{path}"
        for _ in range(_MAX_REDIRECTS + 1):
            limits = replace(self._limits, max_bytes=max_bytes, cut=True)
            target = self._check_target(url, first=True)
            response = await self._request(target, limits, _wants_rules)
            if response.status not in _REDIRECTS:
                return response.body
            moved = canonical_url(response.headers.get("Location", ""), url)
            if moved is None or not moved.startswith(("http://", "https://")):
                return b""
            url = moved
        return b""


def _wants_rules(status: int, headers: Headers) -> bool:
    """Body on 200; none on redirects and 4xx; 429 and 5xx mean that the owner cannot be asked (RFC 9309, 2.3.1.4)."""
    if status == 429 or status >= 500:
        raise Refusal("robots_txt", f"robots.txt answers HTTP {status}", retry=True, status=status)
    return status == 200


def _forbidding(refusal: Refusal) -> Refusal:
    """Why nothing of an origin is fetched: the network's reason where there is one, else robots_txt."""
    if refusal.reason in _NETWORK:
        return Refusal(refusal.reason, f"robots.txt: {refusal.detail}")
    if refusal.reason == "robots_txt":
        return refusal
    return Refusal("robots_txt", f"robots.txt cannot be read: {refusal.reason}")


def _judge(parts: UrlParts, rules: _Rules) -> None:
    """Raises Refusal when an origin's rules forbid a URL."""
    if rules.refusal is not None:
        again = rules.refusal
        raise Refusal(again.reason, again.detail, status=again.status)
    if not rules.robots.allows(parts.target):
        raise Refusal("robots_txt", "disallowed")
    if rules.tdm.reserves(parts.target):
        raise Refusal("tdm_reserved", TDMREP_PATH)
