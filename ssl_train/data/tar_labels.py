"""What the samples of tars say of their classes: read once from the members beside the images, and kept."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from sys import intern
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch.distributed as dist

from ssl_train.data.source import is_image
from ssl_train.data.tar_index import INDEXING_THREADS, TarIndex
from ssl_train.errors import DataError
from storage.errors import StorageError
from storage.filesystem import change_mark, exists, join, open_read, write_atomic
from storage.tar_headers import Member, NotATar, tar_members

_KEPT = pa.schema([("offset", pa.int64()), ("label", pa.string())])


class LabelledMember(NamedTuple):
    """An image of a tar, and what its sample says of its class; "" where it says nothing."""

    member: Member
    label: str


def label_tars(tars: Sequence[TarIndex], cache: str | None, json_key: str | None) -> list[str]:
    """The labels of all images in the order of the indexes; each process reads its share, and tells the others."""
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    with ThreadPoolExecutor(INDEXING_THREADS) as pool:
        own = list(pool.map(lambda tar: _labels_of(tar, cache, json_key), tars[rank::size]))
    everyone: list[list[list[str]]] = [own]
    if size > 1:
        everyone = [[]] * size
        dist.all_gather_object(everyone, own)
    by_tar = (everyone[number % size][number // size] for number in range(len(tars)))
    return [intern(label) for labels in by_tar for label in labels]


def labelled_members(path: str, json_key: str | None = None) -> Iterator[LabelledMember]:
    """The images of a tar in its order, each with its sample's label. Memory: 300 bytes an image of the tar.

    Members of a sample share their name up to the first dot after the last slash. Raises DataError for what is no whole
    tar, and for a .json that is none.
    """
    wanted = "cls" if json_key is None else "json"
    images, labels = list[tuple[str, Member]](), dict[str, str]()
    try:
        with open_read(path) as file:
            for member in tar_members(file, path, with_data=False):
                key, extension = _split(member.name)
                if is_image(member.name):
                    images.append((key, member))
                elif extension.lower() == wanted:
                    file.seek(member.offset)  # the scan goes on from where it stands itself
                    labels[key] = _text(file.read(member.size), json_key, f"{member.name} in {path}")
    except NotATar as error:
        raise DataError(f"{error} Or leave it out.") from error
    yield from (LabelledMember(member, labels.get(key, "")) for key, member in images)


def _labels_of(tar: TarIndex, cache: str | None, json_key: str | None) -> list[str]:
    """One tar's labels, as its index has its images."""
    kept = join(cache, f"{_name(tar.path, json_key)}.labels.parquet") if cache else None
    by_offset = _read(kept) if kept and exists(kept) else None
    if by_offset is None:
        by_offset = {member.offset: intern(label) for member, label in labelled_members(tar.path, json_key)}
        if kept:
            _keep(kept, by_offset)
    return [by_offset.get(offset, "") for offset in tar.offsets]


def _name(path: str, json_key: str | None) -> str:
    return hashlib.sha256(f"{path}{change_mark(path)}\n{json_key}".encode()).hexdigest()[:32]


def _split(name: str) -> tuple[str, str]:
    """A member's key and extension, as WebDataset splits them."""
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return folder + slash + stem, extension


def _text(data: bytes, json_key: str | None, where: str) -> str:
    try:
        content = data.decode("utf-8").strip()
        value: Any = content if json_key is None else _within(json.loads(content), json_key)
    except ValueError as error:  # of decoding and of JSON
        raise DataError(f"{where} holds no label that can be read: {error}. See data.labels.") from error
    return "" if value is None else str(value)


def _within(content: Any, key: str) -> Any:
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def _read(path: str) -> dict[int, str]:
    with open_read(path) as file:
        table = pq.ParquetFile(file).read()
    return dict(zip(table["offset"].to_pylist(), map(intern, table["label"].to_pylist()), strict=True))


def _keep(path: str, by_offset: dict[int, str]) -> None:
    """Write what a scan found; where that cannot be written the next run scans again."""
    with suppress(StorageError), write_atomic(path) as file:
        columns = [pa.array(list(by_offset), pa.int64()), pa.array(list(by_offset.values()), pa.string())]
        pq.write_table(pa.Table.from_arrays(columns, schema=_KEPT), file)
