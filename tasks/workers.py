"""Where parts are computed: plain Dask futures in a bounded window, or this process when there is no cluster.

Prefect stays out of the workers: a future costs about 1 ms, a task run about 85 ms and 16 KB of database.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, ClassVar

from distributed import Client, Future, LocalCluster, as_completed
from pydantic import Field

from tasks.config import StageConfig
from tasks.news import Listener, News, listeners

_cluster: ContextVar[tuple[Client, int] | None] = ContextVar("cluster", default=None)
_TRIES_OF_A_KILLED_WORKER = 1


class Workers(StageConfig):
    """Which Dask cluster computes the parts."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset(
        {"address", "connect_seconds", "num_workers", "threads_per_worker", "window"}
    )

    address: str | None = None
    """Address of a running Dask scheduler (tcp://host:8786). None starts a cluster of processes on this machine."""
    connect_seconds: Annotated[float, Field(gt=0)] = 20.0
    """How long to wait for that scheduler."""
    num_workers: Annotated[int, Field(ge=0, le=4096)] = 2
    """Processes of the local cluster; 0 computes in the flow's own process."""
    threads_per_worker: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads of each local process."""
    window: Annotated[int, Field(ge=1)] = 256
    """Parts handed to the scheduler at a time, so that it never holds a hundred thousand."""


@contextmanager
def workers(config: Workers) -> Iterator[None]:
    """The cluster that `map_parts` uses inside the block."""
    if config.address is None and config.num_workers == 0:
        yield
        return
    _quiet_dask()
    with _connect(config) as client:
        token = _cluster.set((client, config.window))
        try:
            yield
        finally:
            _cluster.reset(token)


@contextmanager
def _connect(config: Workers) -> Iterator[Client]:
    if config.address is not None:
        try:
            client = Client(config.address, timeout=config.connect_seconds, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise ConnectionError(
                f"no Dask scheduler answers at {config.address!r}: {error}. Start one (`dask scheduler`) or leave "
                "workers.address empty for a local cluster."
            ) from error
        with client:
            yield client
        return
    with (
        LocalCluster(
            n_workers=config.num_workers,
            threads_per_worker=config.threads_per_worker,
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            silence_logs=logging.ERROR,
            memory_limit=0,
            env={"PREFECT_LOGGING_ROOT_LEVEL": "ERROR"},
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _quiet_dask() -> None:
    """Dask tells of every connection at INFO, and Prefect makes INFO visible."""
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]:
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def listening(topic: str, listener: Listener) -> Iterator[None]:
    """What parts tell of (`tasks.news`) goes to `listener` inside the block, in another thread where there is a
    cluster."""
    cluster = _cluster.get()
    if cluster is None:
        listeners[topic] = listener
        try:
            yield
        finally:
            del listeners[topic]
        return
    client, _ = cluster
    client.subscribe_topic(topic, lambda event: listener(News(**event[1]["news"])))
    try:
        yield
    finally:
        client.unsubscribe_topic(topic)


def map_parts(
    function: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    *,
    on_done: Callable[[int, int, Any], None] = lambda done, total, result: None,
) -> tuple[list[Any], dict[int, Exception]]:
    """function(*call) for every call, in any order; (results in the calls' order, {index: what it raised}).

    `on_done(done, total, result)` is told after every call, the result None where it raised. At most the cluster's
    `window` of calls are with the scheduler at a time. A call whose worker dies is tried once more elsewhere; after
    that it counts as failed. Other calls go on.
    """
    results: list[Any] = [None] * len(calls)
    failures: dict[int, Exception] = {}
    for done, (index, outcome) in enumerate(_outcomes(function, calls), start=1):
        if isinstance(outcome, Exception):
            failures[index] = outcome
        else:
            results[index] = outcome
        on_done(done, len(calls), results[index])
    return results, failures


def _outcomes(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any | Exception]]:
    cluster = _cluster.get()
    if cluster is None:
        yield from ((index, _attempt(function, call)) for index, call in enumerate(calls))
        return
    client, window = cluster
    todo = iter(enumerate(calls))
    flying: dict[Future, int] = {}

    def submit_next() -> Future | None:
        for index, call in todo:
            future = client.submit(function, *call, pure=False, retries=_TRIES_OF_A_KILLED_WORKER)
            flying[future] = index
            return future
        return None

    for _ in range(window):
        if submit_next() is None:
            break
    finished = as_completed(list(flying), loop=client.loop)
    for batch in finished.batches():
        following = [future for _ in batch if (future := submit_next()) is not None]
        if following:
            finished.update(following)
        for future, outcome in zip(batch, _gathered(client, batch), strict=True):
            yield flying.pop(future), outcome
            future.release()


def _gathered(client: Client, batch: Sequence[Future]) -> list[Any | Exception]:
    """Results of finished futures, or what they raised: in one round trip, where all of them have succeeded.

    A round trip for each held up a stage of very short parts (bench/scheduler.py): the flow waited, and nothing else.
    """
    try:
        return list(client.gather(list(batch)))
    except Exception:  # one of them: asked one by one, each says its own
        return [_attempt(Future.result, (future,)) for future in batch]


def _attempt(function: Callable[..., Any], call: tuple[Any, ...]) -> Any | Exception:
    try:
        return function(*call)
    except Exception as error:  # reported with the part's name by the caller, exactly as a worker's error is
        return error
