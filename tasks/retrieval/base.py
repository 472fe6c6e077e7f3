"""What an earlier retrieval found, for one of a grown, shrunk or reordered pool: only what is new is searched.

Law: an earlier run changes the cost, never the result. Its neighbours are taken over when both runs search alike (same
embedding, and exact, or the same centroids and probes), image by image where id and sha256 are the same. A query goes
through the whole pool when it is new, or when fewer of its stored neighbours are left than it needs; any other meets
the new images only.

Rows of two pools are matched by buckets of a hash of the id, each a task that reads the ids of both pools (24 bytes per
image of the bucket), and kept as stretches of rows that stayed together: 24 bytes each, as many as there are images
removed or put in between; where a pool comes in another order, up to one per image.
"""

import posixpath
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage.filesystem import join
from storage.manifest import FileEntry, Manifest, fingerprint
from storage.tables import kept, read_table
from storage.vectors import read_array, write_array
from tasks.algorithms.blocks import Rows
from tasks.algorithms.sampling import Keys, id_keys
from tasks.retrieval.part_chunks import Chunk, bytes_of
from tasks.retrieval.search import CANDIDATE
from tasks.retrieval.sorted_runs import Array, gather_groups, write_run
from tasks.stage import Outcome

_BUCKET_IMAGES = 50_000_000
_WINDOW_IMAGES = 8_000_000
KEPT, TRUTH_KEPT = 0, 1
"""Bits of a query's status."""


def searched_how(embedded: Manifest, centroids_sha256: str, num_probes: int | None) -> dict[str, Any]:
    """What two runs must have in common for one to take over the other's neighbours; num_probes None: exact."""
    embedding = fingerprint("embedding", embedded.version, embedded.config, {})
    by_cells = {} if num_probes is None else {"centroids": centroids_sha256, "num_probes": num_probes}
    return {"embedding": embedding, "exact": num_probes is None, **by_cells}


class Tables(NamedTuple):
    """The images of one side, in order: tables whose rows count (all, or the kept ones) and the first row of each."""

    paths: Sequence[str]
    starts: Sequence[int]
    only_kept: bool
    id_name: str = "id"

    @classmethod
    def of(cls, manifest: Manifest, prefix: str, *, only_kept: bool) -> "Tables":
        """The files of a stage that begin so; how many rows count, entries say: for kept ones, those of vectors."""
        suffix = ".npy" if only_kept else ".parquet"
        entries = [e for e in manifest.files if e.path.startswith(prefix) and e.path.endswith(suffix)]
        paths = [join(manifest.directory, entry.path.removesuffix(suffix) + ".parquet") for entry in entries]
        starts = np.concatenate([[0], np.cumsum([entry.rows for entry in entries])]).astype(np.int64)
        return cls(paths, starts.tolist(), only_kept, "query_id" if prefix == "queries-" else "id")

    @property
    def num_rows(self) -> int:
        return self.starts[-1]

    @property
    def num_buckets(self) -> int:
        return self.num_rows // _BUCKET_IMAGES + 1

    @property
    def num_windows(self) -> int:
        return self.num_rows // _WINDOW_IMAGES + 1

    def keys(self, bucket: int, num_buckets: int) -> tuple[Keys, Keys, Rows]:
        """(hash of the id, hash of the content, row) of the images of one bucket, by hash of the id."""
        ids, contents, rows = [_NO_KEYS], [_NO_KEYS], [_NO_ROWS]
        for path, start in zip(self.paths, self.starts[:-1], strict=True):
            table = read_table(path, [self.id_name, "sha256", *(["drop"] if self.only_kept else [])])
            table = kept(table) if self.only_kept else table
            ids.append(id_keys(bytes_of(table[self.id_name]), seed=0))
            here = np.flatnonzero(ids[-1] % np.uint64(num_buckets) == bucket)
            ids[-1] = ids[-1][here]
            contents.append(id_keys(bytes_of(table["sha256"]), seed=0)[here])
            rows.append(here + start)
        ids_of, contents_of, rows_of = np.concatenate(ids), np.concatenate(contents), np.concatenate(rows)
        order = np.lexsort((rows_of, ids_of))
        return ids_of[order], contents_of[order], rows_of[order]


_NO_KEYS: Keys = np.zeros(0, dtype=np.uint64)
_NO_ROWS: Rows = np.zeros(0, dtype=np.int64)


