"""What every image filter is: pictures in, one finding each out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.images import Pixels

Boxes = NDArray[np.float32]
"""[boxes, 5]: left, top, right, bottom in pixels, score in 0..1; best score first."""


class FilterUnavailable(RuntimeError):
    """A filter's model is not installed or not readable; the message says what to install."""


@dataclass(frozen=True)
class Picture:
    """A decoded image. `pixels` may be a JPEG's reduced decode; `width` and `height` are the file's own, upright."""

    pixels: Pixels
    width: int
    height: int


@dataclass(frozen=True)
class Finding:
    """What one filter says about one picture."""

    drop: str | None = None
    detail: str | None = None
    value: float | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Values of the filter's own columns."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Numbers that the stage adds up in its facts."""
    changed: Pixels | None = None
    """The picture's pixels after the filter, when it changed them; the later filters and the stage's file get these."""


class BuiltFilter(Protocol):
    """A built filter. Its config's `build()` makes it in the worker: models are neither pickled nor shared."""

    fields: Sequence[pa.Field]
    """The columns it adds to the stage's table."""
    changes_images: bool
    """Whether a finding may come with changed pixels."""
    min_side: int | None
    """Shorter side in pixels that it needs; None = the whole resolution, and pictures that lie on the file's grid."""

    def examine(self, pictures: Sequence[Picture]) -> list[Finding]:
        """One finding per picture, in order; a finding depends on its picture alone."""
        ...
