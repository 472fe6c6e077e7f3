"""How often an image should be decoded on its way through screen, hash deduplication and safety: images per CPU second
with three decodes (one a stage), two (screen hashes in passing: the flow's way) and one (`decode_once`: safety's
filters look in screen's pass, at copies too). All three end in the same verdicts, which is checked.

    python -m bench.decode_once [--images 300] [--images-models 60] [--repeats 3]

Rows: JPEGs whose longer side is 500 or 1,000 pixels, of which none or 30 % are copies; `free`: filters that ask for the
whole picture and say nothing at once, as models on a GPU leave the CPU; `models`: NudeNet and RetinaFace on the CPU.
One decode pays beside the former (here 1.2 times as many images of 500 pixels without copies, 1.1 with 30 %), not
beside the latter, whose work on copies costs more than a decode. Reading, tables and folders are in all three.
`descriptor`: what of a describe pass is decoding, that is what it could save by looking along too. It stays apart: it
describes what the safety filters have left, blurred, its reduced decode is little beside its encoder, and another
encoder must not bring back screen, hash deduplication and safety.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from bench.measure import machine, save
from examples.sample_web.concepts import CONCEPTS, render_scene
from storage.images import decode_rgb, encode_jpeg, probe
from storage.layout import Layout
from storage.manifest import Manifest, fingerprint, save_manifest
from storage.records import image_schema
from storage.samples import SampleWriter
from storage.tables import read_table, table_from_rows, write_table
from tasks.config import StageConfig
from tasks.encoders import Pixels, bounded_threads
from tasks.filters import Faces, Finding, Geometry, Nsfw, Picture
from tasks.hash_dedup import HashDedup, hash_dedup
from tasks.image_filter import ImageFilter, filter_images

WAYS = {"three": 3, "two": 2, "one": 1}
SHARES = (0.0, 0.3)
SIDES = (500, 1000)
SCREEN = ImageFilter(filters=(Geometry(),))
_PER_PART = 150


class Free(StageConfig):
    """Asks for the whole picture, and says nothing."""

    kind: Literal["free"] = "free"

    def build(self) -> "Free":
        return self

    @property
    def fields(self) -> Sequence[pa.Field]:
        return ()

    @property
    def changes_images(self) -> bool:
        return False

    @property
    def min_side(self) -> int | None:
        return None

    def examine(self, pictures: Sequence[Picture]) -> list[Finding]:
        return [Finding() for _ in pictures]


def safety_of(kind: str) -> ImageFilter:
    """The filters of `safety`: the default's, or those that cost nothing beside the decode."""
    if kind == "models":
        return ImageFilter(filters=(Nsfw(), Faces()))
    return ImageFilter.model_construct(filters=(Free(),))  # no plug of the program's, so it passes no validation


