"""The permuted rows -> WebDataset tars with a JSON of lineage beside each image, an index, checksums and cards.

All shards hold the same number of images, to one; their bytes differ as sums of so many images do (1 % for 10,000
images whose sizes deviate by their mean). Memory of one part: 2.2 KB a row of its shards (0.7 GB for 32 x 10,000) and,
per thread, 10,000 rows as objects (15 MB) and one image. What grows with the dataset: manifest and cards, about 1 KB a
shard (14 MB for 142 M images, 120 MB for 1.2 B). Cost: every image is read once, hashed twice in one pass (the image
against its row, unless `verify` is off, and the tar for its entry) and written once.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import Field

from storage.filesystem import join
from storage.layout import Layout
from storage.manifest import Manifest
from tasks.config import StageConfig
from tasks.lineage import ancestry
from tasks.packing.base import HeldShard, Source, carry_shard, count_new, differences, held_shards
from tasks.packing.dataset_card import Card, write_cards
from tasks.packing.exchange import Stretch, plan_shards, range_bounds, take_ranks
from tasks.packing.images import Images, Original, joined, rows_of, write_shard
from tasks.shuffle import Shuffle, shuffled_files
from tasks.stage import Outcome, Stage, stage_task

VERSION = 3


class Pack(StageConfig):
    """How the dataset is written."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"threads", "verify"})

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")] = "lvd"
    """Prefix of the shards' names."""
    images: Images = Original()
    """The files as they are, or copies of bounded size."""
    card: Card = Card()
    """What the dataset's card says beside what is counted."""
    verify: bool = True
    """Compare every image's SHA-256 with the one that it was judged by, before it is packed. Off on a storage that
    guards its bytes itself (ZFS, Ceph, S3): the tar alone is hashed then. Both together take a quarter longer than
    that where the processor has SHA instructions, and twice as long elsewhere."""
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    """Shards that one part writes at a time. Parts are for processes, a core each; more threads help where a process
    has cores to itself (two were 1.3 times as fast as one, four no faster), and where the disk answers late."""


@stage_task(name="pack")
def pack(
    shuffled: Manifest,
    *,
    composition: Sequence[Mapping[str, Any]],
    config: Pack,
    layout: Layout,
    base: Manifest | None = None,
) -> Manifest:
    """One dataset version: root/datasets/<fingerprint>/ with tars, their indexes and three cards.

    `composition` is the retrieval's table (one row per source and mode), copied into the cards.

    `base` is an earlier dataset to go on from: images that it holds stay in their shards (linked if nothing in them
    changed, else rewritten in their order), new images are shuffled among themselves into shards that follow. The set
    of samples, JSON included, is that of a packing without base; their order is not, so base decides the result and
    is one of its inputs. Raises OtherBase for a dataset of another seed, name or treatment of images.
    """
    inputs = {"shuffled": shuffled} | ({"base": base} if base else {})
    stage = Stage("pack", version=VERSION, config=config, inputs=inputs, layout=layout, directory=layout.dataset)
    if stage.finished:
        return stage.reuse()
    held = (
        [] if base is None else held_shards(base, seed=shuffled.config["seed"], images=config.images, name=config.name)
    )
    written = [*_carry(stage, shuffled, held, config), *_write_new(stage, shuffled, held, config, layout)]
    packed = sum(outcome.rows_kept for outcome in written)
    if packed != shuffled.rows_kept:
        raise ValueError(
            f"{packed} images were packed of {shuffled.rows_kept} in {shuffled.directory}: some ids stand there "
            f"twice. Make the pool's ids unique, and delete {stage.directory}."
        )
    cards = write_cards(
        stage.directory,
        _content(stage, shuffled, written, config) | {"composition": list(composition)},
        chain=ancestry([shuffled], layout),
        config=config.card,
    )
    facts = {"composition": list(composition)} | ({"base": base.reference} if base else {})
    return stage.publish([_without_places(outcome) for outcome in written], files=cards, facts=facts)


