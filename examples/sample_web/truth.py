"""`truth.parquet`: for every image URL of the sample web, what it is and where a run may end with it."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from examples.sample_web.figures import PLACEHOLDER
from examples.sample_web.plan import Figure, Resource
from examples.sample_web.recipes import Made
from tasks.web.urls import name_url

TRUTH_SCHEMA = pa.schema(
    [
        pa.field("url", pa.string()),  # canonical, as a run's tables name it
        pa.field("case", pa.string()),
        pa.field("concept", pa.string()),  # "photograph" for photographs, "" for nothing to see
        pa.field("group", pa.string()),  # pictures of one group are copies of each other; "" without copies
        pa.field("tainted", pa.bool_()),  # the group holds copies of a benchmark's image: none may be kept
        pa.field("allowed", pa.list_(pa.string())),  # "stage:reason", "kept", "absent"
        pa.field("references", pa.int32()),  # how often the pages name it
        pa.field("in_wat", pa.bool_()),  # whether the WAT files name it at all
        pa.field("width", pa.int32()),  # of the picture in its upright position; 0 when nothing is served
        pa.field("height", pa.int32()),
        pa.field("num_faces", pa.int32()),
        pa.field("faces", pa.string()),  # JSON: [[left, top, right, bottom], ...] in pixels
        pa.field("must_retrieve", pa.bool_()),  # null: not said
    ]
)


def truth_table(
    resources: Sequence[Resource],
    figures: Sequence[Figure],
    references: Mapping[str, int],
    made: Mapping[str, Made],
) -> pa.Table:
    """The truth as a table, sorted by URL. Raises ValueError when two resources have one canonical URL."""
    in_wat = {_named(url) for url in _urls_in_wat(figures)}
    counts: Counter[str] = Counter()
    for written, count in references.items():
        counts[_named(written)] += count
    rows = {}
    for resource in resources:
        image = made.get(resource.url)
        faces = image.faces if image is not None else ()
        url = _named(resource.url)
        if url in rows or not counts[url]:
            raise ValueError(f"{resource.case}: {resource.url!r} is planned twice, or stands in no page")
        rows[url] = {
            "url": url,
            "case": resource.case,
            "concept": resource.concept,
            "group": resource.group,
            "tainted": resource.tainted,
            "allowed": list(resource.allowed),
            "references": counts[url],
            "in_wat": url in in_wat,
            "width": image.width if image is not None else 0,
            "height": image.height if image is not None else 0,
            "num_faces": len(faces),
            "faces": json.dumps([list(face) for face in faces]),
            "must_retrieve": None,
        }
    return pa.Table.from_pylist([rows[url] for url in sorted(rows)], schema=TRUTH_SCHEMA)


def _named(written: str) -> str:
    """A URL as a run's tables name it: canonical, cut if it is very long, as written if it is no URL."""
    name = name_url(written)
    return name.url or name.raw or ""


def _urls_in_wat(figures: Sequence[Figure]) -> set[str]:
    """URLs that stand in the src of some <img>, or in og:image."""
    named = {figure.urls[-1 if figure.markup == "picture" else 0] for figure in figures if figure.markup != "lazy"}
    return named | {PLACEHOLDER}


def write_truth(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, compression="zstd")


def read_truth(path: Path) -> pa.Table:
    """The truth table of a sample web."""
    return pq.read_table(path)
