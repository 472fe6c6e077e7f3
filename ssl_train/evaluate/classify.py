"""Top-1 and top-5 accuracy of a trained classifier: while it trains, and of its exported files afterwards.

python -m ssl_train.evaluate.classify RUN [key=value ...]     # its output folder, or a teacher*.safetensors in it
python -m ssl_train.evaluate.classify internimage_t_1k_224.pth folder=/data/val crop_share=1   # a published one

The validation images are those of the run's `metrics.classify`; key=value sets or changes them (folder=/data/val).
The scores are written beside the weights, as classify.json. Published classifiers' numbers are those of the images'
classes by name; that is the order of ImageNet's folders.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import torch
import torch.nn.functional as F
import yaml
from jaxtyping import Float
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from ssl_train.data.labels import ImageLabels, Labels
from ssl_train.data.pixels import Box, crop_and_resize, normalise, to_unit
from ssl_train.data.settings import Data
from ssl_train.data.source import EncodedImage, Images, read_labels
from ssl_train.distributed import World, all_reduce_sum
from ssl_train.errors import CheckpointError, ConfigError, TrainError
from ssl_train.models import Backbone
from ssl_train.models.class_head import ClassHead, ClassHeadNet
from ssl_train.models.load import METADATA, read_backbone, read_tensors
from ssl_train.settings import explained, overridden, parse_settings
from storage.errors import StorageError
from storage.filesystem import write_bytes
from storage.images import ImageError, decode_rgb

READING_THREADS = 8
TOP = 5


@dataclass(frozen=True)
class Classify:
    """Accuracy of a classifier on labelled images that it was not trained on. Give `folder`, `shards` or `parquet`."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    folder: str | None = None
    """Images in <class>/."""
    shards: str | tuple[str, ...] = ()
    """WebDataset tars: a list of paths or URLs, or a glob."""
    parquet: str | tuple[str, ...] = ()
    """Parquet files of a Hugging Face dataset: a list of paths or URLs, or a glob."""
    parquet_column: str = "image"
    """Their column of images."""
    labels: Labels = field(default_factory=Labels)
    """Where their classes stand."""
    every_steps: Annotated[int, Field(ge=1)] = 5000
    """Steps between two looks while training; there is always one at the end."""
    pixels: Annotated[int, Field(ge=1)] | None = None
    """Side of the images shown to the network; null for its own."""
    crop_share: Annotated[float, Field(gt=0, le=1)] = 0.875
    """Side of the central square that is shown, relative to the shorter side: 224 of 256. Recent recipes take 1."""
    batch_images: Annotated[int, Field(ge=1)] = 64
    """Images at a time on each process."""

    def is_due(self, step: int, num_steps: int) -> bool:
        """Whether there is a look after `step` finished steps of `num_steps`."""
        return step % self.every_steps == 0 or step == num_steps

    def open(self, names: Sequence[str] | None) -> "Validation":
        """The images, with their classes numbered as the training's `names`.

        Raises ConfigError unless one source is given, DataError for classes that the training has not.
        """
        data = Data(
            folder=self.folder,
            shards=self.shards,
            parquet=self.parquet,
            parquet_column=self.parquet_column,
        )
        if len(data.sources) != 1:
            raise ConfigError(f"metrics.classify: give one of folder, shards and parquet, not {data.sources or 'none'}")
        images = data.open()
        return Validation(images, read_labels(images, self.labels, names))


class Validation(NamedTuple):
    """Labelled images, found and not yet read."""

    images: Images
    labels: ImageLabels


class Scores(NamedTuple):
    """How well a classifier does; percent, and nats."""

    top1: float
    top5: float
    loss: float
    num_images: int
    """Images that were classified."""
    num_undecodable: int
    """Images that could not be, and do not count."""


