"""Which URLs may be fetched, in the user's words, and the rules that they make."""

from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tasks.config import StageConfig
from tasks.web.domains import load_domain_set
from tasks.web.policy import Rules, check_pattern
from tasks.web.urls import MAX_STORED_CHARS


class UrlPolicy(StageConfig):
    """Which URLs may be fetched. A domain in a list stands for its subdomains too."""

    schemes: frozenset[Literal["http", "https"]] = frozenset({"http", "https"})
    """Schemes that are fetched."""
    allowed_ports: frozenset[Annotated[int, Field(ge=1, le=65535)]] = frozenset({80, 443})
    """Ports that a URL may name."""
    max_url_chars: Annotated[int, Field(ge=16, le=MAX_STORED_CHARS)] = 2048
    """Longer URLs are dropped."""
    allow_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks (10.0.0.0/8, fd00::/8) whose addresses may stand in a URL though they are not public."""
    blocked_domains: tuple[str, ...] = ()
    """Domains not to fetch from."""
    blocked_domain_files: tuple[str, ...] = ()
    """The same from files or URLs: plain lists, hosts files, or folders in the UT1 layout (domains, urls)."""
    allowed_domains: tuple[str, ...] = ()
    """If not empty, only these domains are fetched from."""
    allowed_domain_files: tuple[str, ...] = ()
    """The same from files."""
    opted_out_domains: tuple[str, ...] = ()
    """Domains whose owners asked to be left out."""
    opted_out_domain_files: tuple[str, ...] = ()
    """The same from files."""
    blocked_patterns: tuple[Annotated[str, AfterValidator(check_pattern)], ...] = ()
    """Regular expressions (RE2); a URL in which one is found, anywhere, is not fetched: `/ads?/`, `[?&]pixel=`."""
    blocked_extensions: frozenset[Annotated[str, Field(pattern="^[a-z0-9]{1,8}$")]] = frozenset()
    """Extensions (svg, ico, gif) of the path's last segment that are not fetched. A hint only: what a file is, its
    bytes say, so none is blocked unless named here."""
    urls_per_part: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """URLs of one download part (at most)."""
    rows_per_bucket: Annotated[int, Field(ge=1)] = 1_000_000
    """Rows that duplicates are looked for in at a time (expected): the memory of one worker, about 1 KB a row."""

    @property
    def list_files(self) -> tuple[str, ...]:
        """All list files."""
        return self.blocked_domain_files + self.allowed_domain_files + self.opted_out_domain_files


@lru_cache(maxsize=4)
def policy_rules(config: UrlPolicy, lists: str) -> Rules:
    """The policy with its lists read; kept for the process, for as long as the lists' key is the same."""
    return Rules(
        schemes=frozenset(config.schemes),
        ports=config.allowed_ports,
        max_chars=config.max_url_chars,
        allow_networks=config.allow_networks,
        blocked=load_domain_set(config.blocked_domains, config.blocked_domain_files),
        allowed=load_domain_set(config.allowed_domains, config.allowed_domain_files),
        opted_out=load_domain_set(config.opted_out_domains, config.opted_out_domain_files),
        patterns=config.blocked_patterns,
        extensions=frozenset(config.blocked_extensions),
    )
