"""What is left of an image as it came once a filter has changed it (its faces were blurred): nothing, by default.

A stage that changes images calls `erase_originals` when all its parts are done, before its manifest is written: that
manifest promises that no original is left. Where the original lay, in the tar of an earlier stage, now lies the
changed image in as many bytes (zeros after its end), so that every table that points there still points to a picture,
and a filter stage of other settings sees the changed one. The tar's name, size and offsets stay; its manifest gets the
new checksum. Rows keep the checksums of the file as it came, by which a removal finds it; a stage that passes the image
on reads its bytes and tells theirs (`tasks.filters.pictures`).

- A changed file that is longer than its original (one that was packed better than our encoder packs) is saved once more
  as JPEG at a lower quality; of another format, or at no quality short enough, the place becomes zeros (`erased`).
- Copies that hash deduplication has dropped in favour of a changed image show the same faces: they become zeros.
- Images that were dropped before the filter looked, or by a filter before it, stay as they came: nobody knows what they
  show. So does a copy of an image that an earlier crawl has.

Killed anywhere and run again it ends in the same bytes: what is there already is not written again. Cost: writes every
tar with a changed image once more (26 us per 45 KB). Memory: a changed image; in the process that runs the flow 24
bytes for the id of each.
"""

import dataclasses
import posixpath
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from storage.filesystem import is_url, read_bytes
from storage.image_headers import sniff_format
from storage.images import ImageError, decode_rgb, encode_jpeg
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest, load_manifest, save_manifest
from storage.overwrite import Place, overwrite
from storage.tables import read_table
from tasks.stage import Outcome, Stage

_QUALITIES = (90, 80, 70, 60, 50, 40, 30)
_PLACE = ["id", "image_file", "image_offset", "image_bytes"]
_CHECKSUMS = "checksums"


