"""Images in WebDataset tars, read by byte range: nothing else of a tar is fetched, be it local or remote."""

import tarfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from posixpath import splitext

from ssl_train.data.source import IMAGE_EXTENSIONS, EncodedImage, split_evenly
from ssl_train.data.tar_index import TarIndex, index_tars
from ssl_train.errors import DataError
from storage.filesystem import list_files
from storage.range_reader import read_ranges


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

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, numbers: Sequence[int]) -> Iterator[EncodedImage]:
        """The images with these numbers; an image's key is its tar member's name without extension."""
        # One read brings the member's header, which ends where the data begins, with the data.
        for block in read_ranges([self._range(number) for number in numbers]):
            header = tarfile.TarInfo.frombuf(block[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
            yield EncodedImage(splitext(header.name)[0], block[tarfile.BLOCKSIZE :])

    def _range(self, number: int) -> tuple[str, int, int]:
        shard = bisect_right(self._ends, number)
        tar = self._tars[shard]
        place = number - (self._ends[shard - 1] if shard else 0)
        return tar.path, tar.offsets[place] - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE + tar.sizes[place]

    def block_images(self) -> list[int]:
        """Stretches of neighbours in one tar."""
        return [size for tar in self._tars for size in split_evenly(len(tar.offsets)) if size]

    def keep_blocks(self, number: int) -> None:
        """Nothing is kept: the operating system does."""