def downloaded(layout: Layout, count: int, side: int, copies: float) -> Manifest:
    """A download stage of JPEGs, `copies` of them files that are there twice or more."""
    rng = np.random.default_rng(0)
    distinct = max(1, round(count * (1 - copies)))
    scenes = [(CONCEPTS[n % len(CONCEPTS)], n, (side, side * 3 // 4)) for n in range(distinct)]
    files = [encode_jpeg(render_scene(*scene), quality=85) for scene in scenes]
    files += [files[number] for number in rng.integers(0, distinct, count - distinct)]
    order, key = rng.permutation(count), fingerprint("download", 1, {"images": [count, side, copies]}, {})
    folder, entries = layout.stage("download", key), []
    for part, start in enumerate(range(0, count, _PER_PART)):
        rows, tar_path = [], f"{folder}/part-{part:05d}.tar"
        with SampleWriter(tar_path) as tar:
            for place in order[start : start + _PER_PART].tolist():
                offset, size = tar.add(f"{place:08d}", {"jpg": files[place]})["jpg"]
                info = probe(files[place])
                where = {"image_file": layout.relative(tar_path), "image_offset": offset, "image_bytes": size}
                shape = {"width": info.width, "height": info.height, "format": info.format, "sha256": "0" * 64}
                rows.append({"id": f"{place:08d}", "url": f"http://a.test/{place}", **shape, **where})
        entries += [write_table(f"{folder}/part-{part:05d}.parquet", table_from_rows(rows, image_schema())), tar.entry]
    manifest = Manifest("download", 1, key, folder, {}, {}, tuple(entries), count, count, {})
    save_manifest(manifest)
    return manifest


def run(
    source: Manifest, layout: Layout, safety: ImageFilter, way: str, pca_file: str | None = None
) -> tuple[float, list[pa.Table]]:
    """CPU seconds of the three stages, made anew, and their tables of verdicts.

    The PCA is given: fitting one takes 0.3 s of a run, whatever the number of images.
    """
    for folder in ("stages/screen", "stages/hash_dedup", "stages/safety", "receipts"):
        shutil.rmtree(Path(layout.root, folder), ignore_errors=True)
    config = HashDedup(pca_file=pca_file)
    started = time.process_time()
    hashes = None if way == "three" else config.looks
    screened = filter_images.fn(source, SCREEN, layout, "screen", hashes=hashes, ahead=safety if way == "one" else None)
    distinct = hash_dedup.fn(screened, config, layout)
    safe = filter_images.fn(distinct, safety, layout, "safety", seen=screened if way == "one" else None)
    seconds = time.process_time() - started
    columns = ["id", "drop", "other"]
    found = [read_table(path, columns) for stage in (distinct, safe) for path in stage.paths(".parquet")]
    return seconds, found


def measure(folder: Path, kind: str, *, count: int, side: int, copies: float, repeats: int) -> dict[str, Any]:
    """Images per CPU second of the three ways, by turns, medians; and whether they agree."""
    layout = Layout(str(folder / f"{kind}-{side}-{copies}"))
    source, safety = downloaded(layout, count, side, copies), safety_of(kind)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    run(source, layout, safety, "one")  # models are loaded, caches are warm
    (fitted,) = Path(layout.root).glob("stages/hash_dedup/*/pca.npy")
    pca = str(shutil.copy(fitted, folder / f"{kind}-{side}-{copies}.npy"))
    for _ in range(repeats):
        verdicts = {}
        for way in WAYS:
            spent, verdicts[way] = run(source, layout, safety, way, pca)
            seconds[way].append(spent)
    rates = {way: count / statistics.median(spent) for way, spent in seconds.items()}
    drops = sum(table.num_rows - table["drop"].null_count for table in verdicts["two"])
    return {
        "filters": kind,
        "side": side,
        "copies": copies,
        "images": count,
        "images_per_cpu_second": {way: round(rate, 1) for way, rate in rates.items()},
        "two_over_three": round(rates["two"] / rates["three"], 2),
        "one_over_two": round(rates["one"] / rates["two"], 2),
        "dropped": drops,
        "verdicts_equal": all(tables == verdicts["two"] for tables in verdicts.values()),
    }


def descriptor(count: int) -> dict[str, float]:
    """Milliseconds of CPU an image: the reduced decode that describe asks for, and the weight-free encoder's work."""
    encoder = Pixels().build()
    files = [encode_jpeg(render_scene(CONCEPTS[n % len(CONCEPTS)], n, (500, 375)), quality=85) for n in range(count)]
    started = time.process_time()
    pictures = [decode_rgb(data, min_side=encoder.min_side) for data in files]
    decoded = time.process_time() - started
    with bounded_threads(1):
        encoder.encode(pictures)
    encoded = time.process_time() - started - decoded
    return {
        "decode_milliseconds": round(1000 * decoded / count, 2),
        "encode_milliseconds": round(1000 * encoded / count, 2),
        "decode_share": round(decoded / (decoded + encoded), 3),
    }


def rows_of(folder: Path, *, images: int, images_models: int, repeats: int) -> list[dict[str, Any]]:
    """Every row, printed as it is found."""
    rows = []
    for kind, sides, count, times in (("free", SIDES, images, repeats), ("models", SIDES[:1], images_models, 1)):
        for side in sides:
            for copies in SHARES:
                rows.append(measure(folder, kind, count=count, side=side, copies=copies, repeats=times))
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--images-models", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(Path(folder), images=asked.images, images_models=asked.images_models, repeats=asked.repeats)
    save("decode_once", {"machine": machine(), "rows": rows, "descriptor": descriptor(min(100, asked.images))})


if __name__ == "__main__":
    main()
