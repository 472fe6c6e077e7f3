"""How many images a second become vectors: one after the other (as it was), and decoding beside encoding.

    python -m bench.encoding [--images 192]

Encoders: `pixels` (no weights), an SSCD-shaped network (ResNet-50, 320x320, GeM, 512 numbers) and a ViT-S/16 with
random weights: their cost does not depend on what the weights are. One process, one thread of torch, JPEGs of 640x480.
On a CPU the network takes nearly all of the time, so that little can overlap; `device_400_per_second` is the same
preparation before a stand-in for a GPU, which only waits.
"""

import argparse
import hashlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.measure import machine, save
from examples.sample_web.concepts import CONCEPTS, render_scene
from ssl_train.models import Vit
from storage.images import Pixels, decode_rgb, encode_jpeg
from storage.layout import Layout
from storage.vectors import write_vectors
from tasks.encoders import BuiltEncoder, Sscd, VitEncoder
from tasks.encoders import Pixels as PixelsEncoder
from tasks.encoders.base import bounded_threads
from tasks.encoders.network import Preparation
from tasks.encoding.images import encode_images, read_images

_BLOCKS = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut (He et al., CVPR 2016), batch norms folded away as at inference."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(before, width, 1)
        self.middle = nn.Conv2d(width, width, 3, stride, 1)
        self.expand = nn.Conv2d(width, 4 * width, 1)
        changes = stride != 1 or before != 4 * width
        self.shortcut: nn.Module = nn.Conv2d(before, 4 * width, 1, stride) if changes else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        inner = self.expand(self.middle(self.reduce(inputs).relu()).relu())
        return (inner + self.shortcut(inputs)).relu()


