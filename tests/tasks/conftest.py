"""One cluster for all stages' tests of a session: each process of one of their own would read torch anew."""

from collections.abc import Iterator

import pytest

from tasks.workers import Workers, _connect


@pytest.fixture(scope="session")
def two_processes() -> Iterator[Workers]:
    """The settings that use a cluster of two processes, each with two threads."""
    with _connect(Workers(num_workers=2, threads_per_worker=2)) as client:
        yield Workers(address=client.scheduler.address)
