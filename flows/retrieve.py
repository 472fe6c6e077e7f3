"""Embeddings → images that resemble the curated sources, packed as one dataset version."""

from flows.config import CurateConfig
from storage.layout import Layout
from storage.manifest import Manifest
from tasks.cluster import cluster
from tasks.collect import collect
from tasks.embed import embed
from tasks.pack import pack
from tasks.retrieve import retrieve
from tasks.shuffle import shuffle


def retrieve_and_pack(unique: Manifest, history: dict[str, Manifest], config: CurateConfig, layout: Layout) -> Manifest:
    """The dataset: what the sources bring in from the pool, and the sources that belong to it as they are."""
    sources = collect("collect_sources", config.sources, config.collect, layout)
    embedded = embed(unique, config.embed, layout)
    clustered = cluster(embedded, config.cluster, layout)
    queries = embed(sources, config.embed, layout, "embed_sources")
    chosen = retrieve(embedded, clustered, queries, config.retrieve, layout)
    as_is, composition = chosen.facts["as_is"], chosen.facts["composition"]
    rows = shuffle(chosen, sources, as_is=as_is, history=history, config=config.shuffle, layout=layout)
    return pack(rows, composition=composition, config=config.pack, layout=layout)
