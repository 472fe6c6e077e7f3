"""A web on loopback, and an engine that fetches from it."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tasks.web.engine import Engine
from tasks.web.fetch import Fetched
from tasks.web.resolver import Lookup
from tests.tasks.web.fetching import Fetch, config_for
from tests.tasks.web.hostile_web import HostileWeb, serve_hostile_web


@pytest.fixture(scope="module")
def web() -> Iterator[HostileWeb]:
    with serve_hostile_web() as served:
        yield served


@pytest.fixture
def fetch(web: HostileWeb) -> Iterator[Fetch]:
    """Fetch URLs with a fresh engine; results in the URLs' order."""
    engines: list[Engine] = []

    def run(
        urls: Sequence[str], *, lookup: Lookup | None = None, check_hop: Any = None, **changes: Any
    ) -> list[Fetched]:
        engine = Engine(config_for(web, **changes), check_hop=check_hop or (lambda url: None), lookup=lookup)
        engines.append(engine)
        return [result for _, result in sorted(engine.download(urls), key=lambda one: one[0])]

    yield run
    for engine in engines:
        engine.close()
