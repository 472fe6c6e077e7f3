"""The own resolver against a name server on loopback: both kinds at once, answers kept as long as they say."""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network

import pytest

from tasks.web.dns import Resolver
from tasks.web.resolver import Answer, CheckedResolver, RefusedAddress, parse_nameserver

A, CNAME, SOA, AAAA = 1, 5, 6, 28
NXDOMAIN, SERVFAIL = 3, 2
Record = tuple[int, int, bytes]  # type, seconds to live, data


class NameServer(asyncio.DatagramProtocol):
    """Answers from `records` by (name, kind); a name that stands nowhere does not exist. `together`: an answer waits
    until a name was asked for in both kinds."""

    def __init__(self, records: dict[tuple[str, int], Sequence[Record]], *, code: int = NXDOMAIN) -> None:
        self.records, self._code = records, code
        self.asked: Counter[tuple[str, int]] = Counter()
        self.together = False
        self._waiting: dict[str, list[tuple[bytes, object]]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, query: bytes, sender: tuple[str, int]) -> None:
        name, end = _name(query, 12)
        (kind,) = struct.unpack_from(">H", query, end)
        self.asked[name, kind] += 1
        reply = self._reply(query[: end + 4], name, kind)
        waiting = self._waiting.setdefault(name, [])
        waiting.append((reply, sender))
        if not self.together or {one for asked, one in self.asked if asked == name} >= {A, AAAA}:
            for data, to in waiting:
                self._transport.sendto(data, to)  # type: ignore[attr-defined]
            waiting.clear()

    def _reply(self, question: bytes, name: str, kind: int) -> bytes:
        known = any(asked == name for asked, _ in self.records)
        answers = self.records.get((name, kind), ())
        header = question[:2] + struct.pack(">HHHHH", 0x8180 | (0 if known else self._code), 1, len(answers), 0, 0)
        body = b"".join(
            b"\xc0\x0c" + struct.pack(">HHIH", what, 1, seconds, len(data)) + data for what, seconds, data in answers
        )
        return header + question[12:] + body


def _name(message: bytes, at: int) -> tuple[str, int]:
    labels = []
    while size := message[at]:
        labels.append(message[at + 1 : at + 1 + size].decode().lower())
        at += 1 + size
    return ".".join(labels), at + 1


def v4(text: str, seconds: int = 300) -> Record:
    return A, seconds, ip_address(text).packed


def v6(text: str, seconds: int = 300) -> Record:
    return AAAA, seconds, ip_address(text).packed


