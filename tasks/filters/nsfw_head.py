"""FILTER nsfw_head: a second opinion on NSFW, by an image encoder and a small head on its embedding, as LAION's and
DataComp's detectors on CLIP are. No weights come with this project: both files are given, as ONNX.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import onnxruntime
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from storage.errors import StorageError
from storage.filesystem import fetch_verified
from storage.images import Pixels, resize
from tasks.config import StageConfig
from tasks.filters.base import FilterUnavailable, Finding, Picture
from tasks.filters.sessions import load_session

Triple = tuple[float, float, float]


class NsfwHead(StageConfig):
    """Drops (`nsfw`) an image whose score by an encoder and a head on its embedding reaches a threshold."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"encoder", "head", "threads"})

    kind: Literal["nsfw_head"] = "nsfw_head"
    encoder: str
    """ONNX file (path or URL): float32 [batch, 3, side, side] -> embedding [batch, width]."""
    encoder_sha256: str
    """Its checksum."""
    head: str
    """ONNX file (path or URL): embedding [batch, width] -> score [batch] or [batch, 1], 0..1."""
    head_sha256: str
    """Its checksum."""
    side: Annotated[int, Field(ge=16, le=1024)] = 224
    """Pixels on a side that the encoder takes: the shorter side is resized to it (bicubic), the middle is cut out."""
    mean: Triple = (0.48145466, 0.4578275, 0.40821073)
    """Of red, green and blue in 0..1, subtracted; the default is CLIP's."""
    std: Triple = (0.26862954, 0.26130258, 0.27577711)
    """Divided by; the default is CLIP's."""
    normalised: bool = True
    """Whether the head takes the embedding at length 1."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Score from which an image is dropped. DataComp used 0.1, with 3.6 % of harmless images dropped."""
    threads: Annotated[int, Field(ge=1)] = 1
    """Threads of one session."""

    def build(self) -> "NsfwHeadFilter":
        return NsfwHeadFilter(self)


class NsfwHeadFilter:
    """Stores every score, dropped or not: another threshold needs no new inference. Memory: one batch of pictures."""

    fields: Sequence[pa.Field] = (pa.field("nsfw_score", pa.float32()),)
    changes_images: bool = False

    def __init__(self, config: NsfwHead) -> None:
        self.config = config
        self.min_side: int | None = config.side
        self._encoder = _session(config.encoder, config.encoder_sha256, config.threads)
        self._head = _session(config.head, config.head_sha256, config.threads)

    def examine(self, pictures: Sequence[Picture]) -> list[Finding]:
        if not pictures:
            return []
        scores = self.scores(np.stack([self.prepared(picture.pixels) for picture in pictures]))
        return [self._judge(float(score)) for score in scores]

    def prepared(self, pixels: Pixels) -> NDArray[np.float32]:
        """An RGB image as the encoder takes it: [3, side, side]."""
        side, (height, width) = self.config.side, pixels.shape[:2]
        scale = side / min(height, width)
        tall, wide = max(side, round(height * scale)), max(side, round(width * scale))
        small = resize(pixels, height=tall, width=wide, method="bicubic")
        top, left = (tall - side) // 2, (wide - side) // 2
        middle = small[top : top + side, left : left + side].astype(np.float32) / np.float32(255)
        normal = (middle - np.array(self.config.mean, np.float32)) / np.array(self.config.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1))

    def scores(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores [batch] of prepared images [batch, 3, side, side]."""
        (embeddings,) = self._encoder.run(None, {self._encoder.get_inputs()[0].name: batch})
        if self.config.normalised:
            embeddings = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        inputs = {self._head.get_inputs()[0].name: embeddings.astype(np.float32)}
        (scores,) = self._head.run(None, inputs)
        return np.asarray(scores, np.float32).reshape(len(batch))

    def _judge(self, score: float) -> Finding:
        guilty = score >= self.config.threshold
        return Finding(
            drop="nsfw" if guilty else None,
            detail=f"score {score:.2f}" if guilty else None,
            value=score,
            columns={"nsfw_score": score},
        )


def _session(source: str, sha256: str, threads: int) -> onnxruntime.InferenceSession:
    try:
        return load_session(fetch_verified(source, sha256), threads)
    except StorageError as error:
        raise FilterUnavailable(f"the nsfw_head filter cannot load {source}: {error}") from error
