"""Why is an image in, or why not: every stage one URL or id went through, with the verdict and the number behind it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from fsspec.core import url_to_fs

from storage.layout import Layout
from storage.manifest import Manifest
from storage.tables import read_table
from tasks.web.urls import name_url

_ID_CHARS = 24


@dataclass(frozen=True)
class Step:
    """What one stage said of one record. `row` holds the stage's whole row, `other_url` the copy's or query's URL."""

    stage: str
    drop: str | None
    detail: str | None
    value: float | None
    other: str | None
    other_url: str | None
    row: Mapping[str, Any]


def id_of(url_or_id: str) -> str:
    """The id of a URL, in whatever way it is written; an id is itself."""
    is_id = len(url_or_id) == _ID_CHARS and not set(url_or_id) - set("0123456789abcdef")
    return url_or_id if is_id else name_url(url_or_id, None).id


def trace(url_or_id: str, chain: Mapping[str, Manifest]) -> list[Step]:
    """Steps of a record through the manifests of a run, in the run's order; [] when no stage knows it.

    Part tables are filtered by id where they lie: parts after url_policy hold disjoint, sorted ranges of ids, so
    Parquet's statistics skip all but one of them.
    """
    wanted = id_of(url_or_id)
    steps = []
    for manifest in chain.values():
        for row in _best(_rows(manifest, wanted)):
            other = row.get("other")
            known = {key: row.get(key) for key in ("drop", "detail", "value", "other")}
            steps.append(Step(manifest.stage, other_url=_url_of(other, chain) if other else None, row=row, **known))
    return steps


def _rows(manifest: Manifest, record: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in manifest.paths(".parquet"):
        filesystem, inner = url_to_fs(path)
        part = ds.dataset(inner, filesystem=filesystem, format="parquet")
        if "id" in part.schema.names:
            rows += part.to_table(filter=ds.field("id") == record).to_pylist()
    return rows


def _best(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a stage: the kept one where a URL stands on several pages, else the first."""
    return sorted(rows, key=lambda row: row.get("drop") is not None)[:1]


def _url_of(record: str, chain: Mapping[str, Manifest]) -> str | None:
    """The URL of another image: the first stage that has it says."""
    for manifest in chain.values():
        for row in _rows(manifest, record):
            if row.get("url"):
                return str(row["url"])
    return None


def outcomes(chain: Mapping[str, Manifest], *, until: str) -> pa.Table:
    """Where every URL ended: columns url, stage, reason; survivors of stage `until` have stage "kept", reason "".

    Reads all tables of the run into memory (about 200 bytes a record and stage): for checks of small runs.
    """
    ended: dict[str, tuple[str, str]] = {}
    for manifest in _up_to(chain.values(), until):
        for row in _verdicts(manifest):
            if row["drop"] is None:
                ended[row["url"]] = ("kept", "")
            elif row["url"] not in ended or manifest.stage not in ("extract", "url_policy"):
                ended[row["url"]] = (manifest.stage, row["drop"])
    columns = {
        "url": list(ended),
        "stage": [stage for stage, _ in ended.values()],
        "reason": [reason for _, reason in ended.values()],
    }
    return pa.table(columns, schema=pa.schema([("url", pa.string()), ("stage", pa.string()), ("reason", pa.string())]))


def _up_to(manifests: Iterable[Manifest], until: str) -> Iterator[Manifest]:
    for manifest in manifests:
        yield manifest
        if manifest.stage == until:
            return


def _verdicts(manifest: Manifest) -> Iterator[dict[str, Any]]:
    for path in manifest.paths(".parquet"):
        table = read_table(path)
        if {"url", "drop"} <= set(table.column_names):
            web = table.filter(pc.invert(pc.starts_with(table["url"], "collection://")))
            yield from web.select(["url", "drop"]).to_pylist()