def match_bucket(bucket: int, out: str, *, old: Tables, new: Tables) -> Outcome:
    """The run of one bucket: rows `old` and `new` of the same image (equal id and sha256), by window of old rows."""
    ids, contents, rows = old.keys(bucket, old.num_buckets)
    new_ids, new_contents, new_rows = new.keys(bucket, old.num_buckets)
    first = np.ones(len(new_ids), dtype=bool)
    first[1:] = new_ids[1:] != new_ids[:-1]  # were an id there twice, one of them is matched
    place = np.searchsorted(ids, new_ids)
    inside = np.minimum(place, max(len(ids) - 1, 0))
    same = first & (place < len(ids))
    if len(ids):
        same &= (ids[inside] == new_ids) & (contents[inside] == new_contents)
    pairs = {"old": rows[place[same]], "new": new_rows[same]}
    return write_run(out, pairs["old"] // _WINDOW_IMAGES, old.num_windows, pairs)


def stretches_of(runs: Sequence[str], num_windows: int) -> Rows:
    """[stretches, 3]: first old row, first new row, length, by old row. Memory: a window's pairs, and the stretches."""
    found = [np.zeros((0, 3), dtype=np.int64)]
    for window in range(num_windows):
        pairs, _ = gather_groups(runs, ("old", "new"), window, window + 1)
        order = np.argsort(pairs["old"])
        old, new = pairs["old"][order], pairs["new"][order]
        breaks = np.flatnonzero(np.r_[True, (np.diff(old) != 1) | (np.diff(new) != 1)]) if len(old) else _NO_ROWS
        found.append(np.stack([old[breaks], new[breaks], np.diff(np.r_[breaks, len(old)])], axis=1))
    return np.concatenate(found)


def moved(stretches: Rows, rows: Rows, *, back: bool = False) -> Rows:
    """Where old rows are now, -1 for those that are gone; `back`: where new rows were, -1 for those that are new."""
    if len(stretches) == 0:
        return np.full(len(rows), -1)
    here, there = (1, 0) if back else (0, 1)
    ordered = stretches[np.argsort(stretches[:, here], kind="stable")]
    place = np.maximum(np.searchsorted(ordered[:, here], rows, side="right") - 1, 0)
    offset = rows - ordered[place, here]
    return np.where((offset >= 0) & (offset < ordered[place, 2]), ordered[place, there] + offset, -1)


class Stored(NamedTuple):
    """The files of an earlier retrieval by block of its queries, and the first query of each block."""

    queries: Sequence[str]
    neighbours: Sequence[str]
    truths: Sequence[str]
    starts: Sequence[int]

    @classmethod
    def of(cls, base: Manifest) -> "Stored":
        queries = Tables.of(base, "queries-", only_kept=False)
        found = [
            [join(base.directory, posixpath.basename(path).replace("queries-", name)) for path in queries.paths]
            for name in ("neighbours-", "truth-")
        ]
        return cls(queries.paths, found[0], found[1], queries.starts)

    def overlapping(self, queries: Rows) -> list[int]:
        """Blocks in which some of these old queries are."""
        blocks = np.searchsorted(self.starts, queries[queries >= 0], side="right") - 1
        return [int(block) for block in np.unique(blocks)]


def take_over(part: tuple[Chunk, str], out: str, *, stored: Stored, pool_moves: str, query_moves: str) -> Outcome:
    """What one block of queries keeps of the earlier run: {out}.status.npy (bits KEPT and TRUTH_KEPT of each query) and
    the runs {out}.stored and {out}.truth of its neighbours that are still there. facts: numbers of queries.

    The part: a chunk of queries and its queries-*.parquet; the moves are files of stretches.
    """
    chunk, queries = part
    table = read_table(queries, ["depth", "recall"])
    depth = np.asarray(table["depth"].to_numpy(), dtype=np.int64)
    sampled = np.asarray(table["recall"].to_numpy(zero_copy_only=False))
    new = np.arange(chunk.first_row, chunk.first_row + len(depth))
    old = moved(np.asarray(read_array(query_moves)), new, back=True)
    moves = np.asarray(read_array(pool_moves))
    status = np.zeros(len(depth), dtype=np.uint8)
    files: list[FileEntry] = []
    for bit, column, paths, wanted in (
        (KEPT, "depth", stored.neighbours, depth > 0),
        (TRUTH_KEPT, "recall", stored.truths, sampled),
    ):
        asks = np.flatnonzero(wanted & (old >= 0))
        asks = asks[np.argsort(old[asks])]
        left, deep = _left(stored, paths, column, old[asks], moves)
        number = np.searchsorted(old[asks], left["query"])  # place among asks
        remain = np.bincount(number[left["row"] >= 0], minlength=len(asks))
        had = np.bincount(number, minlength=len(asks))
        # All that the query had met were stored when they were fewer than it asked for; none: it was not searched.
        enough = (had > 0) & ((remain >= depth[asks]) | (had < deep))
        status[asks[enough]] |= np.uint8(1 << bit)
        stays = (left["row"] >= 0) & enough[number]
        columns = {name: left[name][stays] for name in CANDIDATE} | {"query": new[asks][number[stays]]}
        name = "stored" if bit == KEPT else "truth"
        files += write_run(f"{out}.{name}", np.zeros(int(stays.sum()), dtype=np.int64), 1, columns).files
    files.append(write_array(f"{out}.status.npy", status))
    facts = {
        "asked": int((depth > 0).sum()),
        "sampled": int(sampled.sum()),
        "reused": int(((status >> KEPT) & 1).sum()),
        "reused_truth": int(((status >> TRUTH_KEPT) & 1).sum()),
    }
    return Outcome(len(depth), len(depth), files=files, facts=facts)


def _left(
    stored: Stored, paths: Sequence[str], column: str, old: Rows, moves: Rows
) -> tuple[dict[str, Array], npt.NDArray[np.int64]]:
    """Stored neighbours of these old queries (ascending), `row` where it is now or -1; and how deep each was asked."""
    pieces = [dict(zip(CANDIDATE, (_NO_ROWS, _NO_ROWS, _NO_ROWS.astype(np.float32), _NO_IDS), strict=True))]
    deep = np.zeros(len(old), dtype=np.int64)
    for block in stored.overlapping(old):
        table = read_table(paths[block], ["query", "row", "similarity", "image_id"])
        table = table.filter(pc.is_in(table["query"], pa.array(old)))
        rows = moved(moves, np.asarray(table["row"].to_numpy()))
        numbers = {name: np.asarray(table[name].to_numpy()) for name in ("query", "similarity")}
        pieces.append(numbers | {"row": rows, "id": bytes_of(table["image_id"])})
        here = slice(*np.searchsorted(old, [stored.starts[block], stored.starts[block + 1]]))
        asked = read_table(stored.queries[block], ["depth", "recall"])
        depth = np.where(np.asarray(asked[column].to_numpy(zero_copy_only=False)) > 0, asked["depth"].to_numpy(), 0)
        deep[here] = depth[old[here] - stored.starts[block]]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in CANDIDATE}, deep


_NO_IDS: npt.NDArray[np.bytes_] = np.zeros(0, dtype="S1")
