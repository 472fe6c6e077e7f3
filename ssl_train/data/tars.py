"""Images in WebDataset tars, read by byte range: nothing else of a tar is fetched, be it local or remote."""

import os
import tarfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from posixpath import splitext

from ssl_train.data.labels import Labels, LabelTexts
from ssl_train.data.source import IMAGE_EXTENSIONS, EncodedImage, split_evenly
from ssl_train.data.tar_index import TarIndex, index_tars
from ssl_train.data.tar_labels import label_tars
from ssl_train.errors import DataError
from storage.filesystem import is_url, list_files
from storage.range_reader import Range, read_ranges


class TarImages:
    """The images of WebDataset tars, in the order of the tars; other members are passed over.

    Memory: 12 bytes an image, in every process.
    """

    reads_blocks = False

    def __init__(self, shards: str | Sequence[str], *, index_cache: str | None = None) -> None:
        """`index_cache`: the folder that keeps where a scanned tar's images lie; None keeps nothing."""
        paths = list_files(shards) if isinstance(shards, str) else list(shards)
        if not paths:
            raise DataError(f"no tars match data.shards = {shards!r}. Give a list of tars or a glob that matches some.")
        self._tars: list[TarIndex] = index_tars(paths, index_cache)
        self._ends = list(accumulate(len(tar.offsets) for tar in self._tars))
        if not len(self):
            raise DataError(f"the {len(paths)} tars of data.shards hold no images ({', '.join(IMAGE_EXTENSIONS)}).")
        self._cache = index_cache
        self._announced: dict[int, None] = {}  # blocks, the latest last
        self._max_announced = 0
        self._block_ends: list[int] = []

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, numbers: Sequence[int]) -> Iterator[EncodedImage]:
        """The images with these numbers; an image's key is its tar member's name without extension."""
        if self._max_announced:
            self._announce_blocks(numbers)
        # One read brings the member's header, which ends where the data begins, with the data.
        for block in read_ranges([self._range(number) for number in numbers]):
            header = tarfile.TarInfo.frombuf(block[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
            yield EncodedImage(splitext(header.name)[0], block[tarfile.BLOCKSIZE :])

    def block_images(self) -> list[int]:
        """Stretches of neighbours in one tar."""
        return [size for tar in self._tars for size in split_evenly(len(tar.offsets)) if size]

    def keep_blocks(self, number: int) -> None:
        """From now on the operating system is asked for a block, whole, when its first image is: it reads it in one go,
        once for all workers. Twice so many blocks are remembered as asked for."""
        self._max_announced = 2 * number
        self._block_ends = list(accumulate(self.block_images()))

    def label_texts(self, labels: Labels) -> LabelTexts:
        """What each image's sample says of its class, in its .cls or under a key of its .json.

        A tar is scanned for it once, header by header, and what was found kept where the index is. Memory: a reference
        an image.
        """
        texts = label_tars(self._tars, self._cache, labels.json_key)
        member = ".cls" if labels.json_key is None else f"{labels.json_key!r} in their .json"
        return LabelTexts(texts, f"the {len(self._tars)} tar(s) of data.shards ({member})")

    def _range(self, number: int) -> Range:
        shard = bisect_right(self._ends, number)
        tar = self._tars[shard]
        place = number - (self._ends[shard - 1] if shard else 0)
        return tar.path, tar.offsets[place] - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE + tar.sizes[place]

    def _announce_blocks(self, numbers: Sequence[int]) -> None:
        for block in dict.fromkeys(bisect_right(self._block_ends, number) for number in numbers):
            if block not in self._announced:
                read_ahead(self._block_range(block))
            self._announced[block] = self._announced.pop(block, None)
        for block in list(self._announced)[: -self._max_announced]:
            del self._announced[block]

    def _block_range(self, block: int) -> Range:
        """Where a block lies in its tar."""
        path, start, _ = self._range(self._block_ends[block - 1] if block else 0)
        _, last, size = self._range(self._block_ends[block] - 1)
        return path, start, last + size - start


def read_ahead(stretch: Range) -> None:
    """Have the operating system fetch a stretch of a local file while other work is done."""
    path, start, length = stretch
    if is_url(path) or not hasattr(os, "posix_fadvise"):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)
