"""Images -> semantic embeddings, by an encoder plug: what clusters and retrieval go by.

DINOv2 used a self-supervised ViT-H/16 trained on ImageNet-22k and cosine similarity (arXiv 2304.07193, section 3).
"""

from storage.layout import Layout
from storage.manifest import Manifest
from tasks.encoders import Encoder, Textures
from tasks.encoding.parts import Encodes, PartEncoder, encode_stage, require_images
from tasks.stage import Stage, stage_task

VERSION = 2


class Embed(Encodes):
    """How images are embedded."""

    encoder: Encoder = Textures()
    """The encoder; `textures` needs no weights, `vit` is what a real run takes."""


@stage_task(name="embed", task_run_name="{name}")
def embed(
    images: Manifest, config: Embed, layout: Layout, name: str = "embed", base: Manifest | None = None
) -> Manifest:
    """Embeddings of the kept images, part by part; other columns (a collection's source and split) go along.

    `base` is an earlier `embed`: rows with equal id and sha256 take their vector from it, as `describe` says; it
    decides nothing but the cost. Raises NoImages when there is nothing to embed, IncompatibleBase for a `base` of
    another encoder.
    """
    require_images(images)
    stage = Stage(name, version=VERSION, config=config, inputs={"images": images}, layout=layout)
    if stage.finished:
        return stage.reuse()
    config.encoder.build()  # missing or damaged weights are said once, here, and not by every part
    how = PartEncoder(config.encoder, layout.root, config.batch_images, config.decode_threads)
    return encode_stage(stage, images, how, base)
