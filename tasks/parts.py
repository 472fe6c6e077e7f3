"""One part of a stage, where a worker runs it. Knows no Prefect, so that a worker whose part knows none is without."""

import dataclasses
import json
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from storage.filesystem import exists, file_size, join, read_bytes, write_bytes
from storage.manifest import FileEntry


@dataclass(frozen=True)
class Outcome:
    """What computing one part gave: its files (already written), counts, drops by reason, the stage's own numbers."""

    rows_in: int
    rows_kept: int
    drops: Mapping[str, int] = field(default_factory=dict)
    files: Sequence[FileEntry] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def compute_part(
    function: Callable[..., Outcome], part: Any, out: str, receipt: str, plain: Mapping[str, Any]
) -> Outcome:
    """One part, where the worker runs: its receipt if a run before this one left it, else the work and a receipt."""
    if exists(receipt):
        outcome = _read_receipt(receipt)
        if all(file_size(join(posixpath.dirname(out), entry.path)) == entry.bytes for entry in outcome.files):
            return outcome
    try:
        outcome = function(part, out, **plain)
    except Exception as error:  # the shard's edge: say which part, keep the cause
        raise RuntimeError(f"part {out}: {type(error).__name__}: {error}") from error
    write_bytes(receipt, json.dumps(dataclasses.asdict(outcome), sort_keys=True).encode())
    return outcome


def _read_receipt(path: str) -> Outcome:
    content = json.loads(read_bytes(path))
    content["files"] = tuple(FileEntry(**entry) for entry in content["files"])
    return Outcome(**content)
