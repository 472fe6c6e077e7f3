"""Names to addresses, each checked, and the checked one handed to the connector: no second look-up in between."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from aiohappyeyeballs import AddrInfoType as AddrInfo

from tasks.web.addresses import Address, Network, why_not_public

_UNTOLD_SECONDS = 300.0
_LONGEST_SECONDS = 24 * 3600.0
_FAILED_SECONDS = 30.0
_LOOKUP_THREADS = 32
_MAX_CACHED = 100_000


class Answer(NamedTuple):
    """Addresses of a name, as text, and how long they may be kept."""

    addresses: Sequence[str]
    seconds: float = _UNTOLD_SECONDS


Lookup = Callable[[str], Awaitable[Answer]]
"""Host name → all its addresses. Raises OSError (socket.gaierror) when there are none."""


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


def parse_nameserver(text: str) -> str:
    """ "192.0.2.1", "192.0.2.1:5353" or "[2001:db8::1]:5353" as c-ares writes it. Raises ValueError with the entry."""
    try:
        return f"[{address}]" if (address := ip_address(text.strip("[]"))).version == 6 else str(address)
    except ValueError:
        host, _, port = text.rpartition(":")
    try:
        address = ip_address(host.strip("[]"))
        number = int(port)
    except ValueError:
        raise ValueError(f"name server {text!r} is no address. Write it as 192.0.2.1 or [2001:db8::1]:5353.") from None
    if not 0 < number < 65536:
        raise ValueError(f"name server {text!r}: {number} is no port.")
    return f"[{address}]:{number}" if address.version == 6 else f"{address}:{number}"


def system_lookup() -> Lookup:
    """The system's resolver (both A and AAAA), in threads of its own so that slow names do not hold up quick ones."""
    pool = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="lookup")

    def look_up(host: str) -> Answer:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except UnicodeError as error:  # labels that are empty or longer than 63 characters
            raise socket.gaierror(socket.EAI_NONAME, str(error)) from error
        return Answer(list(dict.fromkeys(str(entry[4][0]) for entry in found)))

    async def lookup(host: str) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(pool, look_up, host)

    return lookup


@dataclass(frozen=True)
class _Known:
    until: float
    answer: asyncio.Task[list[Address]]


class CheckedResolver:
    """Public addresses only, cached.

    All addresses of a name are checked, and one that is not public refuses the name: a name that points inside and
    outside is an attack or a mistake. Answers are kept as long as their records say (a day at most; 5 minutes where
    the system's resolver does not say), failures for 30 seconds; at most 100,000 names. However many wait for a name,
    it is asked for once.
    """

    def __init__(
        self, lookup: Lookup, *, allow_networks: tuple[Network, ...], connect_to: Mapping[str, Endpoint]
    ) -> None:
        self._lookup, self._allow_networks, self._connect_to = lookup, allow_networks, connect_to
        self._known: dict[str, _Known] = {}

    async def endpoints(self, host: str, port: int) -> list[tuple[Address, int]]:
        """Checked (address, port) of a URL's host. Raises RefusedAddress, or what the lookup raises."""
        name = host.rstrip(".").lower()
        endpoint = find_endpoint(name, self._connect_to)
        if endpoint is not None:
            addresses, port = [_parsed(endpoint.address)], endpoint.port
        elif (literal := _literal(name)) is not None:
            addresses = [literal]
        else:
            addresses = await self._addresses(name)
        for address in addresses:
            self.check(address, name)
        return [(address, port) for address in addresses]

    def check(self, address: Address, host: str) -> None:
        """Raises RefusedAddress when an address may not be connected to."""
        network = why_not_public(address, self._allow_networks)
        if network is not None:
            raise RefusedAddress(f"{host} is at {address} ({network})")

    def open_socket(self, info: AddrInfo) -> socket.socket:
        """The connector's socket factory: a last look at the very address that is about to be connected to."""
        family, kind, protocol, _, target = info
        self.check(_parsed(str(target[0])), str(target[0]))
        return socket.socket(family, kind, protocol)

    async def _addresses(self, name: str) -> list[Address]:
        now = time.monotonic()
        known = self._known.get(name)
        if known is None or known.until < now or (known.answer.done() and known.answer.cancelled()):
            self._forget(now)
            answer = asyncio.ensure_future(self._look_up(name))
            answer.add_done_callback(lambda task: self._settle(name, task))
            known = self._known[name] = _Known(float("inf"), answer)  # until it is there
        return await asyncio.shield(known.answer)

    async def _look_up(self, name: str) -> list[Address]:
        answer = await self._lookup(name)
        found = [ip_address(text) for text in answer.addresses]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "no addresses")
        kept_seconds = min(max(0.0, answer.seconds), _LONGEST_SECONDS)
        if (known := self._known.get(name)) is not None:
            self._known[name] = _Known(time.monotonic() + kept_seconds, known.answer)
        return found

    def _settle(self, name: str, answer: asyncio.Task[list[Address]]) -> None:
        if not answer.cancelled() and answer.exception() is not None:
            self._known[name] = _Known(time.monotonic() + _FAILED_SECONDS, answer)

    def _forget(self, now: float) -> None:
        if len(self._known) >= _MAX_CACHED:
            self._known = {name: known for name, known in self._known.items() if known.until > now}
        while len(self._known) >= _MAX_CACHED:  # the longest known go first; who waits for one keeps its task
            del self._known[next(iter(self._known))]

    async def close(self) -> None:
        for known in self._known.values():
            known.answer.cancel()


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Address:
    return ip_address(text)


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None
