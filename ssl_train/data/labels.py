"""Which class every image is of: the folder it lies in, a member beside it in its tar, or a column of its table."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from ssl_train.errors import DataError
from ssl_train.settings import nearest
from storage.filesystem import read_bytes

NO_LABEL = frozenset({"", "-1"})
"""Texts of an image that has none; -1 is what Hugging Face's unlabelled splits hold."""
MAX_CLASSES = 10_000_000
_SHOWN = 5


@dataclass(frozen=True)
class Labels:
    """Where the images' classes stand; `{}` reads them from the usual places.

    Of a folder's images it is the first folder below it. Numbers are the classes' numbers; names are numbered in their
    alphabetical order.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    json_key: str | None = None
    """Tars: the key of a sample's .json that holds its class (a dot leads to a key within); null reads its .cls."""
    column: str = "label"
    """Parquet: the column of classes, numbers or names."""
    classes: str | None = None
    """A text file with the classes' names, one a line, by number; null takes what the images say."""

    def names(self) -> tuple[str, ...] | None:
        """The names of `classes`. Raises DataError when one stands there twice."""
        if self.classes is None:
            return None
        names = tuple(line.strip() for line in read_bytes(self.classes).decode("utf-8").splitlines() if line.strip())
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"data.labels.classes = {self.classes} names {twice!r} twice. One line for each class.")
        return names


@dataclass(frozen=True)
class ImageLabels:
    """The class of every image of a source, by the image's number; 4 bytes an image."""

    numbers: NDArray[np.int32]
    names: tuple[str, ...]
    """Names of the classes, by number."""

    def __len__(self) -> int:
        return len(self.numbers)


class LabelTexts(NamedTuple):
    """What a source says of its images' classes."""

    texts: Sequence[str]
    """One for each image, in the images' order; see NO_LABEL."""
    where: str
    """The source, for complaints."""
    names: tuple[str, ...] | None = None
    """Names by number, where the source has such a list."""
    are_names: bool = False
    """True where a text of digits is a name too: folders are told by their names."""


def numbered(
    said: LabelTexts, names: Sequence[str] | None = None, *, key_of: Callable[[int], str] = "image number {}".format
) -> ImageLabels:
    """Texts to numbers: those of the given `names` (of the training's classes), else of the source's own.

    A text is first looked for among the names, and a number is itself where it is no name. Raises DataError for images
    without a label (`key_of` gives an image's key), and for classes that are not among the given ones.
    """
    missing = [place for place, text in enumerate(said.texts) if text in NO_LABEL]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(said.texts)} images in {said.where} have no label; the first is "
            f"{key_of(missing[0])}. Every image needs one: leave those out, or see data.labels for where they are read."
        )
    known = tuple(names or said.names or _own_names(set(said.texts), said))
    index = {name: number for number, name in enumerate(known)}
    lookup = {text: _number(text, index, said) for text in set(said.texts)}
    strangers = sorted(text for text, number in lookup.items() if number is None)
    if strangers:
        raise DataError(
            f"{said.where} has {len(strangers)} class(es) that are not among the {len(known)} known ones: "
            f"{', '.join(map(repr, strangers[:_SHOWN]))}{nearest(strangers[0], known)}. Training and validation must "
            "name their classes alike; data.labels.classes can list them all."
        )
    numbers = np.fromiter((lookup[text] for text in said.texts), np.int32, len(said.texts))
    return ImageLabels(numbers, known)


def _own_names(found: set[str], said: LabelTexts) -> Iterator[str]:
    """Names of the classes found: numbers up to the largest, or the texts by name."""
    if said.are_names or not all(text.isdecimal() for text in found):
        return iter(sorted(found))
    largest = max(map(int, found))
    if largest >= MAX_CLASSES:
        raise DataError(f"{largest} cannot be the number of a class in {said.where}: see data.labels for what is read.")
    return map(str, range(largest + 1))


def _number(text: str, index: Mapping[str, int], said: LabelTexts) -> int | None:
    """The number of a class by its name, or by itself; a source with a list of names speaks of its own numbers."""
    if text in index:
        return index[text]
    own = int(text) if text.isdecimal() and not said.are_names else -1
    if said.names is not None:
        return index.get(said.names[own]) if 0 <= own < len(said.names) else None
    return own if 0 <= own < len(index) else None
