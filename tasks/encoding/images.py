"""Images -> vectors, one part: bytes are read, pictures decoded and resized by threads while others are encoded.

Four steps run beside each other, each a bounded number of images ahead of the next: one thread reads, `decode_threads`
decode and prepare, one encodes (two feed a GPU, so that a batch is copied while another is computed), and one whitens,
rounds and stores. Memory: `waiting_images` and three batches of prepared pictures (0.3 MB each at 320 pixels), as many
decoded ones as there are threads, and the part's vectors (2 bytes per number).
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.errors import UnreachableStorage
from storage.filesystem import open_read, read_bytes
from storage.images import ImageError, decode_rgb
from storage.layout import Layout
from tasks.encoders import BuiltEncoder, bounded_threads
from tasks.encoders.base import Floats, Prepared
from tasks.encoding.pipeline import ahead, mapped

Halves = npt.NDArray[np.floating]
_READ_AHEAD = 64


@dataclass(frozen=True)
class Encoded:
    """Vectors [rows, dim] of the rows of a table (zeros where one cannot be decoded), and why, by row."""

    vectors: Halves
    failures: Mapping[int, ImageError]


def encode_images(
    table: pa.Table,
    encoder: BuiltEncoder,
    layout: Layout,
    *,
    waiting_images: int,
    decode_threads: int,
    transform: Callable[[Floats], Floats] | None = None,
    out_dim: int | None = None,
    dtype: npt.DTypeLike = np.float16,
) -> Encoded:
    """The images of a table, encoded; `transform` turns blocks of vectors [n, encoder.dim] into [n, out_dim].

    The result does not depend on the number of threads nor, but for the last digit where a network is given pictures
    of many shapes, on which other images the table holds.
    """
    vectors = np.zeros((len(table), out_dim or encoder.dim), dtype=dtype)
    failures: dict[int, ImageError] = {}

    def encode(item: tuple[list[int], list[Prepared]]) -> tuple[list[int], Floats]:
        return item[0], encoder.finish(item[1])

    def store(item: tuple[list[int], Floats]) -> None:
        vectors[item[0]] = item[1] if transform is None else transform(item[1])

    at_a_time = encoder.batches_at_a_time
    with (
        bounded_threads(encoder.num_threads),  # before the threads begin: they inherit it
        ThreadPoolExecutor(decode_threads, thread_name_prefix="decode") as decoders,
        ThreadPoolExecutor(at_a_time, thread_name_prefix="encode") as encoders,
        ThreadPoolExecutor(1, thread_name_prefix="store") as writer,
        closing(ahead(read_images(table, layout), _READ_AHEAD)) as read,
    ):
        ready = mapped(partial(_prepare, encoder), read, decoders, 2 * decode_threads + encoder.batch_images)
        batches = _batches(ready, encoder.batch_images, waiting_images, failures)
        encoded = mapped(encode, batches, encoders, at_a_time + 1)
        for _ in mapped(store, encoded, writer, 2):
            pass
    return Encoded(vectors, dict(sorted(failures.items())))


def _prepare(encoder: BuiltEncoder, item: tuple[int, bytes]) -> tuple[int, Prepared | ImageError]:
    row, data = item
    try:
        return row, encoder.prepare(decode_rgb(data, min_side=encoder.min_side))
    except ImageError as error:
        return row, error


def _batches(
    ready: Iterator[tuple[int, Prepared | ImageError]],
    batch_images: int,
    waiting_images: int,
    failures: dict[int, ImageError],
) -> Iterator[tuple[list[int], list[Prepared]]]:
    """(rows, pictures of one shape), full batches as soon as there are; the largest group when too many wait."""
    groups: dict[tuple[int, ...], list[tuple[int, Prepared]]] = defaultdict(list)
    waiting = 0
    for row, prepared in ready:
        if isinstance(prepared, ImageError):
            failures[row] = prepared
            continue
        groups[prepared.shape].append((row, prepared))
        waiting += 1
        full = len(groups[prepared.shape]) >= batch_images
        if full or waiting >= max(waiting_images, batch_images):
            shape = prepared.shape if full else max(groups, key=lambda shape: len(groups[shape]))
            group = groups.pop(shape)
            waiting -= len(group)
            yield [row for row, _ in group], [picture for _, picture in group]
    for group in groups.values():
        yield [row for row, _ in group], [picture for _, picture in group]


def read_images(table: pa.Table, layout: Layout) -> Iterator[tuple[int, bytes]]:
    """(row, encoded bytes), file by file and each file from its front, so that every file is opened once."""
    places: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    columns = (table[name].to_pylist() for name in ("image_file", "image_offset", "image_bytes"))
    for row, (file, offset, size) in enumerate(zip(*columns, strict=True)):
        places[file].append((offset, size, row))
    for file, inside in places.items():
        if len(inside) == 1:
            offset, size, row = inside[0]
            yield row, read_bytes(layout.resolve(file), offset, size)
            continue
        with open_read(layout.resolve(file)) as opened:
            for offset, size, row in sorted(inside):
                opened.seek(offset)
                data = opened.read(size)
                if len(data) != size:
                    raise UnreachableStorage(
                        f"{file} ends early: {size} bytes wanted at {offset}, {len(data)} there. The file was cut or "
                        "replaced; delete its stage's folder and run again."
                    )
                yield row, data
