"""What encoders that run a network share: their config, resizing, normalising, batching, the GPU, half precision."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from storage.images import Method, resize
from tasks.config import StageConfig
from tasks.encoders.base import EncoderUnavailable, Floats, Pixels8, bounded_threads, unit

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Fit = Literal["square", "short_side", "centre_crop"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Sha256 = Annotated[str, Field(pattern=r"^(sha256:)?[0-9a-fA-F]{64}$")]
Triple = tuple[float, float, float]


class NetworkConfig(StageConfig):
    """What every encoder with weights is told."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"weights", "batch_images", "num_threads", "device"})

    weights: str
    """Path or URL of the file; a URL is fetched once per machine, into $CURATE_LVD_CACHE."""
    sha256: Sha256
    """Its SHA-256; the file is refused when it differs."""
    batch_images: Annotated[int, Field(ge=1, le=4096)] = 32
    """Pictures in one pass. Other batches round otherwise: float16's last digit may change with it."""
    num_threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads of one worker, where it runs on the CPU."""
    device: Device = "auto"
    """auto takes a GPU where the worker sees one; give each worker its own (CUDA_VISIBLE_DEVICES)."""


class TorchConfig(NetworkConfig):
    """What every encoder that torch runs is told."""

    precision: Precision = "auto"
    """Of products and convolutions (autocast; norms and powers stay float32); auto: float16 on a GPU, else float32."""


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes a network's input. Antialiased, as Pillow resizes.

    square: both sides become `side`, the picture is squeezed; short_side: the shorter side becomes `side`, the aspect
    stays; centre_crop: the shorter side becomes `side` * 256 / 224 and the middle is cut out.
    """

    side: int
    fit: Fit
    method: Method = "bilinear"
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

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

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [batch, height, width, 3] -> float32 [batch, 3, height, width] (channels last in memory)."""
        scaled = images.permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (self.mean, self.std))
        return (scaled - mean) / std


class NetworkEncoder:
    """Runs `network` [batch, 3, height, width] -> [batch, dim] over pictures, equal sizes together.

    Pictures that all become one size go in batches of exactly `batch_images`, the last one filled up: a network
    rounds otherwise in a batch of another size, and what an image gives must not depend on which others were left to
    encode. Pictures of many sizes (short_side) go in groups as they come, exact to rounding.

    The weights move to the GPU at the first batch, so that building costs no GPU memory where nothing is encoded (the
    flow's process). Raises EncoderUnavailable when the network does not give one vector for a picture, and at the first
    batch when `device` is cuda and there is none.
    """

    def __init__(
        self,
        network: nn.Module,
        preparation: Preparation,
        config: NetworkConfig,
        *,
        precision: Precision = "float32",
        compiled: bool = False,
    ) -> None:
        self._network, self._preparation, self._config = network, preparation, config
        self._precision, self._compiled = precision, compiled
        self._device: torch.device | None = None
        self._placing = Lock()
        self.batch_images, self.num_threads = config.batch_images, config.num_threads
        self.min_side = preparation.short_side
        blank = torch.zeros((1, preparation.side, preparation.side, 3), dtype=torch.uint8)
        with torch.inference_mode(), bounded_threads(self.num_threads):
            given = network(preparation.normalise(blank))
        if given.ndim != 2 or len(given) != 1:
            raise EncoderUnavailable(
                f"{config.weights} gives {tuple(given.shape)} for one picture, but an encoder gives [1, dim]. "
                "Choose weights of a descriptor, not of a classifier with several outputs or of a feature map."
            )
        self.dim = int(given.shape[1])

    @property
    def batches_at_a_time(self) -> int:
        """Two on a GPU: one batch is stacked and copied while another is computed."""
        return 2 if self._placed().type == "cuda" else 1

    def prepare(self, image: Pixels8) -> Pixels8:
        """RGB [height, width, 3] -> resized as the network wants it."""
        return self._preparation(image)

    def finish(self, prepared: Sequence[Pixels8]) -> Floats:
        """Resized pictures -> [len(prepared), dim] of unit length."""
        vectors = np.zeros((len(prepared), self.dim), dtype=np.float32)
        for rows, batch in self._batches(prepared):
            vectors[rows] = self._run(batch)
        return unit(vectors)

    def encode(self, images: Sequence[Pixels8]) -> Floats:
        """RGB pictures [height, width, 3] -> [len(images), dim] of unit length."""
        return self.finish([self.prepare(image) for image in images])

    def _batches(self, prepared: Sequence[Pixels8]) -> Iterator[tuple[list[int], list[Pixels8]]]:
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for row, image in enumerate(prepared):
            groups[image.shape].append(row)
        for group in groups.values():
            for first in range(0, len(group), self.batch_images):
                rows = group[first : first + self.batch_images]
                yield rows, [prepared[row] for row in rows]

    def _run(self, images: Sequence[Pixels8]) -> Floats:
        device = self._placed()
        filled = self.batch_images if self._preparation.fit != "short_side" else len(images)
        batch = np.zeros((filled, *images[0].shape), dtype=np.uint8)
        np.stack(images, out=batch[: len(images)])
        half = _autocast_type(self._precision, device)
        with (
            torch.inference_mode(),
            bounded_threads(self.num_threads),
            torch.autocast(device.type, dtype=half or torch.bfloat16, enabled=half is not None),
        ):
            pinned = torch.from_numpy(batch).pin_memory() if device.type == "cuda" else torch.from_numpy(batch)
            found = self._network(self._preparation.normalise(pinned.to(device, non_blocking=True)))
            return found[: len(images)].float().cpu().numpy()  # type: ignore[no-any-return]

    def _placed(self) -> torch.device:
        with self._placing:
            if self._device is None:
                device = _device(self._config.device)
                self._network = self._network.to(device)
                if self._compiled:
                    self._network = torch.compile(self._network, dynamic=False)  # type: ignore[assignment]
                self._device = device
            return self._device


def _device(wanted: Device) -> torch.device:
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise EncoderUnavailable(
            "device is cuda, but this worker sees no GPU. Start workers where there are some, one per GPU "
            "(CUDA_VISIBLE_DEVICES), or set the encoder's device to auto."
        )
    return torch.device("cuda")


def _autocast_type(precision: Precision, device: torch.device) -> torch.dtype | None:
    """The type that products are computed in; None leaves everything float32."""
    if precision == "auto":
        return torch.float16 if device.type == "cuda" else None
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
