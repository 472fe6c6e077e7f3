"""What tests of the download's engine ask it with: short limits, one server for every name."""

from collections.abc import Callable
from typing import Any

from tasks.web.fetch import FetchConfig, Fetched
from tests.tasks.web.hostile_web import HostileWeb

Fetch = Callable[..., list[Fetched]]


def config_for(web: HostileWeb, **changes: Any) -> FetchConfig:
    fast: dict[str, Any] = {
        "connect_to": {"*": f"127.0.0.1:{web.port}"},
        "allow_networks": ("127.0.0.0/8",),
        "total_seconds": 0.6,
        "connect_seconds": 0.3,
        "read_seconds": 0.3,
        "retry_seconds": 0.01,
        "max_retry_after_seconds": 1.0,
        "max_bytes": 1_000_000,
        "requests_per_second_per_domain": 10_000,
        "contact": "https://lab.example/crawler",
    }
    return FetchConfig(**(fast | changes))


def redirect(web: HostileWeb, where: str, target: str, status: int = 302) -> None:
    web.page(where, b"", status, Location=target)
