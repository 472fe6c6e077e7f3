"""How often others are asked: so many requests at a time and a second to one owner, pauses as a host wishes."""

import asyncio
from collections import deque

_MAX_IDLE_GATES = 50_000
_TIMER_SECONDS = 0.001


class Turns:
    """So many at a time, first come, first served. `asyncio.Semaphore` does the same at several times the cost; here a
    turn that is free is taken without a coroutine: `if not turns.try_take(): await turns.take()`."""

    __slots__ = ("_free", "_waiting")

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[asyncio.Future[None]] = deque()  # empty while a turn is free

    def try_take(self) -> bool:
        """Take a turn if one is free."""
        if self._free:
            self._free -= 1
            return True
        return False

    async def take(self) -> None:
        """Take a turn, as soon as those who asked before have had theirs."""
        if self.try_take():
            return
        handed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(handed)
        try:
            await handed
        except asyncio.CancelledError:
            if handed.done() and not handed.cancelled():  # it was handed over in the same moment
                self.give()
            raise

    def give(self) -> None:
        """Give a turn back, to who waits longest."""
        while self._waiting:
            handed = self._waiting.popleft()
            if not handed.done():
                handed.set_result(None)
                return
        self._free += 1


class DomainGate:
    """One registered domain's turns, in the order they were asked for; waiting here costs nobody else anything.

    `if not gate.try_enter(): await gate.enter()`, then `gate.leave()`: a turn, once the domain's rate allows. Turns are
    booked ahead, one every 1 / rate seconds, so that the wait is one sleep; shorter ones than a timer can measure are
    not slept.
    """

    def __init__(self, *, concurrency: int, requests_per_second: float) -> None:
        self._turns = Turns(concurrency)
        self._clock = asyncio.get_running_loop().time
        self._seconds_between = 1.0 / requests_per_second
        self._next = 0.0
        self.users = 0

    def try_enter(self) -> bool:
        """Enter if that needs no wait."""
        now = self._clock()
        if self._next - now >= _TIMER_SECONDS or not self._turns.try_take():
            return False
        self._next = max(now, self._next) + self._seconds_between
        self.users += 1
        return True

    async def enter(self) -> None:
        """Enter, after the waits that it needs."""
        self.users += 1
        try:
            await self._turns.take()
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
                self.leave()
                raise

    def leave(self) -> None:
        """What was entered ends."""
        self.users -= 1
        self._turns.give()


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
        if not self._paused_until:
            return 0.0
        left = self._paused_until.get(host, 0.0) - asyncio.get_running_loop().time()
        if left <= 0:
            self._paused_until.pop(host, None)
        return max(0.0, left)
