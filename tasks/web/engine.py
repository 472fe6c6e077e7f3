"""One asynchronous engine per process: URLs in, results out as they come, every domain at its own pace."""

import asyncio
import atexit
import gc
import queue
import resource
import threading
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from tasks.web.allocator import keep_freed_memory
from tasks.web.client import Client
from tasks.web.fetch import FetchConfig, Fetched, Fetcher, HopCheck
from tasks.web.politeness import Turns
from tasks.web.resolver import Answer, CheckedResolver, Lookup, parse_connect_to, system_lookup

if TYPE_CHECKING:
    from tasks.web.dns import Resolver

_NETWORK_REASONS = frozenset({"dns", "connection", "tls", "timeout", "rate_limited"})
_MAX_UNREAD, _READ_BATCH = 256, 32
_MAX_IDLE, _MIN_IDLE = 4096, 16
_LOOK_SECONDS = 0.25

Result = TypeVar("Result")


class Engine:
    """An event loop in a thread of its own, with one session: connections, addresses, robots.txt and the pace of every
    domain outlive a part and are shared by parts that are downloaded side by side.

    Memory: `memory_bytes` of finished bodies; requests in flight hold at most `concurrency` x `max_bytes` more.
    """

    def __init__(self, config: FetchConfig, *, check_hop: HopCheck, lookup: Lookup | None = None) -> None:
        self.config = config
        self._loop = _new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="download-engine", daemon=True)
        self._thread.start()
        self._stack = AsyncExitStack()
        self._resolver: Resolver | None = None
        self._verifiers = ThreadPoolExecutor(config.verify_threads, thread_name_prefix="verify")
        self._fetcher = self._wait(self._open(check_hop, lookup))

    async def _open(self, check_hop: HopCheck, lookup: Lookup | None) -> Fetcher:
        config = self.config
        if lookup is None:
            lookup = system_lookup() if config.resolver == "system" else self._own_lookup
        resolver = CheckedResolver(
            lookup,
            allow_networks=config.allow_networks,
            connect_to=parse_connect_to(config.connect_to),
        )
        self._stack.push_async_callback(resolver.close)
        client = Client(
            resolver,
            user_agent=config.user_agent,
            verify_tls=config.verify_tls,
            http2=config.http2,
            max_idle=_idle_connections(config.concurrency),
            look_seconds=min(_LOOK_SECONDS, config.read_seconds / 8, config.total_seconds / 8),
        )
        self._stack.push_async_callback(client.close)
        return Fetcher(client, config, verifiers=self._verifiers, check_hop=check_hop)

    async def _own_lookup(self, host: str) -> Answer:
        """By c-ares, whose threads start with the first name: a run that `connect_to` sends elsewhere needs none."""
        if self._resolver is None:
            from tasks.web.dns import Resolver

            self._resolver = Resolver(self.config.nameservers, seconds=self.config.dns_seconds)
            self._stack.push_async_callback(self._resolver.close)
        return await self._resolver.lookup(host)

    def download(self, urls: Sequence[str]) -> Iterator[tuple[int, Fetched]]:
        """(number, result) of every URL, as they are done. What a server does is a result; only our own bugs raise."""
        outbox = _Outbox(self._loop)
        work = asyncio.run_coroutine_threadsafe(self._download(urls, outbox), self._loop)
        work.add_done_callback(lambda _: outbox.close())
        try:
            yield from outbox
            work.result()
        finally:
            work.cancel()

    async def _download(self, urls: Sequence[str], outbox: "_Outbox") -> None:
        hosts: dict[str, deque[tuple[int, str]]] = {}
        for number, url in enumerate(urls):
            hosts.setdefault(_host_and_port(url), deque()).append((number, url))
        async with asyncio.TaskGroup() as group:
            for todo in hosts.values():
                visit = _HostVisit(todo, self._fetcher, outbox)
                for _ in range(min(len(todo), self.config.concurrency_per_domain)):
                    group.create_task(visit.run())

    def _wait(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        future: Future[Result] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result()

    def close(self) -> None:
        """End the loop, its thread and its connections."""
        if self._thread.is_alive():
            self._wait(self._stack.aclose())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._verifiers.shutdown()


class _Outbox:
    """From the loop's thread to the reader's: what is done in one turn of the loop goes over together, since waking a
    thread costs a system call. At most 256 results wait to be read."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self.room = loop, Turns(_MAX_UNREAD)
        self._ready: list[tuple[int, Fetched]] = []
        self._sent: queue.SimpleQueue[list[tuple[int, Fetched]] | None] = queue.SimpleQueue()

    def put(self, number: int, fetched: Fetched) -> None:
        """For a turn of the `room`. In the loop."""
        self._ready.append((number, fetched))
        if len(self._ready) == 1:
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        ready, self._ready = self._ready, []
        if ready:
            self._sent.put(ready)

    def close(self) -> None:
        """Nothing more will come. In the loop."""
        self._send()
        self._sent.put(None)

    def __iter__(self) -> Iterator[tuple[int, Fetched]]:
        """In the reader's thread."""
        taken = 0
        while (results := self._sent.get()) is not None:
            yield from results
            taken += len(results)
            if taken >= _READ_BATCH:
                self._loop.call_soon_threadsafe(_give, self.room, taken)
                taken = 0


class _HostVisit:
    """One part's URLs of one host, in their order; several lanes take from it. A host that only fails is left."""

    def __init__(self, todo: deque[tuple[int, str]], fetcher: Fetcher, outbox: _Outbox) -> None:
        self._todo, self._fetcher, self._outbox = todo, fetcher, outbox
        self._failures, self._last_reason = 0, ""
        self._ends = asyncio.get_running_loop().time() + fetcher.config.max_host_seconds

    async def run(self) -> None:
        """One lane: URLs one after the other until none is left."""
        outbox = self._outbox
        while self._todo:
            number, url = self._todo.popleft()
            fetched = self._given_up(url) or await self._fetcher.fetch(url)
            if fetched.reason in _NETWORK_REASONS:
                self._failures, self._last_reason = self._failures + 1, fetched.reason
            else:
                self._failures = 0
            if not outbox.room.try_take():
                await outbox.room.take()
            outbox.put(number, fetched)

    def _given_up(self, url: str) -> Fetched | None:
        limit = self._fetcher.config
        if self._failures >= limit.failures_in_a_row:
            return Fetched(url, self._last_reason, f"host given up after {limit.failures_in_a_row} failures in a row")
        if asyncio.get_running_loop().time() > self._ends:
            return Fetched(url, "timeout", f"host given up after {limit.max_host_seconds:g} s")
        return None


def _host_and_port(url: str) -> str:
    """Of a canonical URL."""
    return url.partition("://")[2].partition("/")[0]


def _give(turns: Turns, times: int) -> None:
    for _ in range(times):
        turns.give()


def _idle_connections(in_use: int) -> int:
    """How many idle connections may be kept: what this process may open, less what it uses, and half of that left."""
    may_open, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(_MIN_IDLE, min(_MAX_IDLE, (may_open - in_use) // 2))


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # optional: about a tenth faster
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _set_aside_what_is_there() -> None:
    """Modules and models are looked through by every full collection of garbage, and a download's rows are objects
    enough for one every 5,000 images: 14 us an image here. What is there before the first row is left out from now on.
    """
    gc.collect()
    gc.freeze()


_engines: dict[str, Engine] = {}
_engines_lock = threading.Lock()


def shared_engine(config: FetchConfig, policy_key: str, check_hop: HopCheck) -> Engine:
    """This process's engine for a config and a URL policy, made at its first use and closed when the process ends."""
    key = f"{config.model_dump_json()} {policy_key}"
    with _engines_lock:
        if key not in _engines:
            keep_freed_memory()
            _set_aside_what_is_there()
            _engines[key] = Engine(config, check_hop=check_hop)
            atexit.register(_engines[key].close)
        return _engines[key]