@torch.no_grad()
def classification_scores(networks: nn.ModuleDict, found: Validation, config: Classify, world: World) -> Scores:
    """The scores of `networks`, a "backbone" and a "class_head" in eval mode, on the images of `found`.

    Every process must call it: a sharded network is gathered by all, each looks at its share of the images, and all
    make equally many batches of one size. Memory: two batches of pixels.
    """
    sums = torch.zeros(5, device=world.device, dtype=torch.float64)
    pixels = config.pixels or cast(Backbone, networks["backbone"]).image_size
    for crops, labels, counts in _batches(found, config, pixels, world):
        views = networks["backbone"]([crops.to(world.device)])[0]
        logits = networks["class_head"](views.cls, views.patches).float()
        sums += _counted(logits, labels.to(world.device), counts.to(world.device))
    right1, right5, loss, seen, broken = all_reduce_sum(sums).tolist()
    each = max(seen, 1)
    return Scores(100 * right1 / each, 100 * right5 / each, loss / each, int(seen), int(broken))


def _counted(logits: Tensor, labels: Tensor, counts: Tensor) -> Float[Tensor, "5"]:
    """Sums over a batch: right with one and with five guesses, losses, images seen, images broken.

    `counts` is 1 for an image, -1 for one that could not be decoded, and 0 for what fills up the batch.
    """
    seen = (counts > 0).double()
    guesses = logits.topk(min(TOP, logits.shape[1])).indices == labels[:, None]
    loss = F.cross_entropy(logits, labels, reduction="none")
    rows = [guesses[:, 0], guesses.any(1), loss, torch.ones_like(loss)]
    return torch.stack([*((row * seen).sum() for row in rows), (counts < 0).sum().double()])


