"""Embeddings → images that resemble the curated sources, packed as one dataset version."""

from typing import NamedTuple

from flows.acquire import Acquired
from flows.config import CurateConfig
from flows.deduplicate import Deduplicated
from storage.layout import Layout
from storage.manifest import Manifest
from tasks.cluster import cluster
from tasks.collect import collect
from tasks.compose import compose
from tasks.earlier import taken_over
from tasks.embed import embed
from tasks.hierarchy import hierarchy
from tasks.inspect_run import Inspected, inspect_run
from tasks.pack import pack, packed_alike
from tasks.removal.ledger import drop_removed
from tasks.retrieve import retrieve
from tasks.shuffle import shuffle


class Retrieved(NamedTuple):
    """The dataset, and the pages on which its choices can be looked at."""

    dataset: Manifest
    pages: Manifest | None


def retrieve_and_pack(unique: Deduplicated, acquired: Acquired, config: CurateConfig, layout: Layout) -> Retrieved:
    """The dataset: what the sources bring in from the pool, what a balanced sample adds, and the sources that belong
    to it as they are."""
    earlier = acquired.earlier
    sources = collect("collect_sources", config.sources, config.collect, layout)
    if acquired.ledger:
        sources = drop_removed(sources, acquired.ledger, layout, "remaining_sources")
    embedded = embed(unique.images, config.embed, layout, base=taken_over(earlier, "embed", config.embed))
    clustered = cluster(embedded, config.cluster, layout, base=taken_over(earlier, "cluster", config.cluster))
    queries_then = taken_over(earlier, "embed_sources", config.embed)
    queries = embed(sources, config.embed, layout, "embed_sources", base=queries_then)
    found_then = taken_over(earlier, "retrieve", config.retrieve)
    chosen = retrieve(embedded, clustered, queries, config.retrieve, layout, base=found_then)
    pages = None
    if config.inspection is not None:
        seen = Inspected(embedded=embedded, clustered=clustered, chosen=chosen, queries=queries, **vars(unique))
        pages = inspect_run(seen, config.inspection, layout)
    if config.hierarchy is not None:
        levels_then = taken_over(earlier, "hierarchy", config.hierarchy)
        chosen = compose(chosen, hierarchy(embedded, config.hierarchy, layout, base=levels_then), layout)
    as_is, composition = chosen.facts["as_is"], chosen.facts["composition"]
    rows = shuffle(chosen, sources, as_is=as_is, history=acquired.history, config=config.shuffle, layout=layout)
    base = packed_alike(earlier.dataset, config.shuffle, config.pack) if earlier else None
    dataset = pack(rows, composition=composition, config=config.pack, layout=layout, base=base)
    return Retrieved(dataset, pages)
