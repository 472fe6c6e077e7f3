"""How often others are asked: so many requests at a time and a second to one owner, pauses as a host wishes."""

import asyncio
from types import TracebackType

_MAX_IDLE_GATES = 50_000
_TIMER_SECONDS = 0.001


class DomainGate:
    """One registered domain's turns, in the order they were asked for; waiting here costs nobody else anything.

    `async with gate:` holds a turn for the block, once the domain's rate allows. Turns are booked ahead, one every
    1 / rate seconds, so that the wait is one sleep; shorter ones than a timer can measure are not slept.
    """

    def __init__(self, *, concurrency: int, requests_per_second: float) -> None:
        self._turns = asyncio.Semaphore(concurrency)
        self._clock = asyncio.get_running_loop().time
        self._seconds_between = 1.0 / requests_per_second
        self._next = 0.0
        self.users = 0

    async def __aenter__(self) -> None:
        self.users += 1
        try:
            await self._turns.acquire()
        except BaseException:
            self.users -= 1
            raise
        now = self._clock()
        booked = max(now, self._next)
        self._next = booked + self._seconds_between
        if booked - now >= _TIMER_SECONDS:
            try:
                await asyncio.sleep(booked - now)
            except BaseException:
                self._leave()
                raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        self.users -= 1
        self._turns.release()


class Gates:
    """A gate per registered domain, and the hosts that asked to be left alone for a while.

    Shared by everything that this process downloads. The pace is a matter of the owner, so it counts by registered
    domain; `Retry-After` is the word of one host, and stops only that one.
    """

    def __init__(self, *, concurrency: int, requests_per_second: float) -> None:
        self._concurrency, self._requests_per_second = concurrency, requests_per_second
        self._gates: dict[str, DomainGate] = {}
        self._paused_until: dict[str, float] = {}

    def of(self, domain: str) -> DomainGate:
        """The domain's gate."""
        gate = self._gates.get(domain)
        if gate is None:
            if len(self._gates) >= _MAX_IDLE_GATES:
                self._gates = {name: gate for name, gate in self._gates.items() if gate.users}
            gate = self._gates[domain] = DomainGate(
                concurrency=self._concurrency, requests_per_second=self._requests_per_second
            )
        return gate

    def pause(self, host: str, seconds: float) -> None:
        """No new request to this host before `seconds` from now."""
        until = asyncio.get_running_loop().time() + seconds
        self._paused_until[host] = max(self._paused_until.get(host, 0.0), until)

    def pause_seconds(self, host: str) -> float:
        """How long this host still wants to be left alone; 0 when it does not."""
        left = self._paused_until.get(host, 0.0) - asyncio.get_running_loop().time()
        if left <= 0:
            self._paused_until.pop(host, None)
        return max(0.0, left)
