"""Why is an image in, or why not: every stage one URL or id went through, with the verdict and the number behind it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from fsspec.core import url_to_fs

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
    for entry in manifest.files:
        if not entry.path.endswith(".parquet"):
            continue
        filesystem, inner = url_to_fs(manifest.file(entry.path))
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
    """What became of every record of the web: columns url, stage, reason.

    A row for every row that a stage dropped, and one with stage "kept" and reason "" for every image that survives the
    stage `until`. Where a URL could not be made canonical, it is as the page had it. Reads the tables of the run into
    memory (about 200 bytes a row): for checks of small runs.
    """
    tables = []
    for manifest in chain.values():
        for path in manifest.paths(".parquet"):
            table = _web_rows(read_table(path))
            if table is not None:
                dropped = table.filter(pc.is_valid(table["drop"]))
                tables.append(_outcome(dropped, manifest.stage, dropped["drop"]))
                if manifest.stage == until:
                    survivors = table.filter(pc.is_null(table["drop"]))
                    tables.append(_outcome(survivors, "kept", pa.repeat("", survivors.num_rows)))
        if manifest.stage == until:
            break
    return pa.concat_tables(tables)


def _web_rows(table: pa.Table) -> pa.Table | None:
    """Rows about web images; None for tables that hold no verdicts about URLs."""
    if not {"url", "drop"} <= set(table.column_names):
        return None
    if "raw_url" in table.column_names:
        table = table.set_column(table.column_names.index("url"), "url", pc.coalesce(table["url"], table["raw_url"]))
    return table.filter(pc.invert(pc.starts_with(table["url"], "collection://")))


def _outcome(table: pa.Table, stage: str, reason: pa.Array) -> pa.Table:
    columns = {"url": table["url"], "stage": pa.repeat(stage, table.num_rows), "reason": reason}
    return pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns]))
