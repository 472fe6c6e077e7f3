"""How many images a second one core turns into multi-crop batches: this loader and its peers, from the same tars.

    python -m bench.loader [--images 192] [--repeats 3]

Photographs of 500 and of 1,280 pixels (longer side, enlarged from 400, so that they decode faster than sharp ones) in
WebDataset tars; two crops of 224, eight of 96. One process, one
thread; figures are images by second of processor time, which others on the machine do not change much, the median of
interleaved repeats. Peers: PIL and torchvision's operations (bench/pil_multicrop.py) from the same byte ranges, and
after webdataset's own reading and decoding. `cores` is what a step of so many images a second needs, with a fifth to
spare. Where there is a GPU, its part of the device augmentation is timed too.
"""

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import webdataset
from PIL import Image
from skimage import data as photographs

from bench.measure import machine, median_seconds, save
from bench.pil_multicrop import crops_of, pil_crops
from ssl_train.data.augment import MultiCrop
from ssl_train.data.collate import Batch
from ssl_train.data.loader import Batches, keep_freed_memory
from ssl_train.data.masking import BlockMasks
from ssl_train.data.settings import Data
from storage.samples import INDEX_SCHEMA, SampleWriter, index_path

SHARDS = 8
BATCH = 32
SIDES = (500, 1280)
STEPS = {"S/16": 2700, "B/16": 1100, "L/16": 342}
"""Images a second that the issue asks of a step on one H200."""
SPARE = 1.2
HOST, DEVICE = MultiCrop(), MultiCrop(device="device")


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory(0)
    content: dict[str, Any] = {"machine": machine(), "images": arguments.images, "images_per_core_second": {}}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        for side in SIDES:
            shards = write_shards(f"{folder}/{side}", arguments.images, side)
            rates = measured(ways(shards), arguments.images, arguments.repeats)
            content["images_per_core_second"][f"{side} px"] = rates
            print(side, rates)
        content["first_batch_seconds"] = first_batches(folder, 10_000)
    small = content["images_per_core_second"][f"{SIDES[0]} px"]
    content["cores"] = {
        name: {way: round(SPARE * rate / small[way], 1) for way in ("host", "device: host part", "PIL")}
        for name, rate in STEPS.items()
    }
    if torch.cuda.is_available():
        content["gpu"] = {"name": torch.cuda.get_device_name(), "device_part_images_per_second": gpu_part()}
    print(content["first_batch_seconds"], content["cores"])
    save("loader", content)


def ways(shards: str) -> dict[str, Callable[[int], None]]:
    """Each way to make the crops of so many images."""
    return {
        "host": lambda images: ours(shards, images, HOST, "reduced"),
        "host, exact decode": lambda images: ours(shards, images, HOST, "exact"),
        "device: host part": lambda images: ours(shards, images, DEVICE, "reduced"),
        "device: host part, exact decode": lambda images: ours(shards, images, DEVICE, "exact"),
        "PIL": lambda images: pil(shards, images),
        "webdataset + PIL": lambda images: through_webdataset(shards, images),
    }


def measured(of: dict[str, Callable[[int], None]], images: int, repeats: int) -> dict[str, float]:
    """Images by second of processor time, the median of repeats that take turns."""
    rates: dict[str, list[float]] = {name: [] for name in of}
    for work in of.values():
        work(BATCH)
    for _ in range(repeats):
        for name, work in of.items():
            before = time.process_time()
            work(images)
            rates[name].append(images / (time.process_time() - before))
    return {name: round(statistics.median(found), 1) for name, found in rates.items()}


def batches_of(shards: str, augment: MultiCrop, decode: Any) -> Batches:
    """Batches as a training of ViT-L/16 has them."""
    settings = Data(shards=shards, batch_images=BATCH, decode=decode)
    return Batches(settings.open(), settings, augment, BlockMasks(), 14, None, seed=0, rank=0, world_size=1)


