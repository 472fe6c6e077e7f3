"""Work that overlaps: the order stays, nothing runs too far ahead, and errors come out where they belong."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.encoding.pipeline import ahead, mapped


def test_reading_ahead_keeps_the_order_and_its_bound_and_raises_in_its_place() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            yield number
        raise ValueError("after ten")

    got = []
    with pytest.raises(ValueError, match="after ten"):
        for number in ahead(numbers(), 3):
            assert len(made) <= number + 6  # three waiting, one in hand on either side, one being put
            got.append(number)
    assert got == list(range(10))


def test_reading_ahead_that_is_dropped_ends_its_thread() -> None:
    def forever() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    started = ahead(forever(), 2)
    assert next(started) == 0
    started.close()  # returns only when the thread has ended


@pytest.mark.parametrize("window", [1, 2, 50])
def test_mapping_keeps_the_order_and_never_takes_more_than_its_window(window: int) -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    with ThreadPoolExecutor(3) as pool:
        for place, found in enumerate(mapped(lambda number: number * number, numbers(), pool, window)):
            assert found == place * place
            assert len(taken) <= place + window


def test_an_error_in_a_mapped_item_comes_out_in_its_place() -> None:
    def inverse(number: int) -> float:
        return 1 / (3 - number)

    with ThreadPoolExecutor(2) as pool:
        found = mapped(inverse, range(10), pool, 4)
        assert [next(found) for _ in range(3)] == [1 / 3, 1 / 2, 1]
        with pytest.raises(ZeroDivisionError):
            next(found)