def packed_alike(dataset: Manifest | None, shuffling: Shuffle, config: Pack) -> Manifest | None:
    """The earlier dataset if one packed by these settings can go on from it, else None (it is packed whole then)."""
    if dataset is None or differences(dataset, seed=shuffling.seed, images=config.images, name=config.name):
        return None
    return dataset


def _carry(stage: Stage, shuffled: Manifest, held: Sequence[HeldShard], config: Pack) -> list[Outcome]:
    """The earlier dataset's shards, as far as their images stay."""
    plain = {"directory": stage.directory, "files": shuffled_files(shuffled), "images": config.images}
    return stage.map(carry_shard, held, prefix="carried", **plain)


def _write_new(
    stage: Stage, shuffled: Manifest, held: Sequence[HeldShard], config: Pack, layout: Layout
) -> list[Outcome]:
    """The shards of the images that the earlier dataset does not hold; without one, of all."""
    counts, source = list(shuffled.facts["range_rows"]), Source(shuffled_files(shuffled), held)
    if held:
        parts = [(bounds, source.within(*bounds)) for bounds in range_bounds(len(counts))]
        counts = [outcome.rows_kept for outcome in stage.map(count_new, parts, prefix="new")]
    stretches = plan_shards(counts, samples_per_shard=shuffled.config["samples_per_shard"])
    return stage.map(
        write_stretch,
        [(stretch, source.within(stretch.first, stretch.last)) for stretch in stretches],
        prefix="group",
        name=join(stage.directory, f"{config.name}-"),
        first=1 + max((_number(shard.tar.path) for shard in held), default=-1),
        images=config.images,
        verify=config.verify,
        threads=config.threads,
        root=layout.root,
    )


def _number(tar: str) -> int:
    return int(tar.removesuffix(".tar").rpartition("-")[2])


def write_stretch(
    part: tuple[Stretch, Source],
    out: str,
    *,
    name: str,
    first: int,
    images: Images,
    verify: bool,
    threads: int,
    root: str,
) -> Outcome:
    """The shards of one stretch of the permutation; the number of the dataset's first new shard is `first`."""
    stretch, source = part
    table = take_ranks(source, stretch)
    begin = stretch.shards[0][1]

    def write(shard: tuple[int, int, int]) -> Outcome:
        number, start, stop = shard
        rows = rows_of(table.slice(start - begin, stop - start))
        return write_shard(rows, f"{name}{first + number:06d}.tar", images, Layout(root), verify=verify)

    with ThreadPoolExecutor(threads) as pool:
        return joined(list(pool.map(write, stretch.shards)))


def _content(stage: Stage, shuffled: Manifest, written: Sequence[Outcome], config: Pack) -> dict[str, Any]:
    """What dataset.json says of the shards. `order`: the first and the last key of the permutation in a shard."""
    places = {tar: place for outcome in written for tar, place in outcome.facts["places"].items()}
    tars = sorted((e for outcome in written for e in outcome.files if e.path in places), key=lambda e: e.path)
    extensions: Counter[str] = Counter()
    for outcome in written:
        extensions.update(outcome.facts["extensions"])
    return {
        "name": config.name,
        "version": stage.fingerprint[:16],
        "num_images": sum(entry.rows for entry in tars),
        "bytes": sum(entry.bytes for entry in tars),
        "images": config.images.deciding(),
        "extensions": dict(sorted(extensions.items())),
        "seed": shuffled.config["seed"],
        "made_from": shuffled.reference,
        "shards": [
            {"file": e.path, "samples": e.rows, "bytes": e.bytes, "sha256": e.sha256, "order": places[e.path]}
            for e in tars
        ],
    }


def _without_places(outcome: Outcome) -> Outcome:
    """The manifest does not repeat what dataset.json says shard by shard."""
    return replace(outcome, facts={name: value for name, value in outcome.facts.items() if name != "places"})