def ours(shards: str, images: int, augment: MultiCrop, decode: str) -> None:
    """Whole batches, masks included."""
    batches = batches_of(shards, augment, decode)
    for step in range(images // BATCH):
        batches[step]


def pil(shards: str, images: int) -> None:
    """The peer's crops of the same images, stacked."""
    source = Data(shards=shards).open()
    _stack(pil_crops(image.data, HOST) for image in source.read(range(images)))


def through_webdataset(shards: str, images: int) -> None:
    """webdataset reads and decodes, the peer cuts."""
    paths = sorted(str(path) for path in Path(shards).parent.glob("*.tar"))
    samples = webdataset.WebDataset(paths, shardshuffle=False).decode("pil").to_tuple("jpg")
    _stack(crops_of(image, HOST) for _, (image,) in zip(range(images), samples, strict=False))


def _stack(crops: Iterable[list[torch.Tensor]]) -> None:
    waiting = []
    for one in crops:
        waiting.append(one)
        if len(waiting) == BATCH:
            torch.stack([crop for image in waiting for crop in image[:2]])
            torch.stack([crop for image in waiting for crop in image[2:]])
            waiting = []


def write_shards(folder: str, images: int, side: int, *, indexed: bool = True) -> str:
    """Tars of photographs whose longer side is `side`; their glob."""
    encoded = list(pictures(side))
    for shard in range(SHARDS):
        path, rows = f"{folder}/part-{shard:05d}.tar", []
        with SampleWriter(path) as writer:
            for number in range(shard, images, SHARDS):
                offset, size = writer.add(f"{number:09d}", {"jpg": encoded[number % len(encoded)], "json": b"{}"})[
                    "jpg"
                ]
                rows.append(dict.fromkeys(INDEX_SCHEMA.names) | {"offset": offset, "bytes": size})
        if indexed:
            pq.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA), index_path(path))
    return f"{folder}/part-*.tar"


def pictures(side: int) -> Iterator[bytes]:
    """JPEGs of quality 90, 4:2:0, of photographs that scikit-image holds."""
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        picture = Image.fromarray(getattr(photographs, name)()[:300, :400])
        buffer = io.BytesIO()
        picture.resize((side, side * 3 // 4), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        yield buffer.getvalue()


def first_batches(folder: str, images: int) -> dict[str, float]:
    """Wall seconds from nothing to the first batch of tars with this many images in all, by what is known of them."""
    side = 64
    shards = {
        indexed: write_shards(f"{folder}/first-{indexed}", images, side, indexed=indexed) for indexed in (True, False)
    }
    small = replace(DEVICE, global_pixels=32, local_pixels=16)

    def start(indexed: bool) -> Batch:
        return batches_of(shards[indexed], small, "reduced")[0]

    seconds = {
        "index": median_seconds(lambda: start(True)),
        "no index, first run": median_seconds(lambda: start(False), repeats=1),
    }
    return {
        name: round(value, 3)
        for name, value in (seconds | {"no index, later": median_seconds(lambda: start(False))}).items()
    }


def gpu_part() -> float:
    """Images a second whose colours a GPU changes, copies from page-locked memory included."""
    images = 64
    rng = np.random.default_rng(0)
    draws = [DEVICE.plan(375, 500, rng).draws for _ in range(images)]
    by_crop = np.stack(draws, axis=1)
    nothing = torch.zeros(0, dtype=torch.long)
    batch = Batch(
        keys=("",) * images,
        global_crops=torch.randint(0, 256, (2 * images, 3, 224, 224), dtype=torch.uint8),
        local_crops=torch.randint(0, 256, (8 * images, 3, 96, 96), dtype=torch.uint8),
        masks=nothing,
        masked=nothing,
        mask_weights=nothing,
        global_draws=by_crop[:2].reshape(-1),
        local_draws=by_crop[2:].reshape(-1),
    ).pin_memory()

    def finish() -> None:
        for _ in range(10):
            batch.to(torch.device("cuda")).finished()
        torch.cuda.synchronize()

    finish()
    return round(10 * images / median_seconds(finish), 1)


if __name__ == "__main__":
    main()
