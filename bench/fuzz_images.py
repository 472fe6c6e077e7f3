"""Mutated images: whatever bytes come, storage.images answers or raises ImageError, in bounded time and memory.

`python -m bench.fuzz_images --inputs 100000` mutates JPEG, PNG, WebP, GIF and AVIF files (bits, bytes, lengths, whole
blocks, the tail of one behind the head of another) and gives each to `probe`, `probe_whole`, `verify` and `decode_rgb`.
A child process does the work with at most 1 GB more of address space than it starts with, and says before each input
which one it is; a child that dies, or takes longer than the limit, is a finding, and another goes on behind it. Input
number n of a seed is the same on every machine.
"""

import argparse
import io
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.measure import machine, save
from storage.images import ImageError, decode_gray, decode_rgb, probe, probe_whole, verify

MAX_PIXELS = 16_000_000
MEMORY_BYTES = 1_000_000_000
SECONDS = 10.0
_BATCH = 200
_STILL = 60
_SIDES = ((64, 48), (37, 91), (256, 200))
_EDGES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@dataclass
class Findings:
    """What came of the inputs: how many gave an image or which reason, and those that broke something."""

    outcomes: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0


def seed_files() -> dict[str, bytes]:
    """Sound files of every format, small, in several modes."""
    files = {}
    for number, (width, height) in enumerate(_SIDES):
        y, x = np.mgrid[0:height, 0:width]
        pixels = np.stack([x * 255 // width, y * 255 // height, (x * y) % 256], axis=-1).astype(np.uint8)
        image = Image.fromarray(pixels)
        frames = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
        kinds: list[tuple[str, str, dict[str, Any]]] = [
            ("JPEG", "RGB", {"quality": 80}), ("JPEG", "RGB", {"quality": 80, "progressive": True}),
            ("JPEG", "L", {}), ("JPEG", "CMYK", {}), ("PNG", "RGB", {}), ("PNG", "P", {}), ("PNG", "RGBA", {}),
            ("PNG", "I;16", {}), ("GIF", "P", {}), ("GIF", "P", {"save_all": True, "append_images": frames}),
            ("WEBP", "RGB", {"quality": 70}), ("WEBP", "RGBA", {"lossless": True}),
            ("WEBP", "RGB", {"save_all": True, "append_images": frames}), ("AVIF", "RGB", {"quality": 60, "speed": 10}),
            ("BMP", "RGB", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ]  # fmt: skip
        for kind, (format, mode, options) in enumerate(kinds):
            buffer = io.BytesIO()
            source = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
            source.save(buffer, format, **options)
            files[f"{format}-{kind}-{number}"] = buffer.getvalue()
    return files


def mutated(files: Sequence[bytes], number: int, seed: int) -> bytes:
    """Input `number`: one of the files with a few mutations, most of them near its head, where the structure is."""
    rng = random.Random(f"{seed}:{number}")
    data = bytearray(rng.choice(files))
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        rng.choice(_MUTATIONS)(data, rng, files)
        if not data:
            break
    return bytes(data)


def _place(data: bytearray, rng: random.Random) -> int:
    return rng.randrange(min(len(data), rng.choice((64, 1024, len(data)))))


def _flip(data: bytearray, rng: random.Random, files: Sequence[bytes]) -> None:
    data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _byte(data: bytearray, rng: random.Random, files: Sequence[bytes]) -> None:
    data[_place(data, rng)] = rng.randrange(256)


def _number(data: bytearray, rng: random.Random, files: Sequence[bytes]) -> None:
    """A length or size of 1, 2 or 4 bytes set to one that code forgets."""
    width, order = rng.choice((1, 2, 4)), rng.choice(("big", "little"))
    at = _place(data, rng)
    value = rng.choice(_EDGES) & ((1 << 8 * width) - 1)
    data[at : at + width] = value.to_bytes(width, order)  # type: ignore[arg-type]


def _cut(data: bytearray, rng: random.Random, files: Sequence[bytes]) -> None:
    del data[_place(data, rng) + 1 :]


def _remove(data: bytearray, rng: random.Random, files: Sequence[bytes]) -> None:
    at = _place(data, rng)
    del data[at : at + rng.choice((1, 4, 16, 256))]


def _repeat(data: bytearray, rng: random.Random, files: Sequence[bytes]) -> None:
    at = _place(data, rng)
    block = bytes(data[at : at + rng.choice((1, 8, 64, 1024))])
    data[at:at] = block * rng.choice((1, 2, 50))


def _splice(data: bytearray, rng: random.Random, files: Sequence[bytes]) -> None:
    other = rng.choice(files)
    at = _place(data, rng)
    data[at:] = other[rng.randrange(len(other)) :]


_MUTATIONS: Sequence[Callable[[bytearray, random.Random, Sequence[bytes]], None]] = (
    _flip, _flip, _byte, _byte, _number, _number, _number, _cut, _remove, _repeat, _splice,
)  # fmt: skip


def outcome_of(data: bytes) -> str:
    """ "image" or the reason, of every door; a disagreement that must not be is an error."""
    doors: tuple[Callable[[], object], ...] = (
        partial(probe, data), partial(probe_whole, data, max_pixels=MAX_PIXELS),
        partial(verify, data, max_pixels=MAX_PIXELS), partial(decode_rgb, data, max_pixels=MAX_PIXELS),
        partial(decode_gray, data, min_side=16, max_pixels=MAX_PIXELS),
    )  # fmt: skip
    reason = "image"
    for door in doors:
        try:
            door()
        except ImageError as error:
            reason = error.reason
    return reason


def _work(pipe: Connection, numbers: range, seed: int, seconds: float) -> None:
    """The child: each input's number before it, its outcome behind it. An input that takes more than `seconds` of
    processor ends it, by a signal that C code cannot pass over."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # codecs complain of bad bytes there
    files = list(seed_files().values())
    for data in files:
        outcome_of(data)  # every codec's own tables are there before memory is counted
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    for start in range(numbers.start, numbers.stop, _BATCH):
        done: Counter[str] = Counter()
        slowest = 0.0
        for number in range(start, min(start + _BATCH, numbers.stop)):
            pipe.send(number)
            signal.setitimer(signal.ITIMER_PROF, seconds)
            data = mutated(files, number, seed)
            began = time.perf_counter()
            try:
                done[outcome_of(data)] += 1
            except Exception as error:  # noqa: BLE001  what the fuzzer looks for
                pipe.send(f"input {number}: {type(error).__name__}: {error}"[:300])
            slowest = max(slowest, time.perf_counter() - began)
        pipe.send((done, slowest))


def fuzz(inputs: int, *, seed: int = 0, seconds: float = SECONDS) -> Findings:
    """Give so many mutated inputs to the doors. `seconds`: the longest that one input may take of a processor."""
    context = multiprocessing.get_context("spawn")
    findings, first = Findings(), 0
    while first < inputs:
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=_work, args=(there, range(first, inputs), seed, seconds), daemon=True)
        child.start()
        there.close()
        current, wait = first - 1, 300 + seconds  # the first word takes the imports' time
        try:
            while True:
                if not here.poll(wait):  # it neither works nor ends; a busy machine alone does not take so long
                    findings.broken.append(f"input {current}: stands still")
                    break
                match here.recv():
                    case int(number):
                        current, wait = number, _STILL * seconds
                    case str(finding):
                        findings.broken.append(finding)
                    case (Counter() as done, float(slowest)):
                        findings.outcomes.update(done)
                        findings.slowest_seconds = max(findings.slowest_seconds, slowest)
        except EOFError:
            child.join()
            if child.exitcode == -signal.SIGPROF:
                findings.broken.append(f"input {current}: no answer in {seconds:g} s of processor")
            elif child.exitcode:
                findings.broken.append(f"input {current}: the process died with exit code {child.exitcode}")
            elif current == inputs - 1:
                break
        print(*findings.broken[-1:], file=sys.stderr, flush=True)
        child.kill()
        child.join()
        first = max(first, current + 1)
    return findings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, help="write this one input to standard output and end")
    asked = parser.parse_args()
    if asked.number is not None:
        sys.stdout.buffer.write(mutated(list(seed_files().values()), asked.number, asked.seed))
        return
    began = time.perf_counter()
    findings = fuzz(asked.inputs, seed=asked.seed)
    print(dict(findings.outcomes), *findings.broken, sep="\n")
    content = {
        "machine": machine(),
        "inputs": asked.inputs,
        "seed": asked.seed,
        "outcomes": dict(sorted(findings.outcomes.items())),
        "broken": findings.broken,
        "slowest_seconds": round(findings.slowest_seconds, 3),
        "memory_limit_bytes": MEMORY_BYTES,
        "seconds": round(time.perf_counter() - began, 1),
    }
    save("fuzz_images", content)
    sys.exit(bool(findings.broken))


if __name__ == "__main__":
    main()
