"""Where the images of tars lie: by the index that packing wrote beside them, else by a scan that is kept."""

import hashlib
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch.distributed as dist

from ssl_train.data.source import is_image
from ssl_train.errors import DataError
from storage.errors import StorageError
from storage.filesystem import change_mark, exists, join, open_read, write_atomic
from storage.samples import INDEX_SCHEMA, index_path
from storage.tar_headers import NotATar, tar_members

INDEXING_THREADS = 16
_PLACES = pa.schema([("offset", pa.int64()), ("bytes", pa.int64())])


class TarIndex(NamedTuple):
    """Where the images of one tar begin, and their sizes, in bytes (12 bytes an image)."""

    path: str
    offsets: "array[int]"
    sizes: "array[int]"


def index_tars(paths: Sequence[str], cache: str | None) -> list[TarIndex]:
    """The indexes of all tars, in order: each process of the run reads its share, and tells the others.

    A tar with an index beside it costs one small read; one without is scanned, header by header, and what was found
    kept in the folder `cache`, under a name that changes with the tar. Raises DataError for what is no whole tar.
    """
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    with ThreadPoolExecutor(INDEXING_THREADS) as pool:
        own = list(pool.map(lambda path: index_tar(path, cache), paths[rank::size]))
    everyone: list[list[TarIndex]] = [own]
    if size > 1:
        everyone = [[]] * size
        dist.all_gather_object(everyone, own)
    return [everyone[number % size][number // size] for number in range(len(paths))]


def index_tar(path: str, cache: str | None = None) -> TarIndex:
    """Where one tar's images are. Raises DataError when it is no whole tar."""
    written = _read_places(index_path(path), set(INDEX_SCHEMA.names))
    if written is not None:
        return TarIndex(path, *written)
    kept = join(cache, f"{_name(path)}.parquet") if cache else None
    found = _read_places(kept, set(_PLACES.names)) if kept else None
    if found is None:
        found = _scan(path)
        if kept:
            _keep(kept, found)
    return TarIndex(path, *found)


def _name(path: str) -> str:
    return hashlib.sha256((path + change_mark(path)).encode()).hexdigest()[:32]


def _read_places(path: str, columns: set[str]) -> "tuple[array[int], array[int]] | None":
    """Offsets and sizes from a Parquet file; None when it is not there, or is something else."""
    if not exists(path):
        return None
    with open_read(path) as file:
        table = pq.ParquetFile(file)
        if not columns <= set(table.schema_arrow.names):
            return None
        rows = table.read(_PLACES.names)
    return array("q", rows["offset"].to_numpy().tobytes()), array("I", rows["bytes"].to_numpy().astype("u4").tobytes())


def _scan(path: str) -> "tuple[array[int], array[int]]":
    offsets, sizes = array("q"), array("I")
    try:
        with open_read(path) as file:
            for member in tar_members(file, path, with_data=False):
                if is_image(member.name):
                    offsets.append(member.offset)
                    sizes.append(member.size)
    except NotATar as error:
        raise DataError(f"{error} Or leave it out of data.shards.") from error
    return offsets, sizes


def _keep(path: str, places: "tuple[array[int], array[int]]") -> None:
    """Write a scan's findings; where that cannot be written the next run scans again."""
    with suppress(StorageError), write_atomic(path) as file:
        columns = [pa.array(list(numbers), pa.int64()) for numbers in places]
        pq.write_table(pa.Table.from_arrays(columns, schema=_PLACES), file)
