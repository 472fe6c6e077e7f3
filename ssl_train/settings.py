"""Frozen dataclasses from YAML and back, with errors that name the wrong key and the nearest right one."""

import difflib
import functools
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import Discriminator, Tag, TypeAdapter, ValidationError

from ssl_train.errors import ConfigError

Settings = TypeVar("Settings")

# Made once of a kind: for a training's settings, that takes a hundred times as long as reading a file with it.
_adapter: Callable[[Any], TypeAdapter[Any]] = functools.cache(TypeAdapter)


def by_kind(default: str) -> Discriminator:
    """Tell the members of a union apart by their `kind` alone, so that one member's mistake is told once.

    Members are written `Annotated[Member, Tag(kind)]`; settings without a kind are of the `default` one.
    """

    def kind_of(value: Any) -> Any:
        return value.get("kind", default) if isinstance(value, Mapping) else getattr(value, "kind", None)

    return Discriminator(kind_of)


def read_settings(kind: type[Settings], path: str, overrides: Sequence[str] = ()) -> Settings:
    """Settings of a kind from a YAML file, with `key.of.setting=value` overrides (values are YAML).

    Raises ConfigError for a file that cannot be read, and for an unknown key or value.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}. Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no settings: a YAML mapping is wanted.")
    try:
        return parse_settings(kind, overridden(content, overrides))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_settings(kind: type[Settings], content: Mapping[str, Any]) -> Settings:
    """Plain values to settings of a kind. Raises ConfigError naming each wrong key and the nearest valid one."""
    try:
        settings: Settings = _adapter(kind).validate_python(content)
    except ValidationError as error:
        complaints = [_complaint(kind, entry["loc"], entry["msg"], entry["type"]) for entry in error.errors()]
        raise ConfigError("; ".join(complaints)) from None
    return settings


def as_plain(settings: object) -> dict[str, Any]:
    """Settings as values that JSON and YAML can hold."""
    values: dict[str, Any] = _adapter(type(settings)).dump_python(settings, mode="json")
    return values


def as_yaml(settings: object) -> str:
    """Settings as YAML that `read_settings` reads back."""
    return yaml.safe_dump(as_plain(settings), sort_keys=False)


def overridden(content: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`content` with every `key.of.setting=value` set in it. Raises ConfigError for what is no such thing."""
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
        place[last] = _value(value)
    return content


def explained(kind: type) -> str:
    """The settings of a kind, a line each: name, default, and what its docstring says."""
    said: dict[str, dict[str, Any]] = {}
    for owner in reversed(kind.__mro__):  # a docstring is known to the class that it stands in
        if is_dataclass(owner):
            for name, about in _adapter(owner).json_schema()["properties"].items():
                said[name] = said.get(name, {}) | about
    defaults = {name: f" = {json.dumps(about['default'])}" for name, about in said.items() if "default" in about}
    return "\n".join(f"  {name}{defaults.get(name, '')}: {about['description']}" for name, about in said.items())


def nearest(word: str, choices: Iterable[str]) -> str:
    """A remark on the choice that `word` may have meant; nothing when none is near."""
    matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def _value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:  # `data.shards=*.tar`: a star begins an alias in YAML
        return text
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)  # YAML 1.1 takes 1e-3 for a word
    return value


def _complaint(kind: Any, loc: tuple[int | str, ...], message: str, fault: str) -> str:
    # Pydantic puts the names or tags of a union's members between the keys; those are no keys of the file.
    keys, place = list[str](), kind
    for part in loc:
        members = _members(place)
        if part in members:
            place = members[str(part)]
        elif not (isinstance(part, str) and part[:1].isupper()):
            keys.append(str(part))
            place = _field_type(place, part)
    if fault == "union_tag_invalid":
        return f"{'.'.join(keys)}.kind: there is none of that name; valid kinds: {', '.join(_members(place))}"
    if fault not in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{'.'.join(keys) or 'settings'}: {message}"
    *parents, unknown = keys
    where = f" in {'.'.join(parents)!r}" if parents else ""
    valid = _valid_keys(kind, loc[:-1])
    return f"unknown key {unknown!r}{where}{nearest(unknown, valid)}; valid keys: {', '.join(valid)}"


def _valid_keys(kind: Any, loc: Sequence[int | str]) -> list[str]:
    for part in loc:
        members = _members(kind)
        if part in members:
            kind = members[str(part)]
        elif not (isinstance(part, str) and part[:1].isupper()):
            kind = _field_type(kind, part)
    found = next((option for option in _options(kind) if is_dataclass(option)), None)
    return [] if found is None else [entry.name for entry in fields(found)]


def _field_type(kind: Any, name: int | str) -> Any:
    """What a field of settings holds; None for what is no field of theirs."""
    owner = next((option for option in _options(kind) if is_dataclass(option)), None)
    return next((entry.type for entry in fields(owner) if entry.name == name), None) if owner is not None else None


def _members(annotation: Any) -> dict[str, Any]:
    """The members of a union that is told apart by kind, by their tags."""
    tagged = [(option, typing.get_args(option)[1:]) for option in _union(annotation)]
    return {
        str(mark.tag): typing.get_args(option)[0] for option, marks in tagged for mark in marks if isinstance(mark, Tag)
    }


def _options(annotation: Any) -> list[Any]:
    """An annotation's plain types."""
    return [typing.get_args(o)[0] if typing.get_origin(o) is Annotated else o for o in _union(annotation)]


def _union(annotation: Any) -> tuple[Any, ...]:
    while typing.get_origin(annotation) is Annotated and not any(isinstance(m, Tag) for m in annotation.__metadata__):
        annotation = typing.get_args(annotation)[0]
    is_union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    return typing.get_args(annotation) if is_union else (annotation,)
