"""Which addresses and host names are not the public web: the check that keeps a crawler out of our own networks.

Fails closed: IPv4 by a deny table (IANA special-purpose registry, RFC 6890 and its updates), IPv6 by an allow rule
(2000::/3, the only block IANA gives out) minus the special blocks inside it.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from tasks.web.urls import ascii_host

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_SPECIAL: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(block), name)
    for block, name in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "cloud metadata"),  # Azure's wire server, a public number on the inside
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "protocol assignments"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("::/96", "IPv4-compatible"),
        ("64:ff9b::/96", "NAT64"),
        ("64:ff9b:1::/48", "local NAT64"),
        ("2001::/23", "protocol assignments"),  # Teredo, benchmarking, ORCHID
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("3fff::/20", "documentation"),
        ("fc00::/7", "unique local"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")

_PRIVATE_SUFFIXES = frozenset({"localhost", "local", "localdomain", "internal", "intranet", "lan", "arpa"})
"""RFC 6761, 6762, 8375, ICANN's `.internal`, reverse names, and the names that routers and clouds use inside."""
# A host that the URL standard can only read as a name: its last label does not start like a number.
_PLAIN_NAME = re.compile(r"[a-z0-9_.-]+\.[a-z][a-z0-9-]*\.?")


def why_not_public(address: Address, allowed: Iterable[Network] = ()) -> str | None:
    """Name of the special network an address lies in, None when it may be connected to.

    `allowed` networks are excepted as written: allowing 127.0.0.0/8 does not allow ::ffff:127.0.0.1.
    """
    if any(address.version == network.version and address in network for network in allowed):
        return None
    return _special_network(address)


@lru_cache(maxsize=65536)
def _special_network(address: Address) -> str | None:
    for network, name in _SPECIAL:
        if address.version == network.version and address in network:
            return name
    if address.version == 6 and address not in _GLOBAL_V6:
        return "reserved"
    return None


def literal_address(host: str) -> Address | None:
    """The address that a URL's host is, in any notation browsers take; None when the host is a name."""
    canonical = ascii_host(host)
    if canonical is None:
        return None
    try:
        return ip_address(canonical.strip("[]"))
    except ValueError:
        return None


def why_private_host(host: str, allowed: Iterable[Network] = ()) -> str | None:
    """Why a host cannot be on the public web by its look alone (no resolution), or None.

    Literals by the table above; names that only resolve inside: localhost, .local, .internal, and names of one label.
    """
    if not _PLAIN_NAME.fullmatch(host):
        address = literal_address(host)
        if address is not None:
            return why_not_public(address, allowed)
    _, dot, last = host.rstrip(".").lower().rpartition(".")
    if last in _PRIVATE_SUFFIXES:
        return "private name"
    return None if dot else "single-label name"
