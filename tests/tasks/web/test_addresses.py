"""No address outside the public web passes, in any notation, and public ones do."""

from ipaddress import ip_address, ip_network
from socket import AF_INET, AF_INET6, IPPROTO_TCP, SOCK_STREAM

import pytest

from tasks.web.addresses import literal_address, why_not_public, why_private_host
from tasks.web.resolver import Answer, CheckedResolver, RefusedAddress

PRIVATE_HOSTS = [
    # loopback, in every IPv4 notation that browsers take
    "127.0.0.1", "127.1", "127.0.1", "127.255.255.254", "2130706433", "0x7f000001", "0x7f.0.0.1", "0x7f.1",
    "0177.0.0.1", "017700000001", "0177.0x0.0.1", "127.0.0.1.", "１２７.0.0.1", "①②⑦.0.0.1", "127。0。0。1",
    "%31%32%37.0.0.1", "0", "0.0.0.0", "0x0", "00",
    # private, link-local, shared, special
    "10.0.0.1", "10.255.255.255", "0xa000001", "012.0.0.1", "167772161", "10.1", "172.16.0.1", "172.31.255.255",
    "172.16.1", "192.168.0.1", "192.168.257", "0xc0a80001", "3232235521", "169.254.169.254", "0xa9fea9fe",
    "2852039166", "0251.0376.0251.0376", "169.254.43518", "100.64.0.1", "100.127.255.254", "100.100.100.200",
    "168.63.129.16", "192.0.0.1", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.19.255.255", "198.51.100.7",
    "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "4294967295",
    # IPv6, whole and carrying IPv4
    "[::]", "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:8.8.8.8]", "[::127.0.0.1]",
    "[::ffff:0:127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b::10.0.0.1]", "[64:ff9b:1::1]", "[2002:7f00:1::]",
    "[2001:0:7f00:1::]", "[2001:db8::1]", "[3fff::1]", "[100::1]", "[5f00::1]", "[fc00::1]", "[fd12:3456::1]",
    "[fe80::1]", "[feb0::1]", "[fec0::1]", "[ff02::1]", "[4000::1]", "[e000::1]",
    # names that only mean something inside
    "localhost", "LOCALHOST", "localhost.", "a.localhost", "printer.local", "db.internal", "metadata.google.internal",
    "router.lan", "wpad", "intranet", "host.intranet", "1.0.0.127.in-addr.arpa", "nas.home.arpa", "x.localdomain",
]  # fmt: skip
PUBLIC_HOSTS = [
    "8.8.8.8", "1.1.1.1", "134744072", "0x08080808", "010.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255",
    "100.128.0.0", "126.255.255.255", "128.0.0.1", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0",
    "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255", "[2606:4700::1111]",
    "[2a00:1450::1]", "[2001:4860:4860::8888]", "photos.example", "local.example", "internal.photos.example",
    "10.0.0.1.photos.example", "127.0.0.1.nip.example", "xn--bcher-kva.example", "0x7f.example", "a.b.c.example.",
]  # fmt: skip


def test_the_table_is_as_long_as_the_card_asks() -> None:
    assert len(PRIVATE_HOSTS) >= 60


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
def test_a_host_inside_is_private_in_any_notation(host: str) -> None:
    assert why_private_host(host) is not None


@pytest.mark.parametrize("host", PUBLIC_HOSTS)
def test_a_public_host_is_not_private(host: str) -> None:
    assert why_private_host(host) is None


def test_every_address_that_python_calls_special_is_refused() -> None:
    """Python's own registry (ipaddress.is_global) is a subset of what may be connected to."""
    numbers = [first * 2**24 + rest for first in range(256) for rest in (0, 1, 0x640001, 0xA80001, 0x336407, 0xFEA9FE)]
    for number in numbers:
        address = ip_address(number)
        assert address.is_global or why_not_public(address) is not None, address
    for text in ("::2", "1::", "2001:10::", "2001:20::", "2001:2::", "fdff::", "fe90::", "ff0e::1", "::ffff:1.1.1.1"):
        assert why_not_public(ip_address(text)) is not None, text


def test_only_the_named_networks_are_excepted() -> None:
    allowed = (ip_network("127.0.0.0/8"), ip_network("fd00::/8"))
    assert why_not_public(ip_address("127.0.0.1"), allowed) is None
    assert why_not_public(ip_address("fd00::1"), allowed) is None
    assert why_not_public(ip_address("10.0.0.1"), allowed) == "private"
    assert why_not_public(ip_address("::ffff:127.0.0.1"), allowed) == "IPv4-mapped"
    assert why_not_public(ip_address("::1"), allowed) == "loopback"


def test_notations_of_one_address_are_one_address() -> None:
    forms = ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "017700000001", "0x7f.0.0.1", "１２７.0.0.1"]
    assert {literal_address(form) for form in forms} == {ip_address("127.0.0.1")}
    assert literal_address("photos.example") is None


def test_the_very_address_that_is_connected_to_is_looked_at_once_more() -> None:
    """Whatever came between the check of a name and its connection: the socket itself is refused."""

    async def none(host: str) -> Answer:
        raise AssertionError("nobody asks")

    resolver = CheckedResolver(none, allow_networks=(ip_network("127.0.0.0/8"),), connect_to={})
    for family, inside in ((AF_INET, ("10.0.0.1", 80)), (AF_INET6, ("::ffff:7f00:1", 80, 0, 0))):
        with pytest.raises(RefusedAddress, match=r"private|IPv4-mapped"):
            resolver.open_socket((family, SOCK_STREAM, IPPROTO_TCP, "", inside))
    with resolver.open_socket((AF_INET, SOCK_STREAM, IPPROTO_TCP, "", ("127.0.0.1", 80))) as opened:
        assert opened.family == AF_INET
