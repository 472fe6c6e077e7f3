"""How URLs are fetched, in the user's words: limits, politeness, whose wishes are honoured."""

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from tasks.config import StageConfig
from tasks.web.http import Limits
from tasks.web.resolver import parse_connect_to, parse_nameserver
from tasks.web.site_rules import PRODUCT


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
    """Threads that look at large files, and decode where `decode` asks for it."""
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
