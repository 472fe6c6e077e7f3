"""Rules of published datasets, to be laid under a config of one's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_FOLDER = Path(__file__).parent


class UnknownPreset(ValueError):
    """A preset that there is not."""


def preset_names() -> list[str]:
    """The presets that there are."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def with_preset(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` (a config as its YAML has it) with what it leaves out taken from a preset.

    Mappings are merged, anything else stands as `content` has it. Rules of retrieval are merged by source: the preset's
    hold for those of the config's sources that have none of their own. Raises UnknownPreset.
    """
    if name not in preset_names():
        raise UnknownPreset(f"there is no preset {name!r}; there are {', '.join(preset_names())}.")
    below = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    merged = _merged(below, content)
    try:
        own = {rule["source"]: rule for rule in (content.get("retrieve") or {}).get("rules") or []}
        sources = {source["name"] for source in content.get("sources") or []}
    except (TypeError, AttributeError, KeyError):  # no lists of mappings: the config's validation says so
        return merged
    given = [rule for rule in below["retrieve"]["rules"] if rule["source"] in sources - own.keys()]
    merged["retrieve"]["rules"] = [*own.values(), *given]
    return merged


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {**below, **above}
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(key), Mapping):
            both[key] = _merged(below[key], value)
        elif value is None and isinstance(below.get(key), Mapping):  # "retrieve:" with nothing after it
            both[key] = dict(below[key])
    return both
