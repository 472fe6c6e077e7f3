"""Turns: first come, first served, and none is lost to who gave up waiting."""

import asyncio

import pytest

from tasks.web.politeness import Turns


async def waiting(turns: Turns, served: list[str], name: str) -> None:
    await turns.take()
    served.append(name)


async def settle() -> None:
    """Every task goes as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_turns_are_given_in_the_order_in_which_they_were_asked_for() -> None:
    async def run() -> list[str]:
        turns, served = Turns(1), list[str]()
        assert turns.try_take()
        assert not turns.try_take()
        tasks = [asyncio.create_task(waiting(turns, served, name)) for name in "abc"]
        for number in range(1, 4):
            await settle()
            turns.give()
            await settle()
            assert len(served) == number
        await asyncio.gather(*tasks)
        turns.give()
        assert turns.try_take()
        return served

    assert asyncio.run(run()) == ["a", "b", "c"]


@pytest.mark.parametrize("handed_first", [False, True], ids=["while it waits", "when its turn was just handed to it"])
def test_a_cancelled_waiter_leaves_its_turn_to_the_next(handed_first: bool) -> None:
    async def run() -> list[str]:
        turns, served = Turns(1), list[str]()
        assert turns.try_take()
        gives_up, stays = (asyncio.create_task(waiting(turns, served, name)) for name in "ab")
        await settle()
        if handed_first:
            turns.give()
        gives_up.cancel()
        if not handed_first:
            await settle()
            turns.give()
        await settle()
        assert gives_up.cancelled()
        await asyncio.wait_for(stays, 5)
        return served

    assert asyncio.run(run()) == ["b"]
