"""Results that arrive in any order, handed on in the order of their numbers, in bounded memory."""

import tempfile
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")


class InOrder(Generic[Item]):
    """`put(number, item, body)` in any order calls `sink(item, body)` for 0, 1, 2, ... as soon as each can be.

    Bodies that wait for an earlier number are kept in memory up to `memory_bytes`, then in a temporary file: one slow
    server costs neither order nor memory. Disk: at most the bodies of one part. Use as a context manager.
    """

    def __init__(self, sink: Callable[[Item, bytes | None], None], *, memory_bytes: int) -> None:
        self._sink, self._memory_bytes = sink, memory_bytes
        self._waiting: dict[int, tuple[Item, bytes | tuple[int, int] | None]] = {}
        self._held_bytes = 0
        self.next_number = 0

    def __enter__(self) -> Self:
        self._spool = tempfile.TemporaryFile()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spool.close()

    def put(self, number: int, item: Item, body: bytes | None) -> None:
        """Take one result; each number from 0 on comes once."""
        if number == self.next_number:
            self._sink(item, body)
            self.next_number += 1
            self._flush()
        elif body is None or self._held_bytes + len(body) <= self._memory_bytes:
            self._held_bytes += len(body or b"")
            self._waiting[number] = (item, body)
        else:
            offset = self._spool.seek(0, 2)
            self._spool.write(body)
            self._waiting[number] = (item, (offset, len(body)))

    def _flush(self) -> None:
        while self.next_number in self._waiting:
            item, body = self._waiting.pop(self.next_number)
            if isinstance(body, tuple):
                self._spool.seek(body[0])
                body = self._spool.read(body[1])
            else:
                self._held_bytes -= len(body or b"")
            self._sink(item, body)
            self.next_number += 1
