"""Where encoded images come from: WebDataset tars, or a folder. Any image can be read by its number."""

import tarfile
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from posixpath import basename, splitext
from typing import NamedTuple, Protocol

from ssl_train.errors import DataError
from storage.filesystem import join, list_files, open_read, read_bytes

IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"})
INDEXING_THREADS = 8


class EncodedImage(NamedTuple):
    """An image as it is stored, and the name by which its lineage can be asked for."""

    key: str
    data: bytes


class Images(Protocol):
    """A numbered set of encoded images."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> EncodedImage:
        """The image with this number."""
        ...


class TarIndex(NamedTuple):
    """Where the images of one tar begin, and their sizes, in bytes (16 bytes an image)."""

    path: str
    offsets: "array[int]"
    sizes: "array[int]"


class TarImages:
    """The images of WebDataset tars, in the order of the tars; other members are passed over."""

    def __init__(self, shards: str | Sequence[str]) -> None:
        paths = list_files(shards) if isinstance(shards, str) else list(shards)
        if not paths:
            raise DataError(f"no tars match data.shards = {shards!r}. Give a list of tars or a glob that matches some.")
        with ThreadPoolExecutor(INDEXING_THREADS) as pool:
            self._tars = list(pool.map(index_tar, paths))
        self._ends = list(accumulate(len(tar.offsets) for tar in self._tars))
        if not len(self):
            raise DataError(f"the {len(paths)} tars of data.shards hold no images ({', '.join(IMAGE_EXTENSIONS)}).")

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, index: int) -> EncodedImage:
        """The image with this number; its key is its tar member's name without extension."""
        number = bisect_right(self._ends, index)
        tar = self._tars[number]
        place = index - (self._ends[number - 1] if number else 0)
        offset, size = tar.offsets[place], tar.sizes[place]
        # One read brings the member's header, which ends where the data begins, with the data.
        block = read_bytes(tar.path, offset - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE + size)
        header = tarfile.TarInfo.frombuf(block[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
        return EncodedImage(splitext(header.name)[0], block[tarfile.BLOCKSIZE :])


class FolderImages:
    """The images of a folder and its subfolders, by path."""

    def __init__(self, folder: str) -> None:
        paths = list_files(join(folder, "**"))
        self._paths = [path for path in paths if is_image(path)]
        if not self._paths:
            raise DataError(
                f"no images under data.folder = {folder!r} ({len(paths)} files there). "
                f"Images are told by their extension: {', '.join(sorted(IMAGE_EXTENSIONS))}."
            )

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> EncodedImage:
        """The image with this number; its key is its path."""
        return EncodedImage(self._paths[index], read_bytes(self._paths[index]))


def is_image(path: str) -> bool:
    """Whether a file's name says that it is an image."""
    return splitext(basename(path))[1].lower() in IMAGE_EXTENSIONS


def index_tar(path: str) -> TarIndex:
    """Where a tar's images are; reads its headers only. Raises DataError when it is no whole tar."""
    offsets, sizes = array("q"), array("q")
    try:
        with open_read(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isfile() and is_image(member.name):
                    offsets.append(member.offset_data)
                    sizes.append(member.size)
    except tarfile.TarError as error:
        raise DataError(
            f"{path} is not a whole tar: {error}. Write it again, or leave it out of data.shards."
        ) from error
    return TarIndex(path, offsets, sizes)
