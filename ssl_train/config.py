"""A training run on one page: composes the parts' configs, reads them from YAML, and checks what spans parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from ssl_train.checkpoint import Checkpointing
from ssl_train.data.augment import MultiCrop
from ssl_train.data.augmentation import Augmentation
from ssl_train.data.loader import Data
from ssl_train.errors import ConfigError
from ssl_train.methods import DinoV2, Method
from ssl_train.metrics import Metrics
from ssl_train.models import Model, Vit
from ssl_train.optim import Optim
from ssl_train.parallel import Precision, Speedups
from ssl_train.settings import as_plain, as_yaml, nearest, parse_settings, read_settings
from ssl_train.start import Start
from storage.filesystem import is_url

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Efficiency:
    """What may change the speed of a run, and never its results."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    networks: Speedups = field(default_factory=Speedups)
    """How the networks are compiled, recomputed and sharded."""
    num_workers: Annotated[int, Field(ge=0)] = 8
    """Processes that decode and augment, for each training process; 0 works in the training process itself."""
    prefetch_batches: Annotated[int, Field(ge=1)] = 2
    """Batches that each of them makes ahead."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    output_dir: str = ""
    """Folder for checkpoints, metrics and the exported teacher; a run continues from what it finds there."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Decides initial weights, the data's order, crops, masks and drop path."""
    num_steps: Annotated[int, Field(ge=1)] = 125_000
    """Optimizer updates of the whole run."""
    precision: Precision = "bf16"
    """What is computed in; weights, gradients' sums and losses are fp32 either way."""
    model: Model = field(default_factory=Vit)
    """The backbone."""
    method: Method = field(default_factory=DinoV2)
    """What the backbone is trained to do."""
    start: Start | None = None
    """Weights to begin with; null draws them from the seed."""
    data: Data = field(default_factory=Data)
    """The images."""
    augment: Augmentation = field(default_factory=MultiCrop)
    """The crops of an image."""
    optim: Optim = field(default_factory=Optim)
    """The optimizer and its schedules."""
    checkpoint: Checkpointing = field(default_factory=Checkpointing)
    """When the run is saved."""
    metrics: Metrics = field(default_factory=Metrics)
    """When the run is reported."""
    efficiency: Efficiency = field(default_factory=Efficiency)
    """What may change the speed and never the results."""


def load_config(source: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """The run in a YAML file, or of a recipe's name, with `key.of.setting=value` overrides (values are YAML).

    Raises ConfigError for an unknown file, key or value.
    """
    if source.endswith((".yaml", ".yml")):
        return read_settings(TrainConfig, source, overrides)
    return load_recipe(source, overrides)


def load_recipe(name: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """A recipe of this package by name. Raises ConfigError when there is none of that name."""
    if name not in recipes():
        raise ConfigError(f"no recipe {name!r}{nearest(name, recipes())}. There are: {', '.join(recipes())}.")
    return read_settings(TrainConfig, str(RECIPES / f"{name}.yaml"), overrides)


def recipes() -> list[str]:
    """Names of the recipes of this package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def parse_config(content: Mapping[str, Any]) -> TrainConfig:
    """Settings as plain values to a config. Raises ConfigError naming each wrong key and the nearest valid one."""
    return parse_settings(TrainConfig, content)


def plain_values(config: TrainConfig) -> dict[str, Any]:
    """The config as values that JSON and YAML can hold."""
    return as_plain(config)


def dump_config(config: TrainConfig) -> str:
    """The config as YAML that `load_config` reads back."""
    return as_yaml(config)


def check_config(config: TrainConfig, world_size: int) -> None:
    """What no single part can check. Raises ConfigError naming the settings that contradict each other."""
    data, method, patch = config.data, config.method, config.model.patch_size
    augment, knn, classify = config.augment, config.metrics.knn, config.metrics.classify
    rules = {
        "output_dir is empty: give the folder in which the run shall live": not config.output_dir,
        f"output_dir = {config.output_dir} must be a local or mounted folder": is_url(config.output_dir),
        "give one of data.shards (tars), data.folder (images) and data.parquet, "
        f"not {' and '.join(data.sources) or 'none'}": len(data.sources) != 1,
        f"data.batch_images = {data.batch_images} cannot be shared equally by {world_size} processes": data.batch_images
        % world_size
        != 0,
        f"augment.global_pixels = {augment.global_pixels} and local_pixels = {augment.local_pixels} must be whole "
        f"numbers of model.patch_size = {patch}": config.model.kind == "vit"
        and (augment.global_pixels % patch != 0 or (augment.num_local > 0 and augment.local_pixels % patch != 0)),
        f"metrics.knn.pixels must be a whole number of model.patch_size = {patch}": knn is not None
        and config.model.kind == "vit"
        and (knn.pixels or patch) % patch != 0,
        "metrics.knn: give either folder or shards, not both or none": knn is not None
        and bool(knn.shards) == (knn.folder is not None),
        f"method.masks hides patches, for which model.kind = {config.model.kind} has no token; a ViT has one with "
        "model.mask_token = true": method.masks.hides and not config.model.mask_token,
        "metrics.classify needs method.kind = supervised": classify is not None and method.kind != "supervised",
        "method.kind = supervised needs data.labels ({} for the usual places)": method.kind == "supervised"
        and data.labels is None,
        f"augment.kind = {augment.kind} gives {augment.num_views} large crop(s) of an image, "
        f"method.kind = {method.kind} takes {method.num_views}": augment.num_views != method.num_views,
        f"metrics.classify.pixels must be a whole number of model.patch_size = {patch}": classify is not None
        and config.model.kind == "vit"
        and (classify.pixels or patch) % patch != 0,
        **method.rules(data.batch_images // world_size),
    }
    broken = [message for message, is_broken in rules.items() if is_broken]
    if broken:
        raise ConfigError("; ".join(broken))