@asynccontextmanager
async def served(server: NameServer) -> AsyncIterator[str]:
    """The server's address and port for the block."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: server, local_addr=("127.0.0.1", 0))
    try:
        yield "127.0.0.1:{}".format(transport.get_extra_info("sockname")[1])
    finally:
        transport.close()


async def look_up(server: NameServer, *hosts: str, seconds: float = 2.0) -> list[Answer | OSError]:
    """What one resolver says of each host, one after the other."""
    async with served(server) as address:
        resolver = Resolver([address], seconds=seconds)
        try:
            found: list[Answer | OSError] = []
            for host in hosts:
                try:
                    found.append(await resolver.lookup(host))
                except OSError as error:
                    found.append(error)
            return found
        finally:
            await resolver.close()


def test_both_kinds_of_address_are_asked_for_at_once() -> None:
    """The server holds every answer back until it was asked for both: one after the other would never end."""
    server = NameServer(
        {("a.example", A): [v4("192.0.2.1"), v4("192.0.2.2")], ("a.example", AAAA): [v6("2001:db8::1")]}
    )
    server.together = True
    (answer,) = asyncio.run(look_up(server, "a.example"))
    assert isinstance(answer, Answer)
    assert sorted(answer.addresses) == ["192.0.2.1", "192.0.2.2", "2001:db8::1"]


def test_one_kind_of_address_is_enough() -> None:
    server = NameServer({("four.example", A): [v4("192.0.2.1")], ("six.example", AAAA): [v6("2001:db8::6")]})
    four, six = asyncio.run(look_up(server, "four.example", "six.example"))
    assert isinstance(four, Answer)
    assert isinstance(six, Answer)
    assert (list(four.addresses), list(six.addresses)) == (["192.0.2.1"], ["2001:db8::6"])


def test_the_shortest_lived_record_on_the_way_says_how_long_an_answer_lasts() -> None:
    alias: Record = (CNAME, 7, b"\x03cdn\x07example\x00")
    server = NameServer(
        {("a.example", A): [alias, v4("192.0.2.1", 600)], ("a.example", AAAA): [alias, v6("2001:db8::1", 60)],
         ("b.example", A): [v4("192.0.2.1", 600)], ("b.example", AAAA): [v6("2001:db8::1", 60)]}
    )  # fmt: skip
    first, second = asyncio.run(look_up(server, "a.example", "b.example"))
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert (first.seconds, second.seconds) == (7, 60)


@pytest.mark.parametrize(("code", "reason"), [(NXDOMAIN, socket.EAI_NONAME), (SERVFAIL, socket.EAI_AGAIN)])
def test_a_name_without_address_says_whether_it_is_worth_asking_again(code: int, reason: int) -> None:
    (error,) = asyncio.run(look_up(NameServer({}, code=code), "nowhere.example", seconds=0.2))
    assert isinstance(error, socket.gaierror)
    assert error.args[0] == reason


@pytest.mark.parametrize("name", ["a..example", "a" * 64 + ".example", "a." * 200, "\u00fc.example", ""])
def test_what_is_no_name_has_no_address(name: str) -> None:
    (error,) = asyncio.run(look_up(NameServer({}), name))
    assert isinstance(error, socket.gaierror)


def test_a_dead_server_is_passed_over() -> None:
    async def ask() -> Answer:
        async with served(NameServer({("a.example", A): [v4("192.0.2.9")]})) as alive:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as dead:
                dead.bind(("127.0.0.1", 0))  # takes queries and never answers
                resolver = Resolver([f"127.0.0.1:{dead.getsockname()[1]}", alive], seconds=0.1)
                try:
                    return await resolver.lookup("a.example")
                finally:
                    await resolver.close()

    assert asyncio.run(ask()).addresses == ["192.0.2.9"]


async def checked(server: NameServer, hosts: Sequence[str], *, at_once: bool = False) -> list[object]:
    """What a CheckedResolver on top says of hosts, asked one after the other, or all at once."""
    async with served(server) as address:
        own = Resolver([address], seconds=2.0)
        resolver = CheckedResolver(own.lookup, allow_networks=(ip_network("127.0.0.0/8"),), connect_to={})
        try:
            if at_once:
                return list(await asyncio.gather(*(resolver.endpoints(host, 80) for host in hosts)))
            return [(await asyncio.gather(resolver.endpoints(host, 80), return_exceptions=True))[0] for host in hosts]
        finally:
            await resolver.close()
            await own.close()


def test_an_answer_is_asked_for_once_as_long_as_it_lasts() -> None:
    server = NameServer({("long.example", A): [v4("127.0.0.1", 300)], ("short.example", A): [v4("127.0.0.1", 0)]})
    asyncio.run(checked(server, ["long.example"] * 3 + ["LONG.example."]))
    assert server.asked["long.example", A] == 1
    asyncio.run(checked(server, ["short.example"] * 3))
    assert server.asked["short.example", A] == 3


def test_however_many_wait_for_a_name_it_is_asked_for_once() -> None:
    server = NameServer({("busy.example", A): [v4("127.0.0.1", 0)]})
    found = asyncio.run(checked(server, ["busy.example"] * 20, at_once=True))
    assert len(found) == 20
    assert server.asked["busy.example", A] == 1


def test_a_missing_name_is_remembered_as_missing() -> None:
    server = NameServer({})
    first, second = asyncio.run(checked(server, ["gone.example"] * 2))
    assert isinstance(first, socket.gaierror)
    assert isinstance(second, socket.gaierror)
    assert server.asked["gone.example", A] == 1


def test_a_name_that_also_points_inside_is_refused_by_its_other_kind_of_address() -> None:
    server = NameServer({("two.example", A): [v4("127.0.0.1")], ("two.example", AAAA): [v6("fd00::1")]})
    (error,) = asyncio.run(checked(server, ["two.example"]))
    assert isinstance(error, RefusedAddress)


@pytest.mark.parametrize(
    ("text", "server"),
    [("192.0.2.1", "192.0.2.1"), ("192.0.2.1:53", "192.0.2.1:53"), ("2001:db8::1", "[2001:db8::1]"),
     ("[2001:db8::1]", "[2001:db8::1]"), ("[2001:db8::1]:5353", "[2001:db8::1]:5353")],
)  # fmt: skip
def test_name_servers_are_written_in_three_ways(text: str, server: str) -> None:
    assert parse_nameserver(text) == server


@pytest.mark.parametrize(
    "text", ["dns.example", "192.0.2.1:port", "192.0.2.1:0", "192.0.2.1:70000", "", "dns.example:53"]
)
def test_a_name_server_is_an_address(text: str) -> None:
    with pytest.raises(ValueError, match="name server"):
        parse_nameserver(text)
