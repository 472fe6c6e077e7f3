"""Descriptors → no copies of each other, none of a benchmark."""

from dataclasses import dataclass

from flows.config import CurateConfig
from storage.layout import Layout
from storage.manifest import Manifest
from tasks.collect import collect
from tasks.copy_graph import copy_graph
from tasks.describe import describe
from tasks.earlier import Earlier, taken_over
from tasks.link_benchmark import link_benchmark
from tasks.link_references import link_references
from tasks.relative_dedup import relative_dedup
from tasks.self_dedup import self_dedup


@dataclass(frozen=True)
class Deduplicated:
    """The stages that say which images are left of the pool, and why."""

    described: Manifest
    graph: Manifest
    unique: Manifest
    clean: Manifest | None = None
    references: tuple[Manifest, ...] = ()
    links: tuple[Manifest, ...] = ()

    @property
    def images(self) -> Manifest:
        """The images that are left."""
        return self.clean or self.unique


def deduplicate(images: Manifest, config: CurateConfig, layout: Layout, earlier: Earlier | None = None) -> Deduplicated:
    """One keeper per group of copies, and no image that hangs together with a benchmark's."""
    described_then = taken_over(earlier, "describe", config.describe)
    graph_then = taken_over(earlier, "copy_graph", config.copy_graph)
    described = describe(images, config.describe, layout, fitted=described_then, base=described_then)
    known = (described_then, graph_then) if described_then and graph_then else None
    graph = copy_graph(described, config.copy_graph, layout, base=known)
    unique = self_dedup(described, graph, config.self_dedup, layout)
    if not config.benchmarks:
        return Deduplicated(described, graph, unique)
    return leaks_of(described, unique, graph, config, layout)


def leaks_of(
    described: Manifest, unique: Manifest, graph: Manifest, config: CurateConfig, layout: Layout
) -> Deduplicated:
    """What is left without copies of the benchmarks, one by one: another benchmark costs itself alone."""
    sets = [collect("collect_benchmarks", [one], config.collect, layout) for one in config.benchmarks]
    references = tuple(describe(one, config.describe, layout, "describe_benchmarks", described) for one in sets)
    rules = config.relative_dedup
    links = (
        *(link_benchmark(described, one, rules, layout, config.describe) for one in references),
        link_references(references, rules, layout),
    )
    clean = relative_dedup(described, unique, graph, references, links, rules, layout)
    return Deduplicated(described, graph, unique, clean, references, links)
