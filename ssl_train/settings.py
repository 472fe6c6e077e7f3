"""Frozen dataclasses from YAML and back, with errors that name the wrong key and the nearest right one."""

import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from ssl_train.errors import ConfigError

Settings = TypeVar("Settings")


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
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        complaints = [_complaint(kind, entry["loc"], entry["msg"], entry["type"]) for entry in error.errors()]
        raise ConfigError("; ".join(complaints)) from None


def as_plain(settings: object) -> dict[str, Any]:
    """Settings as values that JSON and YAML can hold."""
    values: dict[str, Any] = TypeAdapter(type(settings)).dump_python(settings, mode="json")
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


def nearest(word: str, choices: Iterable[str]) -> str:
    """A remark on the choice that `word` may have meant; nothing when none is near."""
    matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def _value(text: str) -> Any:
    value = yaml.safe_load(text)
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)  # YAML 1.1 takes 1e-3 for a word
    return value


def _complaint(kind: Any, loc: tuple[int | str, ...], message: str, fault: str) -> str:
    # Pydantic puts the names of a union's members between the keys; those are no keys of the file.
    keys = [str(part) for part in loc if not (isinstance(part, str) and part[:1].isupper())]
    if fault not in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{'.'.join(keys) or 'settings'}: {message}"
    *parents, unknown = keys
    where = f" in {'.'.join(parents)!r}" if parents else ""
    valid = _valid_keys(kind, parents)
    return f"unknown key {unknown!r}{where}{nearest(unknown, valid)}; valid keys: {', '.join(valid)}"


def _valid_keys(kind: Any, parents: Sequence[str]) -> list[str]:
    for parent in parents:
        kind = next((_dataclass_in(entry.type) for entry in fields(kind) if entry.name == parent), None)
        if kind is None:
            return []
    return [entry.name for entry in fields(kind)]


def _dataclass_in(annotation: Any) -> Any:
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((option for option in options if is_dataclass(option)), None)
