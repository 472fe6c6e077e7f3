from itertools import chain, pairwise

import pytest

from ssl_train.data.order import GlobalOrder, ShardShuffle, image_at, permuted, positions_of


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


BLOCKS = [5, 1, 7, 3, 9, 2, 4]


def shard_shuffle(seed: int = 1, blocks: list[int] = BLOCKS, window_blocks: int = 3) -> ShardShuffle:
    return ShardShuffle(blocks, window_blocks=window_blocks, seed=seed)


@pytest.mark.parametrize("window_blocks", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("blocks", [BLOCKS, [1], [4], [10] * 12])
def test_an_epoch_of_shuffled_shards_holds_every_image_once(blocks: list[int], window_blocks: int) -> None:
    order, size = shard_shuffle(blocks=blocks, window_blocks=window_blocks), sum(blocks)
    epochs = [[order.image_at(epoch * size + place) for place in range(size)] for epoch in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(size))] * 2
    assert epochs[0] != epochs[1] or size < 6


def test_shuffled_shards_depend_on_seed_and_place_alone() -> None:
    places = [70, 3, 64, 0, 31, 3]
    assert [shard_shuffle().image_at(place) for place in places] == [
        dict(enumerate(map(shard_shuffle().image_at, range(93))))[place] for place in places
    ]
    assert [shard_shuffle(2).image_at(place) for place in range(31)] != [
        shard_shuffle(1).image_at(place) for place in range(31)
    ]


def test_shuffled_shards_read_few_blocks_at_a_time_and_each_in_one_stretch() -> None:
    order = shard_shuffle(blocks=[10] * 12, window_blocks=4)
    windows = [{order.image_at(place) // 10 for place in range(start, start + 40)} for start in range(0, 120, 40)]
    assert [len(window) for window in windows] == [4, 4, 4]
    assert set().union(*windows) == set(range(12))


def test_within_a_window_images_of_its_blocks_are_mixed() -> None:
    order = shard_shuffle(blocks=[100] * 8, window_blocks=8)
    blocks = [order.image_at(place) // 100 for place in range(100)]
    assert len(set(blocks)) == 8
    assert max(blocks.count(block) for block in set(blocks)) < 30


def test_one_window_over_everything_is_a_shuffle_of_everything() -> None:
    globally = GlobalOrder(31, seed=1)
    assert sorted(globally.image_at(place) for place in range(31, 62)) == list(range(31))
    order = shard_shuffle(window_blocks=len(BLOCKS))
    assert sorted(order.image_at(place) for place in range(31, 62)) == list(range(31))