def _batches(
    found: Validation, config: Classify, pixels: int, world: World
) -> Iterator[tuple[Float[Tensor, "batch 3 pixels pixels"], Tensor, Tensor]]:
    """This process's images: crops, labels and what each counts; the next batch is decoded meanwhile."""
    total = len(found.labels)
    share = -(-total // world.size)
    size = min(config.batch_images, share)
    own = [world.rank * share + row for row in range(-(-share // size) * size)]

    def begin(start: int) -> list[Future[Tensor | None]]:
        encoded = found.images.read([min(number, total - 1) for number in own[start : start + size]])
        return [pool.submit(_crop, image, pixels, config.crop_share) for image in encoded]

    with ThreadPoolExecutor(READING_THREADS) as pool:
        ahead = begin(0)
        for start in range(0, len(own), size):
            making, numbers = ahead, own[start : start + size]
            ahead = begin(start + size) if start + size < len(own) else []
            crops = [made.result() for made in making]
            empty = torch.zeros(3, pixels, pixels)
            is_own = [number < min(total, (world.rank + 1) * share) for number in numbers]
            counts = [(1 if crop is not None else -1) if mine else 0 for crop, mine in zip(crops, is_own, strict=True)]
            labels = found.labels.numbers[[min(number, total - 1) for number in numbers]]
            yield (
                torch.stack([empty if crop is None else crop for crop in crops]),
                torch.from_numpy(labels).long(),
                torch.tensor(counts),
            )


def _crop(image: EncodedImage, pixels: int, crop_share: float) -> Float[Tensor, "3 pixels pixels"] | None:
    """The central square of an image; None for one that cannot be decoded."""
    try:
        picture = decode_rgb(image.data)
    except ImageError:
        return None
    height, width = picture.shape[:2]
    side = max(1, round(min(height, width) * crop_share))
    box = Box((height - side) // 2, (width - side) // 2, side, side)
    return normalise(to_unit(crop_and_resize(picture, box, pixels)))


class Classifier(NamedTuple):
    """A classifier from its files, in eval mode."""

    networks: nn.ModuleDict
    class_names: tuple[str, ...] | None
    """None where the files do not name the classes: published ones."""
    step: int


def read_classifier(teacher: str, heads: str | None = None) -> Classifier:
    """The classifier whose backbone and heads the trainer exported; without `heads` a published one, in one file.

    Raises CheckpointError where they are none.
    """
    loaded = read_backbone(teacher)
    tensors, metadata = read_tensors(heads or teacher)
    facts = json.loads(metadata.get(METADATA, "{}"))
    if heads is None:
        settings, own = published_head(tensors, teacher)
    elif "class_head" in facts:
        settings = parse_settings(ClassHead, facts["class_head"])
        own = {name.removeprefix("class_head."): tensor for name, tensor in tensors.items()}
    else:
        raise CheckpointError(f"{heads} holds no classifier: it is exported by runs with method.kind = supervised.")
    head = settings.build(loaded.network.dim)
    try:
        head.load_state_dict({name: tensor.float() for name, tensor in own.items()}, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"the head in {heads or teacher} does not fit the backbone: {error}") from error
    networks = nn.ModuleDict({"backbone": loaded.network, "class_head": head}).eval()
    names = tuple(facts["classes"]) if "classes" in facts else None
    return Classifier(networks, names, int(facts.get("step", 0)))


def published_head(tensors: Mapping[str, Tensor], path: str) -> tuple[ClassHead, dict[str, Tensor]]:
    """The head in a published checkpoint: a linear layer (DeiT, DeiT III, ResNet) or InternImage's, T to XL.

    Raises CheckpointError where there is none.
    """
    plain = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    plain |= {f"head.{kind}": plain[f"fc.{kind}"] for kind in ("weight", "bias") if f"fc.{kind}" in plain}
    if "head.weight" not in plain or any(name.startswith("clip_projector.") for name in plain):
        raise CheckpointError(f"{path} holds no classifier of a known kind: a linear layer named `head` or `fc`.")
    own = {name: tensor for name, tensor in plain.items() if name.split(".")[0] in ("head", "conv_head")}
    num_classes, width = own["head.weight"].shape
    if "conv_head.0.weight" not in own:
        return ClassHead(num_classes=num_classes), own
    ratio = width / own["conv_head.0.weight"].shape[1]
    return ClassHead(num_classes=num_classes, pool="mean", widen=ratio), own


def evaluate(run: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The scores of a run's exported classifier, or of a published one, as they are written beside it."""
    place = Path(run)
    teacher = place if place.suffix else place / "teacher.safetensors"
    heads = teacher.with_name(teacher.name.replace("teacher", "heads")) if "teacher" in teacher.name else None
    config = parse_settings(Classify, overridden(_asked(teacher.parent), overrides))
    classifier = read_classifier(str(teacher), None if heads is None else str(heads))
    found = config.open(classifier.class_names)
    num_classes = cast(ClassHeadNet, classifier.networks["class_head"]).head.out_features
    if len(found.labels.names) > num_classes:
        raise ConfigError(f"the images have {len(found.labels.names)} classes, the classifier knows {num_classes}.")
    world = World(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    scores = classification_scores(classifier.networks.to(world.device), found, config, world)
    told = {**scores._asdict(), "num_classes": num_classes, "step": classifier.step}
    result = {**told, "teacher": str(teacher), "settings": asdict(config)}
    write_bytes(str(teacher.parent / "classify.json"), json.dumps(result, indent=1).encode())
    return result


def _asked(folder: Path) -> dict[str, Any]:
    """What the run of this folder, or of the one above (exports/), validated on."""
    for place in (folder, folder.parent):
        if (place / "run.yaml").exists():
            content = yaml.safe_load((place / "run.yaml").read_text(encoding="utf-8"))
            asked: Mapping[str, Any] = (content.get("metrics") or {}).get("classify") or {}
            return dict(asked)
    return {}


def main(arguments: Sequence[str]) -> int:
    """Evaluate, write and print; returns the exit code (2 for a mistake that the message explains)."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{__doc__}\nSettings:\n{explained(Classify)}")
        return 0 if arguments else 2
    try:
        scores = evaluate(arguments[0], arguments[1:])
    except (TrainError, StorageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("top-1 {top1:.2f} %, top-5 {top5:.2f} %, loss {loss:.4f}".format(**scores))
    print("{num_images} images of {num_classes} classes, {num_undecodable} undecodable".format(**scores))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
