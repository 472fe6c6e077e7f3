"""Work on several threads, results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """map(function, items) by as many threads as torch has, each with one thread of its own below it.

    At most twice as many items are under way as there are threads: memory is bounded where the reader is slow.
    Where torch has one thread (a Dask worker), nothing is started.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield from map(function, items)
        return
    remaining = iter(items)
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        pending: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(remaining, 2 * threads))
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield result
        finally:
            for future in pending:
                future.cancel()
            torch.set_num_threads(threads)  # those that are born later take over what was set last
