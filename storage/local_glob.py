"""Globs of local files: folders that are there are taken by their names, links to folders are followed."""

import logging
import os
import re
from collections.abc import Iterator
from typing import Literal

from fsspec.utils import glob_translate

_LOGGER = logging.getLogger(__name__)


def glob_local(pattern: str) -> Iterator[tuple[str, bool]]:
    """(path, whether it is a folder) of all that matches an absolute pattern (`*`, `?`, `[...]`, `**`), in no order.

    What stands there is no pattern: below a folder `photos [2020]`, only what follows its name is one. Links are
    followed, but not back to where they stand; a link to nothing is no file. A folder that may not be read is left
    out, and a warning names it.
    """
    folder, rest = _split(pattern)
    if not rest:
        yield folder, os.path.isdir(folder)
        return
    depth = None if "**" in rest else rest.count("/") + 1
    matches = re.compile(glob_translate(rest)).match
    for below, is_folder in _walk(folder, depth):
        if matches(below):
            yield os.path.join(folder, below), is_folder


def _split(pattern: str) -> tuple[str, str]:
    """The longest beginning of a pattern that exists, and what follows it."""
    parts = pattern.split("/")
    for end in range(len(parts), 0, -1):
        folder = "/".join(parts[:end]) or "/"
        if os.path.exists(folder):
            return folder, "/".join(parts[end:])
    return "/", pattern


def _walk(folder: str, depth: int | None) -> Iterator[tuple[str, bool]]:
    """(path from the folder on, whether it is a folder) of all that is below it, `depth` levels deep."""
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        below, above = pending.pop()
        place = os.path.join(folder, below)
        try:
            found, entries = os.stat(place), list(os.scandir(place))
        except (FileNotFoundError, NotADirectoryError):  # a file, or gone meanwhile
            continue
        except OSError as error:
            _LOGGER.warning("%s is left out: %s.", place, error.strerror)
            continue
        mark = (found.st_dev, found.st_ino)
        if mark in above:  # a link back
            continue
        for entry in entries:
            name = f"{below}/{entry.name}" if below else entry.name
            kind = _kind(entry)
            if kind is not None:
                yield name, kind == "folder"
            if kind == "folder" and (depth is None or name.count("/") + 1 < depth):
                pending.append((name, above | {mark}))


def _kind(entry: os.DirEntry[str]) -> Literal["file", "folder"] | None:
    """What an entry is, or its link leads to; None for a link to nothing, a pipe, a socket."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else None
    except OSError as error:  # a link in a circle, or into a folder that may not be read
        _LOGGER.warning("%s is left out: %s.", entry.path, error.strerror)
        return None
