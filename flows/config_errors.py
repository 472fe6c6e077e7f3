"""What is wrong with a config file, a sentence each: the key as it stands in the file, and the nearest right one."""

import difflib
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

MAX_SHOWN = 60


class Complaint(NamedTuple):
    """One error, its place freed of what pydantic puts between the keys: the names of a union's members."""

    keys: tuple[str, ...]
    member: tuple[tuple[str, ...], str] | None
    """The innermost union on the way: its key, and the member that was tried."""
    owner: Any
    """Type of what the last key stands in."""
    error: ErrorDetails


def complaints(error: ValidationError, config: type[BaseModel]) -> list[str]:
    """A sentence for each mistake. Of a union's members, only the one that `kind` names is spoken of."""
    found = [_located(entry, config) for entry in error.errors(include_url=False)]
    unions = dict.fromkeys(one.member[0] for one in found if one.member)
    told = {
        union: _of_union(union, [one for one in found if one.member and one.member[0] == union]) for union in unions
    }
    lines: list[str] = []
    for one in found:
        if one.error["type"] == "too_short" and any(_is_inside(other.keys, one.keys) for other in found):
            continue  # what is wrong with an item is told; without the item its list is short
        lines += told.pop(one.member[0], []) if one.member else [_sentence(one)]
    return lines


def _is_inside(keys: Sequence[str], of: Sequence[str]) -> bool:
    return len(keys) > len(of) and list(keys[: len(of)]) == list(of)


def _located(entry: ErrorDetails, config: Any) -> Complaint:
    keys, member, place, owner = list[str](), None, config, config
    for part in entry["loc"]:
        models = _models(place)
        named = next((model for model in models if model.__name__ == part and len(models) > 1), None)
        if named is not None:
            member, place = (tuple(keys), str(part)), named
        elif isinstance(part, int) or not any(sign in part for sign in "[]"):  # `tuple[str, ...]` is no key
            keys.append(str(part))
            owner = place
            place = place if isinstance(part, int) else _field(models, part)
    return Complaint(tuple(keys), member, owner, entry)


def _of_union(key: tuple[str, ...], found: Sequence[Complaint]) -> list[str]:
    """What is wrong with a plug: of the member that is meant, or that none is."""
    strangers = {one.member for one in found if one.keys == (*key, "kind") and one.error["type"] == "literal_error"}
    meant = [one for one in found if one.member not in strangers]
    if len({one.member for one in meant}) == 1:
        return [_sentence(one) for one in meant]
    kinds = list(dict.fromkeys(str(kind) for one in found for kind in _kinds(one.owner)))
    where, named = ".".join(key), ", ".join(kinds)
    if meant:
        return [f"{where}: no kind has these fields; say which one is meant, kind: {named}"]
    given = next(one.error["input"] for one in found if one.member in strangers and one.keys[-1] == "kind")
    return [f"{where}.kind: there is no {given!r}{_nearest(str(given), kinds)}; there are: {named}"]


def _sentence(one: Complaint) -> str:
    key, fault, message = ".".join(one.keys), one.error["type"], one.error["msg"].removeprefix("Value error, ")
    if fault == "extra_forbidden":
        valid = [name for model in _models(one.owner) for name in model.model_fields]
        return f"unknown key {key!r}{_nearest(one.keys[-1], valid)}; valid keys: {', '.join(valid)}"
    if fault == "missing":
        fields = {name: field for model in _models(one.owner) for name, field in model.model_fields.items()}
        about = fields[one.keys[-1]].description if one.keys[-1] in fields else None
        return f"{key} is missing: {about or 'it has no default.'}"
    given = repr(one.error["input"])
    shown = given if len(given) <= MAX_SHOWN else given[:MAX_SHOWN] + "..."
    return f"{key}: {message}" + (f" (it is {shown})" if key and fault != "value_error" else "")


def _nearest(word: str, choices: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(choices), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field may hold, itself, in a union or in a tuple."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) is Annotated:
        return _models(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple, list):
        return [model for option in typing.get_args(annotation) for model in _models(option)]
    return []


def _field(models: Sequence[type[BaseModel]], name: str) -> Any:
    return next((model.model_fields[name].annotation for model in models if name in model.model_fields), None)


def _kinds(owner: Any) -> list[Any]:
    return [
        kind
        for model in _models(owner)
        if "kind" in model.model_fields
        for kind in typing.get_args(model.model_fields["kind"].annotation)
    ]
