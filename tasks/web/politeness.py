"""How often one registered domain is asked: so many requests at a time, so many a second, pauses as it wishes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_MAX_IDLE_GATES = 50_000


class DomainGate:
    """One domain's turns, in the order they were asked for. Waiting here costs nobody else anything."""

    def __init__(self, *, concurrency: int, requests_per_second: float) -> None:
        self._turns = asyncio.Semaphore(concurrency)
        self._seconds_between = 1.0 / requests_per_second
        self._next = 0.0
        self.users = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Holds one of the domain's turns for the block, once its rate and its pauses allow."""
        self.users += 1
        try:
            async with self._turns:
                clock = asyncio.get_running_loop().time
                while (wait := self._next - clock()) > 0:
                    await asyncio.sleep(wait)
                self._next = clock() + self._seconds_between
                yield
        finally:
            self.users -= 1

    def pause(self, seconds: float) -> None:
        """No new request before `seconds` from now."""
        self._next = max(self._next, asyncio.get_running_loop().time() + seconds)


class Gates:
    """A gate per registered domain, shared by everything that this process downloads."""

    def __init__(self, *, concurrency: int, requests_per_second: float) -> None:
        self._concurrency, self._requests_per_second = concurrency, requests_per_second
        self._gates: dict[str, DomainGate] = {}

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
