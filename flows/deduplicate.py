"""Descriptors → no copies of each other, none of a benchmark."""

from flows.config import CurateConfig
from storage.layout import Layout
from storage.manifest import Manifest
from tasks.collect import collect
from tasks.describe import describe
from tasks.relative_dedup import relative_dedup
from tasks.self_dedup import self_dedup


def deduplicate(images: Manifest, config: CurateConfig, layout: Layout) -> Manifest:
    """One keeper per group of copies, and no image that hangs together with a benchmark's."""
    described = describe(images, config.describe, layout)
    unique = self_dedup(described, config.self_dedup, layout)
    if not config.benchmarks:
        return unique
    benchmarks = collect("collect_benchmarks", config.benchmarks, config.collect, layout)
    references = describe(benchmarks, config.describe, layout, "describe_benchmarks", described)
    return relative_dedup(described, unique, references, config.relative_dedup, layout)
