from itertools import chain, pairwise

import pytest

from ssl_train.data.order import image_at, permuted, positions_of


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000])
def test_a_permutation_holds_every_number_once(size: int) -> None:
    assert sorted(permuted(index, size, key=7) for index in range(size)) == list(range(size))


def test_every_epoch_holds_every_image_once_and_is_newly_shuffled() -> None:
    epochs = [[image_at(epoch * 50 + place, num_images=50, seed=1) for place in range(50)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_seeds_shuffle_differently() -> None:
    assert [image_at(place, num_images=50, seed=1) for place in range(50)] != [
        image_at(place, num_images=50, seed=2) for place in range(50)
    ]


def test_the_order_looks_random() -> None:
    places = [permuted(index, 4096, key=3) for index in range(4096)]
    steps = [(after - before) % 4096 for before, after in pairwise(places)]
    assert len(set(steps)) > 2300  # 4096 (1 - 1/e) = 2589 for a true shuffle
    correlation = sum((index - 2047.5) * (place - 2047.5) for index, place in enumerate(places)) / (4096**3 / 12)
    assert abs(correlation) < 0.06


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_share_a_step_without_loss_or_repetition(world_size: int) -> None:
    step = [list(positions_of(3, batch_images=8, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert list(chain.from_iterable(step)) == list(range(24, 32))
