"""Where encoded images come from: tars, Parquet files or a folder. Any image can be read by its number."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from posixpath import basename, splitext
from sys import intern
from typing import NamedTuple, Protocol

from ssl_train.data.labels import ImageLabels, Labels, LabelTexts, numbered
from ssl_train.errors import DataError
from storage.filesystem import exists, join, list_files, read_bytes

IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"})
BLOCK_IMAGES = 512
"""Neighbours that are read in one stretch where a source has no blocks of its own (50 MB of web photographs)."""


class EncodedImage(NamedTuple):
    """An image as it is stored, and the name by which its lineage can be asked for."""

    key: str
    data: bytes


class Images(Protocol):
    """A numbered set of encoded images."""

    reads_blocks: bool
    """True where one image costs a whole block: such a source is read in the order `shard_shuffle`."""

    def __len__(self) -> int: ...

    def read(self, numbers: Sequence[int]) -> Iterator[EncodedImage]:
        """The images with these numbers, in this order; what comes later is fetched ahead."""
        ...

    def block_images(self) -> list[int]:
        """How many images each stretch of storage holds that is best read in one go; none is empty."""
        ...

    def keep_blocks(self, number: int) -> None:
        """Images of this many blocks will be asked for at a time: keep these blocks at hand."""
        ...

    def label_texts(self, labels: Labels) -> LabelTexts:
        """What the source says of every image's class. Raises DataError where it says nothing at all."""
        ...


class FolderImages:
    """The images of a folder and its subfolders, by path."""

    reads_blocks = False

    def __init__(self, folder: str) -> None:
        self._folder = folder
        if not exists(folder):
            raise DataError(f"there is no folder at data.folder = {folder!r}. Correct the path.")
        paths = list_files(join(folder, "**"), only_files=True)
        self._paths = [path for path in paths if is_image(path)]
        if not self._paths:
            raise DataError(
                f"no images under data.folder = {folder!r} ({len(paths)} files there). "
                f"Images are told by their extension: {', '.join(sorted(IMAGE_EXTENSIONS))}."
            )

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, numbers: Sequence[int]) -> Iterator[EncodedImage]:
        """The images with these numbers; an image's key is its path."""
        for number in numbers:
            yield EncodedImage(self._paths[number], read_bytes(self._paths[number]))

    def block_images(self) -> list[int]:
        """Stretches of neighbouring paths."""
        return split_evenly(len(self))

    def keep_blocks(self, number: int) -> None:
        """Nothing is kept."""

    def label_texts(self, _labels: Labels) -> LabelTexts:
        """Of an image below <folder>/<class>/, however deep, the class; of one beside those folders none."""
        (root,) = list_files(self._folder.rstrip("/") or "/")
        below = (path.removeprefix(root).lstrip("/").split("/") for path in self._paths)
        texts = [intern(parts[0]) if len(parts) > 1 else "" for parts in below]
        return LabelTexts(texts, f"data.folder = {self._folder!r}", are_names=True)


def read_labels(images: Images, labels: Labels, names: Sequence[str] | None = None) -> ImageLabels:
    """The classes of all images, numbered as the given `names`, else as `labels.classes` lists them or images say.

    Raises DataError for an image without a class, and for one of a class that has no number.
    """
    said = images.label_texts(labels)
    return numbered(said, names or labels.names(), key_of=lambda number: next(images.read([number])).key)


def is_image(path: str) -> bool:
    """Whether a file's name says that it is an image."""
    return splitext(basename(path))[1].lower() in IMAGE_EXTENSIONS


def split_evenly(num_images: int) -> list[int]:
    """Sizes of blocks of about BLOCK_IMAGES that together hold `num_images`."""
    num_blocks = -(-num_images // BLOCK_IMAGES)
    return [end - start for start, end in pairwise(block * num_images // num_blocks for block in range(num_blocks + 1))]