def erase_originals(stage: Stage, came: Manifest, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Overwrite, in the tars of earlier stages, the images of `came` that the parts of `stage` have changed, and their
    copies; returns what to publish with the parts. Raises ValueError when two parts point into one tar."""
    judged = [stage.path(e.path) for one in outcomes for e in one.files if _is_table(e.path)]
    pairs = list(zip(came.paths(".parquet"), judged, strict=True))
    _check_apart([part for part, _ in pairs])
    ids = np.sort(np.concatenate([np.array([], "S1"), *(_changed_ids(*pair) for pair in pairs)]))
    work = [{"came": part, "judged": table, "others": _others(part, ids)} for part, table in pairs]
    erased = stage.map(erase_part, work, prefix="originals", root=stage.layout.root)
    _tell_manifests([one.facts[_CHECKSUMS] for one in erased], stage.layout)
    return [dataclasses.replace(one, facts={k: v for k, v in one.facts.items() if k != _CHECKSUMS}) for one in erased]


def _is_table(name: str) -> bool:
    return name.startswith("part-") and name.endswith(".parquet")


def erase_part(work: Mapping[str, Any], out: str, *, root: str) -> Outcome:
    """One part's originals. Facts: images replaced and erased, and the new checksums of the tars they lay in."""
    layout, counts = Layout(root), Counter[str](originals_replaced=0, originals_erased=0)
    tars: dict[str, dict[Place, dict[str, Any] | None]] = defaultdict(dict)
    for row, now in _changed_rows(work["came"], work["judged"]):
        tars[row["image_file"]][row["image_offset"], row["image_bytes"]] = now
    for row in _copies(work["came"], work["others"]):
        tars[row["image_file"]][row["image_offset"], row["image_bytes"]] = None
    checksums = {}
    for tar, places in sorted(tars.items()):
        if posixpath.isabs(tar) or is_url(tar):  # outside the root: not ours to change
            counts["originals_outside"] += len(places)
            continue
        contents = _Contents(places, layout)
        checksums[tar] = overwrite(layout.resolve(tar), list(places), contents)
        counts["originals_erased"] += len(contents.erased)
        counts["originals_replaced"] += len(places) - len(contents.erased)
    return Outcome(0, 0, facts={**counts, _CHECKSUMS: checksums})


class _Contents:
    """What becomes of each place: the changed image, or zeros; remembers which became zeros."""

    def __init__(self, places: Mapping[Place, Mapping[str, Any] | None], layout: Layout) -> None:
        self._places, self._layout = places, layout
        self.erased: set[Place] = set()

    def __call__(self, place: Place) -> bytes:
        now = self._places[place]
        if now is not None:
            data = read_bytes(self._layout.resolve(now["image_file"]), now["image_offset"], now["image_bytes"])
            fitted = fit(data, place[1])
            if fitted is not None:
                return fitted
        self.erased.add(place)
        return bytes(place[1])


def fit(data: bytes, size: int) -> bytes | None:
    """An image in exactly `size` bytes, the last of them zero, that still decodes; None where that cannot be."""
    if len(data) >= size and sniff_format(data) == "JPEG":
        pixels = decode_rgb(data)
        data = next((one for q in _QUALITIES if len(one := encode_jpeg(pixels, quality=q)) < size), data)
    if len(data) >= size:
        return None
    padded = data + bytes(size - len(data))
    try:
        decode_rgb(padded, min_side=1)
    except ImageError:  # a format that does not bear bytes after its end
        return None
    return padded


def _changed_rows(came: str, judged: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(row as it came, row as it is now) of the images of a part that lie elsewhere now."""
    before, now = read_table(came, [*_PLACE, "drop"]), read_table(judged, _PLACE)
    before = before.filter(pc.is_null(before["drop"]))
    if not before["id"].equals(now["id"]):
        raise ValueError(f"{judged} does not judge the kept images of {came}: delete its stage's folder and run again")
    changed = pc.not_equal(before["image_file"], now["image_file"])
    return list(zip(before.filter(changed).to_pylist(), now.filter(changed).to_pylist(), strict=True))


def _changed_ids(came: str, judged: str) -> NDArray[np.bytes_]:
    return np.array([row["id"] for row, _ in _changed_rows(came, judged)], dtype=np.bytes_)


def _others(came: str, changed: NDArray[np.bytes_]) -> list[str]:
    """The changed images, of any part, of which this part has copies."""
    table = read_table(came, ["other", "drop"])
    others = pc.unique(table.filter(pc.is_valid(table["drop"]))["other"].drop_null()).to_numpy(zero_copy_only=False)
    return sorted(str(one) for one in others if _holds(changed, str(one).encode()))


def _holds(ids: NDArray[np.bytes_], wanted: bytes) -> bool:
    at = int(np.searchsorted(ids, wanted))
    return at < len(ids) and bool(ids[at] == wanted)


def _copies(came: str, others: Sequence[str]) -> list[dict[str, Any]]:
    """Rows that were dropped as copies of these."""
    table = read_table(came, [*_PLACE, "other", "drop"])
    copies = pc.and_(pc.is_valid(table["drop"]), pc.is_in(table["other"], pa.array(others, pa.string())))
    return [row for row in table.filter(copies).to_pylist() if row["image_file"] is not None]


def _check_apart(parts: Sequence[str]) -> None:
    """Parts are worked on side by side, so each tar must be one part's alone."""
    owner: dict[str, str] = {}
    for part in parts:
        for tar in pc.unique(read_table(part, ["image_file"])["image_file"]).drop_null().to_pylist():
            if owner.setdefault(tar, part) != part:
                raise ValueError(f"{owner[tar]} and {part} both point into {tar}: set keep_unblurred")


def _tell_manifests(checksums: Sequence[Mapping[str, Sequence[Any]]], layout: Layout) -> None:
    """The manifests of the tars' stages tell what is in them now."""
    by_folder: dict[str, dict[str, Sequence[Any]]] = defaultdict(dict)
    for part in checksums:
        for tar, told in part.items():
            folder, name = posixpath.split(layout.resolve(tar))
            by_folder[folder][name] = told
    for folder, files in sorted(by_folder.items()):
        manifest = load_manifest(folder)
        manifest.files = tuple(_told(entry, files.get(entry.path)) for entry in manifest.files)
        save_manifest(manifest)


def _told(entry: FileEntry, told: Sequence[Any] | None) -> FileEntry:
    return entry if told is None else dataclasses.replace(entry, bytes=told[0], sha256=told[1])
