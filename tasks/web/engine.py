"""One asynchronous engine per process: URLs in, results out as they come, every domain at its own pace."""

import asyncio
import atexit
import queue
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from tasks.web.fetch import FetchConfig, Fetched, Fetcher, HopCheck
from tasks.web.http import open_session
from tasks.web.resolver import CheckedResolver, Lookup, parse_connect_to, system_lookup
from tasks.web.urls import split_url

_NETWORK_REASONS = frozenset({"dns", "connection", "tls", "timeout", "rate_limited"})
_MAX_UNREAD, _READ_BATCH = 256, 32

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
        self._verifiers = ThreadPoolExecutor(config.verify_threads, thread_name_prefix="verify")
        self._fetcher = self._wait(self._open(check_hop, lookup or system_lookup()))

    async def _open(self, check_hop: HopCheck, lookup: Lookup) -> Fetcher:
        config = self.config
        resolver = CheckedResolver(
            lookup, allow_networks=config.allow_networks, connect_to=parse_connect_to(config.connect_to)
        )
        self._stack.push_async_callback(resolver.close)
        session = await self._stack.enter_async_context(
            open_session(
                resolver,
                user_agent=config.user_agent,
                connections=config.concurrency,
                verify_tls=config.verify_tls,
            )
        )
        return Fetcher(session, config, verifiers=self._verifiers, check_hop=check_hop)

    def download(self, urls: Sequence[str]) -> Iterator[tuple[int, Fetched]]:
        """(number, result) of every URL, as they are done. What a server does is a result; only our own bugs raise."""
        results: queue.SimpleQueue[tuple[int, Fetched] | None] = queue.SimpleQueue()
        unread = asyncio.Semaphore(_MAX_UNREAD)
        work = asyncio.run_coroutine_threadsafe(self._download(urls, results, unread), self._loop)
        work.add_done_callback(lambda _: results.put(None))
        try:
            for taken, result in enumerate(iter(results.get, None), start=1):
                if taken % _READ_BATCH == 0:  # waking the loop costs a system call
                    self._loop.call_soon_threadsafe(_release, unread, _READ_BATCH)
                yield result
            work.result()
        finally:
            work.cancel()

    async def _download(
        self, urls: Sequence[str], results: "queue.SimpleQueue[tuple[int, Fetched] | None]", unread: asyncio.Semaphore
    ) -> None:
        async def deliver(number: int, fetched: Fetched) -> None:
            await unread.acquire()
            results.put((number, fetched))

        hosts: dict[str, deque[tuple[int, str]]] = {}
        for number, url in enumerate(urls):
            hosts.setdefault(split_url(url).host, deque()).append((number, url))
        async with asyncio.TaskGroup() as group:
            for todo in hosts.values():
                visit = _HostVisit(todo, self._fetcher, deliver)
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


class _HostVisit:
    """One part's URLs of one host, in their order; several lanes take from it. A host that only fails is left."""

    def __init__(
        self,
        todo: deque[tuple[int, str]],
        fetcher: Fetcher,
        deliver: Callable[[int, Fetched], Coroutine[Any, Any, None]],
    ) -> None:
        self._todo, self._fetcher, self._deliver = todo, fetcher, deliver
        self._failures, self._last_reason = 0, ""
        self._ends = asyncio.get_running_loop().time() + fetcher.config.max_host_seconds

    async def run(self) -> None:
        """One lane: URLs one after the other until none is left."""
        while self._todo:
            number, url = self._todo.popleft()
            fetched = self._given_up(url) or await self._fetcher.fetch(url)
            if fetched.reason in _NETWORK_REASONS:
                self._failures, self._last_reason = self._failures + 1, fetched.reason
            else:
                self._failures = 0
            await self._deliver(number, fetched)

    def _given_up(self, url: str) -> Fetched | None:
        limit = self._fetcher.config
        if self._failures >= limit.failures_in_a_row:
            return Fetched(url, self._last_reason, f"host given up after {limit.failures_in_a_row} failures in a row")
        if asyncio.get_running_loop().time() > self._ends:
            return Fetched(url, "timeout", f"host given up after {limit.max_host_seconds:g} s")
        return None


def _release(semaphore: asyncio.Semaphore, times: int) -> None:
    for _ in range(times):
        semaphore.release()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # optional: about a tenth faster
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


_engines: dict[str, Engine] = {}
_engines_lock = threading.Lock()


def shared_engine(config: FetchConfig, policy_key: str, check_hop: HopCheck) -> Engine:
    """This process's engine for a config and a URL policy, made at its first use and closed when the process ends."""
    key = f"{config.model_dump_json()} {policy_key}"
    with _engines_lock:
        if key not in _engines:
            _engines[key] = Engine(config, check_hop=check_hop)
            atexit.register(_engines[key].close)
        return _engines[key]
