"""Images -> semantic embeddings, by an encoder plug: what clusters and retrieval go by.

DINOv2 used a self-supervised ViT-H/16 trained on ImageNet-22k and cosine similarity (arXiv 2304.07193, section 3).
"""

from typing import Annotated, ClassVar

from pydantic import Field

from storage.layout import Layout
from storage.manifest import Manifest
from storage.vectors import Vectors
from tasks.config import StageConfig
from tasks.describe import encode_part, require_images
from tasks.encoders import Encoder, Textures
from tasks.stage import Stage, stage_task

VERSION = 1


class Embed(StageConfig):
    """How images are embedded."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"batch_images"})

    encoder: Encoder = Textures()
    """The encoder; `textures` needs no weights, `vit` is what a real run takes."""
    batch_images: Annotated[int, Field(ge=1, le=4096)] = 64
    """Images decoded and encoded at a time."""


@stage_task(name="embed", task_run_name="{name}")
def embed(images: Manifest, config: Embed, layout: Layout, name: str = "embed") -> Manifest:
    """Embeddings of the kept images, part by part; other columns (a collection's source and split) go along.

    Raises NoImages when there is nothing to embed.
    """
    require_images(images)
    stage = Stage(name, version=VERSION, config=config, inputs={"images": images}, layout=layout)
    if stage.finished:
        return stage.reuse()
    config.encoder.build()  # missing or damaged weights are said once, here, and not by every part
    outcomes = stage.map(
        encode_part,
        images.paths(".parquet"),
        encoder=config.encoder,
        root=layout.root,
        batch_images=config.batch_images,
    )
    paths = [stage.path(entry.path) for outcome in outcomes for entry in outcome.files if entry.path.endswith(".npy")]
    return stage.publish(outcomes, facts={"dim": Vectors(paths).shape[1]})
