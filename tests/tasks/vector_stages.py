"""Finished stages made by hand, for the stages that read vectors: rows of images, and vectors with known cosines."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from storage.layout import Layout
from storage.manifest import Manifest
from storage.records import image_schema
from storage.tables import kept, read_table, table_from_rows, write_table
from storage.vectors import write_vectors
from tasks.config import StageConfig
from tasks.stage import Outcome, Stage

SCHEMA = image_schema(
    pa.field("source", pa.string()), pa.field("split", pa.string()), pa.field("crawl_date", pa.string())
)


class Made(StageConfig):
    """Test config: what distinguishes one hand-made stage from another."""

    content: str = ""


def image_row(number: int, **more: Any) -> dict[str, Any]:
    """A row of an image that is not there: id, size and place."""
    places = {"image_file": "nowhere.tar", "image_offset": 0, "image_bytes": 1, "format": "JPEG", "sha256": "0" * 64}
    named = {"id": f"{number:024x}", "url": f"http://example.test/{number}.jpg", "width": 100, "height": 100}
    return named | places | more


def made_stage(
    layout: Layout,
    name: str,
    parts: Sequence[Sequence[dict[str, Any]]],
    vectors: Sequence[np.ndarray] | None = None,
    **facts: Any,
) -> Manifest:
    """A finished stage with these rows by part and, for its kept rows, these vectors."""
    stage = Stage(name, version=1, config=Made(content=repr((parts, vectors))), inputs={}, layout=layout)
    outcomes = []
    for number, rows in enumerate(parts):
        table = table_from_rows(rows, SCHEMA)
        files = [write_table(stage.path(f"part-{number:05d}.parquet"), table)]
        if vectors is not None:
            files.append(write_vectors(stage.path(f"part-{number:05d}.npy"), vectors[number]))
        num_kept = len(kept(table))
        outcomes.append(Outcome(len(rows), num_kept, {"earlier": len(rows) - num_kept}, files))
    return stage.publish(outcomes, facts=facts)


def rows_of(manifest: Manifest) -> list[dict[str, Any]]:
    """All rows of a stage, part after part."""
    return [row for path in manifest.paths(".parquet") for row in read_table(path).to_pylist()]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def at_cosines(cosines: Sequence[float], dim: int, axis: int) -> np.ndarray:
    """A chain of unit vectors in the plane of two axes: neighbours have these cosines, others what adds up."""
    angles = np.concatenate([[0.0], np.cumsum(np.arccos(cosines))])
    chain = np.zeros((len(angles), dim), dtype=np.float32)
    chain[:, axis], chain[:, axis + 1] = np.cos(angles), np.sin(angles)
    return chain
