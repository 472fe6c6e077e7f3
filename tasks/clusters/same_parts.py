"""Which parts of a pool an earlier run of a stage has judged: those with the same table and the same vectors."""

from storage.filesystem import exists, join
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest, load_manifest


def same_parts(embedded: Manifest, base: Manifest | None, version: int, layout: Layout) -> list[FileEntry | None]:
    """For each part of the pool the table in `base` (a stage of `embedded`'s kind, of this version) of the same part.

    Nothing is taken over when the pool that `base` was made of is gone.
    """
    tables, vectors = _entries(embedded, ".parquet"), _entries(embedded, ".npy")
    if base is None or base.version != version:
        return [None] * len(tables)
    folder = layout.stage(*base.inputs["embedded"].split("/", 1))
    if not exists(join(folder, "manifest.json")):
        return [None] * len(tables)
    before = load_manifest(folder)
    known = {
        (table.sha256, matrix.sha256): entry
        for table, matrix, entry in zip(
            _entries(before, ".parquet"), _entries(before, ".npy"), _entries(base, ".parquet"), strict=True
        )
    }
    return [known.get((table.sha256, matrix.sha256)) for table, matrix in zip(tables, vectors, strict=True)]


def _entries(manifest: Manifest, suffix: str) -> list[FileEntry]:
    return [file for file in manifest.files if file.path.startswith("part-") and file.path.endswith(suffix)]
