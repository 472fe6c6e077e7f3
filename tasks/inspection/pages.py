"""The inspection page of a curated source: a view and its thumbnails in, HTML out. No reading, no choosing.

A page asks an album for the thumbnails it shows; `asked_for` runs it with an album that only takes notes.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from tasks.inspection.charts import panels
from tasks.inspection.html import (
    Band,
    Frame,
    Shot,
    Thumbnail,
    addresses,
    follower,
    number,
    page,
    row,
    section,
    strip,
    table,
    text,
)
from tasks.inspection.views import (
    ClusterSight,
    Key,
    Member,
    Query,
    SourceView,
)

NEIGHBOURS, PER_CLUSTER, MIN_QUERIES = "n", "m", "q"
"""The data attributes that the sliders go by."""


class Album(Protocol):
    """Thumbnails by key."""

    def __getitem__(self, key: Key, /) -> Thumbnail: ...


class _Notes:
    def __init__(self) -> None:
        self.keys: list[Key] = []

    def __getitem__(self, key: Key) -> Thumbnail:
        self.keys.append(key)
        return Thumbnail("", "", 0, 0, None)


def asked_for(page_of: Callable[[Album], str]) -> list[Key]:
    """The thumbnails that a page shows, in its order, repeats included."""
    notes = _Notes()
    page_of(notes)
    return notes.keys


def source_page(view: SourceView, album: Album, frame: Frame) -> str:
    """Queries with their neighbours at growing N, clusters with their samples at growing M, and the counts."""
    pictures = [_clusters, _queries] if view.modes == ("cluster",) else [_queries, _clusters]
    parts = [
        f"<p>{number(view.images)} images, taken by <b>{text(', '.join(view.modes))}</b>.</p>",
        section("What it brings", table(view.composition)) if view.composition else "",
        section(
            "How the counts change",
            panels(view.panels),
            note="From the neighbours and clusters that are stored: no image is encoded again. The dotted line is this "
            "run's setting. With N grow the collisions, images that several queries find.",
        ),
        *(part(view, album) for part in pictures),
    ]
    return page(f"Source {view.name}", parts, frame)


def _queries(view: SourceView, album: Album) -> str:
    rows = [_query(query, view, album) for query in view.queries]
    return section(
        "Queries and their neighbours",
        follower(NEIGHBOURS, "N") if rows else "",
        *(rows or ["<p class=soft>The run stored no neighbours of this source.</p>"]),
        note=_how_neighbours_bring(view) + "Below each image its similarity. ×2: two other queries of this source "
        "found it too, within their N; + and a name: so did another source.",
        small=f"{len(view.queries)} of {number(view.images)}, drawn by id",
    )


def _how_neighbours_bring(view: SourceView) -> str:
    within = f"bands with a green frame are within N = {view.neighbours}"
    said = f"The nearest pool images of each query, as N grows; {within}. "
    return said if "sample" in view.modes else f"This source does not take neighbours; this is what it would. {said}"


def _query(query: Query, view: SourceView, album: Album) -> str:
    own = Shot(album[query.image], f"query, cluster {query.cluster}")
    shots = []
    for found in query.neighbours:
        hits, spoken = _hits(found.queries, found.sources)
        shots.append(
            Shot(
                album[found.image],
                f"neighbour {found.rank + 1}",
                f"{found.similarity:.3f}",
                at=(NEIGHBOURS, found.rank + 1),
                out=found.rank >= view.neighbours,
                hits=hits,
                hits_spoken=spoken,
            )
        )
    label = f"Neighbours of {own.image.address or query.image.row}"
    bands = banded(shots, cut=view.neighbours, name="N")
    return row(strip(bands, label=label), addresses([own, *shots]), key=own)


def _hits(queries: int, sources: Sequence[str]) -> tuple[str, str]:
    short = ([f"×{queries}"] if queries else []) + [f"+{name}" for name in sources]
    spoken = [f"also found by {queries} other queries of this source"] if queries else []
    return " ".join(short), ", ".join(spoken + [f"also found by source {name}" for name in sources])


def banded(shots: Sequence[Shot], *, cut: int, name: str) -> list[Band]:
    """Shots in bands that end at 1, 2, 4, 8, ... and at `cut`, each labelled by the number that brings it in."""
    ends = sorted({*(2**power for power in range(len(shots).bit_length() + 1)), cut})
    bands, start = [], 0
    for end in ends:
        if start < len(shots) and start < end:
            last = min(end, len(shots))
            label = f"{name} = {last}" + (f", this run's {name}" if last == cut else "")
            bands.append(Band(label, shots[start:last]))
            start = last
    return bands


def _clusters(view: SourceView, album: Album) -> str:
    counting = [cluster for cluster in view.clusters if cluster.counts]
    missing = [cluster for cluster in view.clusters if not cluster.counts]
    parts = [_cluster(cluster, view, album) for cluster in counting]
    if missing:
        parts.append(f"<h3>Clusters that just miss: {view.min_queries} queries or fewer</h3>")
        parts += [_cluster(cluster, view, album) for cluster in missing]
    return section(
        "Clusters and their samples",
        follower(PER_CLUSTER, "M") if counting else "",
        *(parts or ["<p class=soft>No cluster holds an image of this source.</p>"]),
        note=_how_clusters_bring(view) + "The closest to the centroid show what a cluster is about, the farthest what "
        "else it lets in.",
        small=f"{len(counting)} that count, from the most queries to the fewest; {len(missing)} that just miss",
    )


def _how_clusters_bring(view: SourceView) -> str:
    if "cluster" not in view.modes:
        return (
            f"This source is not taken by clusters. If it were, those with more than {view.min_queries} queries would "
            f"bring up to M = {number(view.per_cluster)} images each; those shown are drawn. "
        )
    return (
        f"Clusters with more than {view.min_queries} queries bring up to M = {number(view.per_cluster)} images each, "
        "in the order shown. "
    )


def _cluster(cluster: ClusterSight, view: SourceView, album: Album) -> str:
    taken = f"M takes {number(min(view.per_cluster, cluster.images))}" if cluster.counts else "takes none"
    head = (
        f"<h3>Cluster {cluster.number} <small>{number(cluster.num_queries)} queries, {number(cluster.images)} images, "
        f"{taken}</small></h3>"
    )
    sample = [
        Shot(
            album[member.image],
            f"image {place + 1}",
            _similarity(member),
            quiet=True,
            at=(PER_CLUSTER, place + 1) if cluster.counts else None,
            out=cluster.counts and place >= view.per_cluster,
        )
        for place, member in enumerate(cluster.sample)
    ]
    queries = Band("its queries", [Shot(album[key], "query", quiet=True) for key in cluster.queries])
    ends = [
        Band("closest to the centroid", members(cluster.closest, album, "closest")),
        Band("farthest from it", members(cluster.farthest, album, "farthest")),
    ]
    bands = banded(sample, cut=view.per_cluster, name="M") if cluster.counts else [Band("some of its images", sample)]
    lines = [
        strip([queries, *ends], label=f"Queries and extremes of cluster {cluster.number}"),
        strip(bands, label=f"Sample of cluster {cluster.number}"),
    ]
    shown = [*queries.shots, *sample]
    return head + row(*lines, addresses(shown))


def _similarity(member: Member) -> str:
    return "" if member.similarity is None else f"{member.similarity:.3f}"


def members(of: Sequence[Member], album: Album, role: str) -> list[Shot]:
    """Images of a cluster or a component, each with its similarity."""
    return [Shot(album[member.image], role, _similarity(member)) for member in of]