class SscdShaped(nn.Module):
    """ResNet-50, GeM of power 3, a projection to 512, unit length: what the published SSCD files compute."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        before = 64
        for width, depth, stride in _BLOCKS:
            for number in range(depth):
                layers.append(Bottleneck(before, width, stride if number == 0 else 1))
                before = 4 * width
        self.trunk, self.project = nn.Sequential(*layers), nn.Linear(2048, 512)

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.trunk(images).clamp(min=1e-6).pow(3).mean(dim=(2, 3)).pow(1 / 3)
        return nn.functional.normalize(self.project(pooled))


class Device:
    """Waits as long as a device of 400 images a second would take: what can overlap with it, does."""

    dim, min_side, batch_images, num_threads, batches_at_a_time = 512, 320, 16, 1, 2

    def __init__(self) -> None:
        self._busy = Lock()

    def prepare(self, image: Pixels) -> Pixels:
        """Squeezed to 320x320, as SSCD's."""
        return Preparation(320, "square")(image)

    def finish(self, prepared: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """Zeros, after a while."""
        with self._busy:
            time.sleep(len(prepared) / 400)
        return np.zeros((len(prepared), self.dim), dtype=np.float32)

    def encode(self, images: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """Zeros, after a while."""
        return self.finish([self.prepare(image) for image in images])


def encoders(folder: Path, batch_images: int) -> dict[str, BuiltEncoder]:
    """Encoders by name, random weights written to files and read back as published ones are."""
    torch.manual_seed(0)
    script, vit = folder / "sscd.pt", folder / "vit.safetensors"
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(SscdShaped().eval(), torch.zeros(1, 3, 320, 320)), str(script))
    save_file(Vit(size="small", patch_size=16, image_size=224).build().state_dict(), vit)
    named = [{"weights": str(path), "sha256": _sha256(path), "batch_images": batch_images} for path in (script, vit)]
    return {
        "pixels": PixelsEncoder().build(),
        "device_400_per_second": Device(),
        "sscd_shaped_320": Sscd.model_validate(named[0]).build(),
        "vit_s16_224": VitEncoder.model_validate(named[1]).build(),
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pictures(folder: Path, num: int) -> pa.Table:
    """JPEGs one after the other in a file, and the table that says where."""
    rows: list[dict[str, Any]] = []
    with (folder / "images.bin").open("wb") as file:
        for number in range(num):
            data = encode_jpeg(render_scene(CONCEPTS[number % len(CONCEPTS)], number, (640, 480)), quality=85)
            rows.append({"image_file": file.name, "image_offset": file.tell(), "image_bytes": file.write(data)})
    return pa.Table.from_pylist(rows)


Steps = dict[str, float]


def one_after_the_other(table: pa.Table, encoder: BuiltEncoder, layout: Layout) -> tuple[Steps, Steps]:
    """Seconds of each step, none of which overlaps another: how `describe` went about it before.

    By the clock, and of the processor: on a machine that others use, too, only these say what a step costs.
    """
    seconds, busy = (dict.fromkeys(("read", "decode", "prepare", "encode"), 0.0) for _ in range(2))
    prepared, clock, processor = [], time.perf_counter(), time.thread_time()

    def lap(step: str) -> None:
        nonlocal clock, processor
        now, used = time.perf_counter(), time.thread_time()
        seconds[step] += now - clock
        busy[step] += used - processor
        clock, processor = now, used

    with bounded_threads(1):
        for _, data in read_images(table, layout):
            lap("read")
            picture = decode_rgb(data, min_side=encoder.min_side)
            lap("decode")
            prepared.append(encoder.prepare(picture))
            lap("prepare")
            if len(prepared) == encoder.batch_images:
                encoder.finish(prepared)
                prepared = []
                lap("encode")
        if prepared:
            encoder.finish(prepared)
            lap("encode")
    return _rounded(seconds), _rounded(busy)


def _rounded(steps: Steps) -> Steps:
    return {step: round(value, 4) for step, value in steps.items()}


def overlapped(table: pa.Table, encoder: BuiltEncoder, layout: Layout, threads: int) -> float:
    """Seconds with decoding beside encoding."""
    started = time.perf_counter()
    encode_images(table, encoder, layout, waiting_images=64, decode_threads=threads)
    return time.perf_counter() - started


def measured(table: pa.Table, encoder: BuiltEncoder, layout: Layout, folder: Path) -> dict[str, Any]:
    """Images per second both ways, in turn, the best of three; and what writing a part of 10,000 takes."""
    num = len(table)
    runs = [one_after_the_other(table, encoder, layout) for _ in range(3)]
    steps, busy = (min(kind, key=lambda one: sum(one.values())) for kind in zip(*runs, strict=True))
    ways = {threads: min(overlapped(table, encoder, layout, threads) for _ in range(3)) for threads in (1, 2)}
    vectors = np.zeros((10_000, encoder.dim), dtype=np.float16)
    started = time.perf_counter()
    write_vectors(str(folder / "vectors.npy"), vectors)
    writing = time.perf_counter() - started
    before = sum(steps.values())
    return {
        "dim": encoder.dim,
        "seconds_one_after_the_other": steps,
        "processor_seconds": busy,
        "images_per_second_before": round(num / before, 1),
        "images_per_second_overlapped": {str(threads): round(num / seconds, 1) for threads, seconds in ways.items()},
        "times_faster": round(before / min(ways.values()), 2),
        "seconds_to_write_10000_vectors": round(writing, 3),
        "share_of_a_part_spent_writing": round(writing / (10_000 * min(ways.values()) / num + writing), 5),
    }


def main() -> None:
    """Measure all encoders and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--batch-images", type=int, default=16)
    options = parser.parse_args()
    content: dict[str, Any] = {"machine": machine(), "images": options.images, "size": "640x480 JPEG q85"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = pictures(folder, options.images)
        for kind, encoder in encoders(folder, options.batch_images).items():
            content[kind] = measured(table, encoder, Layout(name), folder)
            print(kind, content[kind])
    save("encoding", content)


if __name__ == "__main__":
    main()
