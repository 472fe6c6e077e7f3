"""Names to addresses, each checked, and the checked one handed to the connector: no second look-up in between."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple

from aiohappyeyeballs import AddrInfoType as AddrInfo
from aiohttp.abc import AbstractResolver, ResolveResult

from tasks.web.addresses import Address, Network, why_not_public

Lookup = Callable[[str], Awaitable[Sequence[str]]]
"""Host name → addresses as text. Raises OSError (socket.gaierror) when there are none."""

_TTL_SECONDS = 300.0
_FAILED_TTL_SECONDS = 30.0
_LOOKUP_THREADS = 32
_MAX_CACHED = 100_000


class RefusedAddress(OSError):
    """An address that is not public, or a name that resolves to one. The message says which, and its network."""


class Endpoint(NamedTuple):
    """Where `connect_to` sends a host: an address and a port."""

    address: str
    port: int


def parse_connect_to(entries: Mapping[str, str]) -> dict[str, Endpoint]:
    """{"photos.example": "127.0.0.1:8080", "*.example": "[::1]:8080"} checked. Raises ValueError with the entry."""
    endpoints = {}
    for pattern, target in entries.items():
        host, _, port = target.rpartition(":")
        try:
            endpoints[pattern.lower()] = Endpoint(str(ip_address(host.strip("[]"))), int(port))
        except ValueError:
            raise ValueError(
                f"connect_to {pattern!r}: {target!r} is not address:port. Write it as 127.0.0.1:8080 or [::1]:8080."
            ) from None
    return endpoints


def find_endpoint(host: str, endpoints: Mapping[str, Endpoint]) -> Endpoint | None:
    """The entry for a host: its own name, else the longest `*.suffix` that it ends in, else `*`."""
    if host in endpoints:
        return endpoints[host]
    rest = host
    while "." in rest:
        rest = rest.partition(".")[2]
        if f"*.{rest}" in endpoints:
            return endpoints[f"*.{rest}"]
    return endpoints.get("*")


def system_lookup() -> Lookup:
    """The system's resolver (both A and AAAA), in threads of its own so that slow names do not hold up quick ones."""
    pool = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="lookup")

    def look_up(host: str) -> list[str]:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except UnicodeError as error:  # labels that are empty or longer than 63 characters
            raise socket.gaierror(socket.EAI_NONAME, str(error)) from error
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    async def lookup(host: str) -> Sequence[str]:
        return await asyncio.get_running_loop().run_in_executor(pool, look_up, host)

    return lookup


@dataclass(frozen=True)
class _Known:
    until: float
    answer: asyncio.Task[list[Address]]


class CheckedResolver(AbstractResolver):
    """aiohttp's resolver that answers with public addresses only.

    All addresses of a name are checked, and one that is not public refuses the name: a name that points inside and
    outside is an attack or a mistake. Answers are kept for 5 minutes, failures for 30 seconds.
    """

    def __init__(
        self, lookup: Lookup, *, allow_networks: tuple[Network, ...], connect_to: Mapping[str, Endpoint]
    ) -> None:
        self._lookup, self._allow_networks, self._connect_to = lookup, allow_networks, connect_to
        self._known: dict[str, _Known] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Checked addresses of a host. Raises RefusedAddress, or what the lookup raises."""
        name = host.rstrip(".").lower()
        endpoint = find_endpoint(name, self._connect_to)
        addresses = [ip_address(endpoint.address)] if endpoint else await self._addresses(name)
        for address in addresses:
            self.check(address, name)
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=endpoint.port if endpoint else port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    def check(self, address: Address, host: str) -> None:
        """Raises RefusedAddress when an address may not be connected to."""
        network = why_not_public(address, self._allow_networks)
        if network is not None:
            raise RefusedAddress(f"{host} is at {address} ({network})")

    def open_socket(self, info: AddrInfo) -> socket.socket:
        """The connector's socket factory: a last look at the very address that is about to be connected to."""
        family, kind, protocol, _, target = info
        self.check(ip_address(str(target[0])), str(target[0]))
        return socket.socket(family, kind, protocol)

    async def _addresses(self, name: str) -> list[Address]:
        now = time.monotonic()
        known = self._known.get(name)
        if known is None or known.until < now or (known.answer.done() and known.answer.cancelled()):
            self._forget(now)
            answer = asyncio.ensure_future(self._look_up(name))
            answer.add_done_callback(lambda task: self._settle(name, task))
            known = self._known[name] = _Known(now + _TTL_SECONDS, answer)
        return await asyncio.shield(known.answer)

    async def _look_up(self, name: str) -> list[Address]:
        found = [ip_address(text) for text in await self._lookup(name)]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "no addresses")
        return found

    def _settle(self, name: str, answer: asyncio.Task[list[Address]]) -> None:
        if not answer.cancelled() and answer.exception() is not None:
            self._known[name] = _Known(time.monotonic() + _FAILED_TTL_SECONDS, answer)

    def _forget(self, now: float) -> None:
        if len(self._known) > _MAX_CACHED:
            self._known = {name: known for name, known in self._known.items() if known.until > now}
        if len(self._known) > _MAX_CACHED:
            self._known.clear()

    async def close(self) -> None:
        for known in self._known.values():
            known.answer.cancel()
