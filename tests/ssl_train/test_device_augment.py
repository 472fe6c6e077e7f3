from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ssl_train.config import TrainConfig
from ssl_train.data import pixels
from ssl_train.data.augment import MultiCrop
from ssl_train.data.collate import collate
from ssl_train.data.colours import DRAWS, coloured, coloured_batch
from ssl_train.data.loader import arrived
from ssl_train.distributed import World
from ssl_train.trainer import build_batches, build_loader

Configure = Callable[..., TrainConfig]


def random_crops(number: int, side: int = 24) -> Tensor:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (number, 3, side // 4, side // 4))
    return torch.from_numpy(coarse.repeat(4, 2).repeat(4, 3).astype(np.uint8))


def draws_of(number: int) -> np.ndarray:
    settings, rng = MultiCrop(num_local=2), np.random.default_rng(1)
    return np.concatenate([settings.plan(60, 60, rng).draws for _ in range(number // 4)])


def test_a_batch_on_a_device_is_what_its_crops_are_one_by_one() -> None:
    crops, draws = random_crops(64), draws_of(64)
    assert all(draws[name].any() and not draws[name].all() for name in ("flip", "jitter", "gray", "blur", "solarize"))
    one_by_one = torch.stack([coloured(crop, row) for crop, row in zip(crops, draws, strict=True)])
    assert_close(coloured_batch(crops, draws), one_by_one, rtol=0, atol=1e-5)


def test_crops_that_nothing_happens_to_are_only_normalised() -> None:
    crops = random_crops(3)
    expected = pixels.normalise(pixels.to_unit(crops))
    assert_close(coloured_batch(crops, np.zeros(3, DRAWS)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["flip", "jitter", "gray", "blur", "solarize"])
def test_a_change_of_one_crop_leaves_the_others_alone(name: str) -> None:
    crops, draws = random_crops(3), np.zeros(3, DRAWS)
    draws["order"], draws["amounts"], draws["sigma"] = (0, 1, 2, 3), (1.3, 0.7, 1.2, 0.1), 1.0
    before = coloured_batch(crops, draws)
    draws[name][1] = True
    after = coloured_batch(crops, draws)
    assert [torch.equal(one, other) for one, other in zip(before, after, strict=True)] == [True, False, True]


def test_a_batch_without_local_crops_is_finished_too() -> None:
    settings = MultiCrop(global_pixels=8, num_local=0, device="device")
    image = np.zeros((20, 20, 3), np.uint8)
    crops = settings.crops(image, settings.plan(20, 20, np.random.default_rng(0)))
    batch = collate(["a"], [crops], np.zeros((2, 4), np.bool_)).finished()
    assert batch.global_crops.shape == (2, 3, 8, 8)
    assert batch.global_crops.dtype == torch.float32


def test_training_sees_the_same_with_colours_changed_on_the_host_or_on_the_device(
    tiny_run: Configure,
) -> None:
    world = World(0, 1, torch.device("cpu"))
    made = []
    for device in ("host", "device"):
        batches = build_batches(tiny_run(f"augment.device={device}"), world)
        assert batches[0].global_crops.dtype == (torch.float32 if device == "host" else torch.uint8)
        loader = build_loader(batches, num_steps=2, num_workers=0, prefetch_batches=1, world=world)
        made.append([batch for _, batch in loader.from_(0)])
    for host, device in zip(*made, strict=True):
        assert host.keys == device.keys
        assert device.global_draws is None
        assert_close(host.global_crops, device.global_crops, rtol=0, atol=1e-5)
        assert_close(host.local_crops, device.local_crops, rtol=0, atol=1e-5)


def test_what_workers_send_is_bytes_where_the_device_finishes(tiny_run: Configure) -> None:
    world = World(0, 1, torch.device("cpu"))
    batches = build_batches(tiny_run("augment.device=device"), world)
    batch = batches[1]
    assert batch.global_draws is not None
    assert len(batch.global_draws) == len(batch.global_crops) == 8
    assert batch.global_crops.dtype == batch.local_crops.dtype == torch.uint8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finishes_what_a_cpu_finishes() -> None:
    crops, draws = random_crops(64), draws_of(64)
    cpu, gpu = (coloured_batch(crops.to(device), draws).cpu() for device in ("cpu", "cuda"))
    assert_close(gpu, cpu, rtol=0, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_arrive_on_a_gpu_as_on_a_cpu(tiny_run: Configure) -> None:
    batches = build_batches(tiny_run("augment.device=device"), World(0, 1, torch.device("cpu")))
    here, there = (list(arrived([batches[0], batches[1]], torch.device(name))) for name in ("cpu", "cuda"))
    for cpu, gpu in zip(here, there, strict=True):
        assert gpu.global_crops.is_cuda
        assert_close(gpu.global_crops.cpu(), cpu.global_crops, rtol=0, atol=1e-4)
