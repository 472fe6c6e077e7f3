"""Planned copies: of each other, in chains, and of the benchmarks' images; and the curated sets themselves."""

from dataclasses import dataclass, replace

from examples.sample_web.canvas import generator
from examples.sample_web.concepts import CONCEPTS
from examples.sample_web.plan import Planner, Resource, concept_of
from examples.sample_web.plants import COPY_KINDS
from examples.sample_web.recipes import Recipe

COPY = ("kept", "hash_dedup:hash_duplicate", "self_dedup:copy")
TAINTED = ("relative_dedup:benchmark_copy", "hash_dedup:hash_duplicate", "self_dedup:copy")
CASE_OF_KIND = {
    "recompress": "recompressed",
    "resize": "resized",
    "crop": "cropped",
    "colour": "colour_shifted",
    "border": "bordered",
    "text": "overlaid_text",
    "mirror": "mirrored",
    "blend": "blended",
}

# A~B by the first change, B~C by the second: A and C share less than either shares with B.
_CHAINS = (("crop", ("crop",)), ("mirror", ("crop",)), ("text", ("mirror",)), ("crop", ("border",)))


@dataclass(frozen=True)
class CuratedImage:
    """One file of a curated source, a benchmark or the labelled set; `path` is relative to the web's folder."""

    path: str
    concept: str
    recipe: Recipe


SOURCES: dict[str, tuple[int, tuple[str, ...]]] = {
    "postcards": (60, ("sunset_coast", "mountains", "night_city")),
    "fabrics": (20, ("tartan", "checkered")),
    "aquarium": (12, ("underwater",)),
}
"""Curated sources: how many images, of which concepts. Meant for sample-based, cluster-based and as-is retrieval.

These and the counts below are for webs of 1,000 images and more; smaller webs have a quarter of them.
"""

BENCHMARKS: dict[str, tuple[str, ...]] = {
    "landscapes": ("desert", "flower_field", "forest", "sunset_coast"),
    "patterns": ("bubbles", "circuit"),
}
"""Benchmarks and their concepts; each has 16 train and 12 test images."""

_SPLITS = {"train": 16, "test": 12}
_LABELLED = {"train": 12, "test": 6}  # of each concept


def curated_images(seed: int, num_images: int) -> dict[str, list[CuratedImage]]:
    """All curated sets by name: "sources/…", "benchmarks/…/train", "labelled/test", …; each scene stands in one.

    `num_images` is the size of the web they go with.
    """
    part = 1 if num_images >= 1000 else 4
    sets = {}
    for name, (count, concepts) in SOURCES.items():
        sets[f"sources/{name}"] = _scenes(seed, f"sources/{name}", count // part, concepts)
    for name, concepts in BENCHMARKS.items():
        for split, count in _SPLITS.items():
            sets[f"benchmarks/{name}/{split}"] = _scenes(seed, f"benchmarks/{name}/{split}", count // part, concepts)
    for split, each in _LABELLED.items():
        count = max(1, each // part) * len(CONCEPTS)
        sets[f"labelled/{split}"] = _scenes(seed, f"labelled/{split}", count, CONCEPTS)
    return sets


def _scenes(seed: int, folder: str, count: int, concepts: tuple[str, ...]) -> list[CuratedImage]:
    rng = generator("curated", seed, folder)
    images = []
    for number in range(count):
        concept = concepts[number % len(concepts)]
        size = ((320, 240), (300, 300), (240, 320), (336, 224))[int(rng.integers(4))]
        images.append(
            CuratedImage(
                f"{folder}/{concept}/{number:03d}.jpg", concept, Recipe(concept, int(rng.integers(2**62)), size)
            )
        )
    return images


def plan_copies(planner: Planner) -> None:
    """Groups of one original and its copies: one of each kind, several kinds, the same bytes, chains."""
    for kind in COPY_KINDS:
        for _ in range(planner.count(22, 2)):
            _plan_group(planner, [(CASE_OF_KIND[kind], (kind,))])
    for number in range(planner.count(12, 1)):
        _plan_group(planner, [("same_bytes", ())] * (1 + number % 3))
    for number in range(planner.count(8, 1)):
        kinds = [COPY_KINDS[(number + step) % len(COPY_KINDS)] for step in (0, 3, 5, 6)]
        _plan_group(planner, [(CASE_OF_KIND[kind], (kind,)) for kind in kinds])
    for number in range(planner.count(12, 2)):
        first, then = _CHAINS[number % len(_CHAINS)]
        _plan_group(planner, [("chain", (first,)), ("chain", (first, *then))])
    for form in ("webp", "avif", "exif_jpeg", "png", "cmyk_jpeg"):
        for _ in range(planner.count(2, 1)):
            _plan_group(planner, [("re_encoded", ())], encoding=form)


def _plan_group(
    planner: Planner, copies: list[tuple[str, tuple[str, ...]]], *, encoding: str = "jpeg", prefix: str = "copies"
) -> None:
    """An original and its copies. The kinds of a chain share seeds, so that C is made from B."""
    original = planner.new_recipe(large=True)
    group = f"{prefix}-{len(planner.resources):05d}"
    concept = concept_of(original)
    planner.add(Resource(planner.new_url(original), "original", concept, COPY, original, group=group))
    seeds = [planner.new_seed() for _ in range(4)]
    for case, kinds in copies:
        if case not in ("chain", "same_bytes"):
            seeds = [planner.new_seed() for _ in kinds]
        steps = tuple(zip(kinds, seeds, strict=False))
        recipe = replace(original, steps=steps, encoding=encoding)
        planner.add(Resource(planner.new_url(recipe), case, concept, COPY, recipe, group=group))


def plan_benchmark_copies(planner: Planner, curated: dict[str, list[CuratedImage]]) -> None:
    """Copies in the pool of benchmarks' images, and copies of those copies. None of them may be kept."""
    for name in BENCHMARKS:
        for split in _SPLITS:
            images = curated[f"benchmarks/{name}/{split}"]
            direct, chains = planner.count(5, 1), planner.count(2, 1)
            for number, image in enumerate(images[: direct + chains]):
                group = f"benchmark-{name}-{split}-{number:02d}"
                kinds = ((), ("crop",), ("text",), ("resize",), ("colour",))[number % 5]
                if number < direct:
                    _plan_tainted(planner, f"benchmark_{split}", image, group, [kinds])
                else:
                    _plan_tainted(planner, "benchmark_chain", image, group, [("crop",), ("crop", "crop")])


def _plan_tainted(planner: Planner, case: str, image: CuratedImage, group: str, copies: list[tuple[str, ...]]) -> None:
    seeds = [planner.new_seed() for _ in range(4)]
    for kinds in copies:
        recipe = replace(image.recipe, steps=tuple(zip(kinds, seeds, strict=False)))
        url = planner.new_url(recipe)
        planner.add(Resource(url, case, image.concept, TAINTED, recipe, group=group, tainted=True))
