"""What is trained on: the settings of the data, and the images and the order that they stand for."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from ssl_train.data.labels import ImageLabels, Labels
from ssl_train.data.order import GlobalOrder, Order, ShardShuffle
from ssl_train.data.parquet import ParquetImages
from ssl_train.data.source import FolderImages, Images, read_labels
from ssl_train.data.tars import TarImages


@dataclass(frozen=True)
class Data:
    """What is trained on, and how much of it at a time. Give one of `shards`, `folder` and `parquet`."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    shards: str | tuple[str, ...] = ()
    """WebDataset tars: a list of paths or URLs, or a glob."""
    folder: str | None = None
    """A folder of images, subfolders included."""
    parquet: str | tuple[str, ...] = ()
    """Parquet files of a Hugging Face dataset: a list of paths or URLs (hf://datasets/...), or a glob."""
    parquet_column: str = "image"
    """Their column of images: struct{bytes, path}, or plain bytes."""
    labels: Labels | None = None
    """Where the images' classes stand, `{}` for the usual places; null for images without classes."""
    batch_images: Annotated[int, Field(ge=1)] = 2048
    """Images of a step, over all processes."""
    repeats: Annotated[int, Field(ge=1)] = 1
    """Crops in a row that a step has of one image: repeated augmentation (arXiv 1901.09335), 3 in DeiT."""
    decode: Literal["reduced", "exact"] = "reduced"
    """`reduced`: a JPEG larger than its crops need is decoded at 1/2, 1/4 or 1/8, so that each is still cut with no
    fewer pixels than it gets; crops differ from `exact`'s by 1 to 3 of 255 levels (root mean square, on photographs
    with the least pixels allowed). `exact`: every image is decoded whole."""
    order: Literal["global", "shard_shuffle"] | None = None
    """`global`: any image may follow any other; `shard_shuffle`: stretches of storage are shuffled, and the images of a
    few of them among each other, which disks and networks read faster. Null: shard_shuffle for parquet, else global."""
    shuffle_images: Annotated[int, Field(ge=1)] = 4096
    """Images that `shard_shuffle` shuffles among each other, about; parquet keeps so many in every worker's memory."""
    index_cache: str | None = None
    """Folder that keeps where images lie in tars that have no index; null is curate-lvd in the user's cache folder."""

    @property
    def sources(self) -> list[str]:
        """Names of the settings that say where images are; one is right."""
        given = {"shards": bool(self.shards), "folder": self.folder is not None, "parquet": bool(self.parquet)}
        return [name for name, is_given in given.items() if is_given]

    def open(self) -> Images:
        """The images. Raises DataError when there are none."""
        if self.folder is not None:
            return FolderImages(self.folder)
        if self.parquet:
            return ParquetImages(self.parquet, column=self.parquet_column)
        return TarImages(self.shards, index_cache=self.index_cache or _user_cache())

    def open_labels(self, images: Images, names: Sequence[str] | None = None) -> ImageLabels | None:
        """The classes of these images, numbered as the given `names` or else as they say; None if none are asked for.

        Raises DataError for an image without a class, and for one of a class that has no number.
        """
        return None if self.labels is None else read_labels(images, self.labels, names)

    def order_of(self, images: Images, seed: int) -> Order:
        """The order of these images; a source that reads by blocks is told how many to keep."""
        if self.order == "global" or (self.order is None and not images.reads_blocks):
            return GlobalOrder(len(images), seed)
        blocks = images.block_images()
        window_blocks = -(-self.shuffle_images * len(blocks) // len(images))
        images.keep_blocks(window_blocks)
        return ShardShuffle(blocks, window_blocks=window_blocks, seed=seed)


def _user_cache() -> str:
    return str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "curate-lvd" / "tar-index")
