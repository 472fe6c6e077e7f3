"""A training run on one page: composes the parts' configs, reads them from YAML, and checks what spans parts."""

import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from ssl_train.checkpoint import Checkpointing
from ssl_train.data.augment import MultiCrop
from ssl_train.data.loader import Data
from ssl_train.errors import ConfigError
from ssl_train.methods import DinoV2, Method
from ssl_train.metrics import Metrics
from ssl_train.models import Model, Vit
from ssl_train.ops.attention import Kernel
from ssl_train.optim import Optim
from ssl_train.parallel import Precision

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Efficiency:
    """What may change the speed of a run, and never its results."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    attention: Kernel = "auto"
    """Attention kernel: `auto` takes xFormers where it is installed and can run, else torch's own."""
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
    data: Data = field(default_factory=Data)
    """The images."""
    augment: MultiCrop = field(default_factory=MultiCrop)
    """The crops of an image."""
    optim: Optim = field(default_factory=Optim)
    """The optimizer and its schedules."""
    checkpoint: Checkpointing = field(default_factory=Checkpointing)
    """When the run is saved."""
    metrics: Metrics = field(default_factory=Metrics)
    """When the run is reported."""
    efficiency: Efficiency = field(default_factory=Efficiency)
    """What may change the speed and never the results."""


_ADAPTER = TypeAdapter(TrainConfig)


def load_config(path: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """The run in a YAML file, or of a recipe's name, with `key.of.setting=value` overrides (values are YAML).

    Raises ConfigError for an unknown file, key or value.
    """
    if not path.endswith((".yaml", ".yml")):
        return load_recipe(path, overrides)
    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}. Give a YAML file or one of {recipes()}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no settings: a YAML mapping is wanted (see {RECIPES}).")
    return parse_config(_overridden(content, overrides))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """A recipe of this package by name. Raises ConfigError when there is none of that name."""
    if name not in recipes():
        raise ConfigError(f"no recipe {name!r}{_nearest(name, recipes())}. There are: {', '.join(recipes())}.")
    return load_config(str(RECIPES / f"{name}.yaml"), overrides)


def recipes() -> list[str]:
    """Names of the recipes of this package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def parse_config(content: Mapping[str, Any]) -> TrainConfig:
    """Settings as plain values to a config. Raises ConfigError naming each wrong key and the nearest valid one."""
    try:
        return _ADAPTER.validate_python(content)
    except ValidationError as error:
        complaints = [_complaint(entry["loc"], entry["msg"], entry["type"]) for entry in error.errors()]
        raise ConfigError("; ".join(complaints)) from None


def plain_values(config: TrainConfig) -> dict[str, Any]:
    """The config as values that JSON and YAML can hold."""
    values: dict[str, Any] = _ADAPTER.dump_python(config, mode="json")
    return values


def dump_config(config: TrainConfig) -> str:
    """The config as YAML that `load_config` reads back."""
    return yaml.safe_dump(plain_values(config), sort_keys=False)


def check_config(config: TrainConfig, world_size: int) -> None:
    """What no single part can check. Raises ConfigError naming the settings that contradict each other."""
    data, method, patch = config.data, config.method, config.model.patch_size
    share = data.batch_images // world_size
    group = method.group_images or share
    rules = {
        "output_dir is empty: give the folder in which the run shall live": not config.output_dir,
        "give either data.shards (tars) or data.folder (images), not both or none": bool(data.shards)
        == (data.folder is not None),
        f"data.batch_images = {data.batch_images} cannot be shared equally by {world_size} processes": data.batch_images
        % world_size
        != 0,
        f"augment.global_pixels = {config.augment.global_pixels} and local_pixels = {config.augment.local_pixels} "
        f"must be whole numbers of model.patch_size = {patch}": config.augment.global_pixels % patch != 0
        or config.augment.local_pixels % patch != 0,
        f"method.group_images = {group} must divide the {share} images of a process": share % group != 0,
        f"each process has {share} images of data.batch_images = {data.batch_images}; method.koleo_weight needs 2 or "
        "more, to have neighbours": method.koleo_weight > 0 and group < 2,
        "method.masks needs model.mask_token = true": not config.model.mask_token,
    }
    broken = [message for message, is_broken in rules.items() if is_broken]
    if broken:
        raise ConfigError("; ".join(broken))


def _overridden(content: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"{override!r} is no override: write key=value, for instance optim.lr=1e-3")
        *parents, last = key.split(".")
        place = content
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{override!r} goes into {parent!r}, which is a plain value in the file")
        place[last] = yaml.safe_load(value)
    return content


def _complaint(loc: tuple[int | str, ...], message: str, kind: str) -> str:
    # Unions put their members' names between the keys; those are no keys of the file.
    keys = [str(part) for part in loc if not (isinstance(part, str) and part[:1].isupper())]
    if kind not in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{'.'.join(keys)}: {message}"
    *parents, unknown = keys
    where = f" in {'.'.join(parents)!r}" if parents else ""
    return f"unknown key {unknown!r}{where}{_nearest(unknown, _valid_keys(parents))}"


def _valid_keys(parents: Sequence[str]) -> list[str]:
    kind: Any = TrainConfig
    for parent in parents:
        kind = next((_dataclass_in(entry.type) for entry in fields(kind) if entry.name == parent), None)
        if kind is None:
            return []
    return [entry.name for entry in fields(kind)]


def _dataclass_in(annotation: Any) -> Any:
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((option for option in options if is_dataclass(option)), None)


def _nearest(word: str, choices: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
