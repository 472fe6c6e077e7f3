"""The download's own resolver: c-ares asks the servers that the config names, for A and AAAA at the same time.

Its threads, retries, TCP after a cut answer, EDNS and random ports are c-ares' own; what is kept and for how long is
`tasks.web.resolver`'s matter.
"""

import asyncio
import socket
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any

import pycares

from tasks.web.resolver import Answer, parse_nameserver

_TRIES = 2
_NO_SUCH_NAME = frozenset({pycares.errno.ARES_ENOTFOUND, pycares.errno.ARES_ENODATA, pycares.errno.ARES_EBADNAME})
_RECORDS = (pycares.QUERY_TYPE_A, pycares.QUERY_TYPE_AAAA)


class Resolver:
    """A c-ares channel of its own. `lookup` is safe on the loop that it was made on; `close` when done."""

    def __init__(self, nameservers: Sequence[str] = (), *, seconds: float = 5.0) -> None:
        """`nameservers` as `parse_nameserver` takes them; none: those of this machine. `seconds` for the first try."""
        servers = [parse_nameserver(one) for one in nameservers] or None
        self._channel = pycares.Channel(servers=servers, timeout=seconds, tries=_TRIES, rotate=len(servers or ()) > 1)

    async def lookup(self, host: str) -> Answer:
        """All IPv4 and IPv6 addresses of a name, kept no longer than the shortest of its records says.

        Raises socket.gaierror: EAI_NONAME when there is none, EAI_AGAIN when no server could tell.
        """
        found = await asyncio.gather(*(self._query(host, kind) for kind in _RECORDS), return_exceptions=True)
        answers = [one for one in found if isinstance(one, Answer) and one.addresses]
        if answers:
            addresses = [address for one in answers for address in one.addresses]
            return Answer(addresses, min(one.seconds for one in answers))
        failures = [one for one in found if isinstance(one, BaseException)]
        for failure in failures:
            if not isinstance(failure, socket.gaierror):
                raise failure
        again = next((one for one in failures if one.args[0] == socket.EAI_AGAIN), None)
        raise again or (failures[0] if failures else socket.gaierror(socket.EAI_NONAME, "no addresses"))

    def _query(self, host: str, kind: int) -> Awaitable[Answer]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Answer] = loop.create_future()
        try:
            self._channel.query(host, kind, callback=partial(_from_thread, loop, done, kind))
        except (pycares.AresError, UnicodeError) as error:
            done.set_exception(socket.gaierror(socket.EAI_NONAME, f"{host[:80]!a} is no name: {error}"))
        return done

    async def close(self) -> None:
        """End the channel; what still waits ends in EAI_AGAIN."""
        self._channel.cancel()
        self._channel.close()


def _from_thread(
    loop: asyncio.AbstractEventLoop, done: "asyncio.Future[Answer]", kind: int, result: Any, error: int | None
) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(_settle, done, kind, result, error)


def _settle(done: "asyncio.Future[Answer]", kind: int, result: Any, error: int | None) -> None:
    if done.done():
        return
    if error is not None:
        code = socket.EAI_NONAME if error in _NO_SUCH_NAME else socket.EAI_AGAIN
        done.set_exception(socket.gaierror(code, pycares.errno.strerror(error)))
        return
    # The records of the way there (CNAME) count too: the answer lasts as long as its shortest-lived step.
    addresses = [record.data.addr for record in result.answer if record.type == kind]
    done.set_result(Answer(addresses, float(min((record.ttl for record in result.answer), default=0))))
