"""Work that overlaps: items read ahead by a thread, and mapped by several, in order and never too many at a time."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Full, Queue
from threading import Event
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
_LOOK_SECONDS = 0.1


def ahead(items: Iterable[T], size: int) -> Generator[T]:
    """The items, made by a thread that is at most `size` ahead. What making one raises is raised here, in its place.

    Closing the generator ends the thread, after the item that it is making.
    """
    made: Queue[list[T]] = Queue(maxsize=size)  # lists of one item; an empty one is the end
    ended = Event()

    def put(item: list[T]) -> None:
        while not ended.is_set():
            try:
                made.put(item, timeout=_LOOK_SECONDS)
            except Full:
                continue
            return

    def work() -> None:
        try:
            for item in items:
                put([item])
                if ended.is_set():
                    return
        finally:
            put([])

    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        working = thread.submit(work)
        try:
            while item := made.get():
                yield item[0]
            working.result()
        finally:
            ended.set()


def mapped(function: Callable[[T], R], items: Iterable[T], pool: ThreadPoolExecutor, window: int) -> Iterator[R]:
    """function(item) of every item, in order, computed by the pool's threads, at most `window` ahead of the reader."""
    flying: deque[Future[R]] = deque()
    try:
        for item in items:
            flying.append(pool.submit(function, item))
            if len(flying) >= window:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()
    finally:
        for future in flying:
            future.cancel()
