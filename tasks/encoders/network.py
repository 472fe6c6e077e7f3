"""What encoders that run a network share: resizing, normalising, batching, and a bound on threads."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from storage.images import Method, resize
from tasks.encoders.base import EncoderUnavailable, Floats, Pixels8, bounded_threads, unit

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Fit = Literal["square", "short_side", "centre_crop"]


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes a network's input. Antialiased, as Pillow resizes.

    square: both sides become `side`, the picture is squeezed; short_side: the shorter side becomes `side`, the aspect
    stays; centre_crop: the shorter side becomes `side` * 256 / 224 and the middle is cut out.
    """

    side: int
    fit: Fit
    method: Method = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __call__(self, image: Pixels8) -> Pixels8:
        """uint8 [height, width, 3] -> uint8 of the network's size."""
        if self.fit == "square":
            return resize(image, height=self.side, width=self.side, method=self.method)
        height, width = image.shape[:2]
        short = self.short_side / min(height, width)
        height, width = max(self.short_side, round(height * short)), max(self.short_side, round(width * short))
        resized = resize(image, height=height, width=width, method=self.method)
        if self.fit == "short_side":
            return resized
        top, left = (height - self.side) // 2, (width - self.side) // 2
        return resized[top : top + self.side, left : left + self.side]

    @property
    def short_side(self) -> int:
        """Pixels of the shorter side after resizing."""
        return round(self.side * 256 / 224) if self.fit == "centre_crop" else self.side

    def normalise(self, images: Sequence[Pixels8]) -> Tensor:
        """uint8 pictures of one size -> float32 [batch, 3, height, width]."""
        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        return (batch - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)


class NetworkEncoder:
    """Runs `network` [batch, 3, height, width] -> [batch, dim] over pictures, equal sizes together.

    Raises EncoderUnavailable when the network does not give one vector for a picture.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        preparation: Preparation,
        *,
        batch_images: int,
        num_threads: int,
        name: str,
    ) -> None:
        self._network, self._preparation = network, preparation
        self._batch_images, self._num_threads = batch_images, num_threads
        self.min_side = preparation.short_side
        blank = np.zeros((preparation.side, preparation.side, 3), dtype=np.uint8)
        given = self._run([blank])
        if given.ndim != 2 or len(given) != 1:
            raise EncoderUnavailable(
                f"{name} gives {tuple(given.shape)} for one picture, but an encoder gives [1, dim]. "
                "Choose weights of a descriptor, not of a classifier with several outputs or of a feature map."
            )
        self.dim = given.shape[1]

    def encode(self, images: Sequence[Pixels8]) -> Floats:
        """RGB pictures [height, width, 3] -> [len(images), dim] of unit length."""
        vectors = np.zeros((len(images), self.dim), dtype=np.float32)
        for rows, batch in self._batches(images):
            vectors[rows] = self._run(batch).numpy()
        return unit(vectors)

    def _batches(self, images: Sequence[Pixels8]) -> Iterator[tuple[list[int], list[Pixels8]]]:
        waiting: dict[tuple[int, ...], list[tuple[int, Pixels8]]] = defaultdict(list)
        for row, image in enumerate(images):
            prepared = self._preparation(image)
            group = waiting[prepared.shape]
            group.append((row, prepared))
            if len(group) == self._batch_images:
                yield [row for row, _ in group], [image for _, image in waiting.pop(prepared.shape)]
        for group in waiting.values():
            yield [row for row, _ in group], [image for _, image in group]

    def _run(self, images: Sequence[Pixels8]) -> Tensor:
        with torch.inference_mode(), bounded_threads(self._num_threads):
            return self._network(self._preparation.normalise(images)).float()
