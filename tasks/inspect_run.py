"""Pages to look at before the numbers are trusted: neighbours by N, clusters by M, pairs around every threshold.

DINOv2's authors tuned N and M by eye (arXiv 2304.07193, section 3). Everything shown was stored by earlier stages; the
only images that are read are those on the pages. Static HTML that opens from disk: index.html, copies.html, a page per
benchmark split and one per curated source. Nothing on them loads from or leads to anywhere else.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from prefect.artifacts import create_link_artifact

from storage.filesystem import write_bytes
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest
from tasks.inspection.benchmarks import view_benchmarks
from tasks.inspection.config import Inspection
from tasks.inspection.copies import view_copies
from tasks.inspection.copy_pages import benchmark_page, copies_page
from tasks.inspection.html import Frame, PageLink, slug
from tasks.inspection.images import Pictures
from tasks.inspection.index import index_page
from tasks.inspection.links import BenchmarkLinks
from tasks.inspection.pages import Album, asked_for, source_page
from tasks.inspection.sources import view_sources
from tasks.inspection.views import RunView
from tasks.progress import in_run
from tasks.stage import Outcome, Stage, stage_task

__all__ = ["Inspected", "Inspection", "inspect_run"]

VERSION = 1
INDEX = "index.html"
COPIES = "copies.html"
ARTIFACT_KEY = "lvd-inspection"


@dataclass(frozen=True)
class Inspected:
    """The stages that the pages are about; those of the benchmarks, as relative_dedup was given them, where there are
    any."""

    described: Manifest
    graph: Manifest
    unique: Manifest
    embedded: Manifest
    clustered: Manifest
    chosen: Manifest
    queries: Manifest
    clean: Manifest | None = None
    references: Sequence[Manifest] = ()
    links: Sequence[Manifest] = ()

    def by_role(self) -> dict[str, Manifest]:
        """The stage's inputs; the order of several benchmarks does not matter."""
        named = {name: value for name, value in vars(self).items() if isinstance(value, Manifest)}
        for role, several in (("references", self.references), ("links", self.links)):
            ordered = sorted(several, key=lambda manifest: manifest.reference)
            named |= {f"{role}_{number:03d}": manifest for number, manifest in enumerate(ordered)}
        return named

    def benchmarks(self) -> BenchmarkLinks | None:
        """The links with the benchmarks; None in a run without any."""
        if self.clean is None or not self.references:
            return None
        return BenchmarkLinks(self.described, self.unique, self.clean, self.references, self.links)


@stage_task(name="inspect")
def inspect_run(run: Inspected, config: Inspection, layout: Layout) -> Manifest:
    """Write the pages; the manifest's facts say where index.html lies below the root, how many pages and bytes.

    Memory: 24 bytes per image while thresholds are tried, 16 per image for groups of copies (each is over before the
    next begins), `page_megabytes` for the page at hand. Pages hold what `config` says, whatever the size of the run.
    """
    stage = Stage("inspect", version=VERSION, config=config, inputs=run.by_role(), layout=layout)
    if stage.finished:
        return _linked(stage.reuse())
    benchmarks = run.benchmarks()
    pages = Pages.of(run, benchmarks, config)
    stages = run.by_role() | (benchmarks.manifests() if benchmarks else {})
    pictures = Pictures(stages, layout, config.thumbnail_pixels)
    limit = int(1e6 * min(config.page_megabytes, config.total_megabytes / max(1, len(pages.makers))))
    entries, shown = [], 0
    for link, make in pages.makers:
        album = pictures.album(asked_for(make), limit_bytes=limit)
        shown += sum(small.uri is not None for small in album.values())
        entries.append(_write(stage, link.file, make(album)))
    entries.append(_write(stage, INDEX, pages.index))
    facts = {"index": layout.relative(stage.path(INDEX)), "pages": len(entries), "thumbnails": shown}
    facts |= {"bytes": sum(entry.bytes for entry in entries)}
    return _linked(stage.publish([Outcome(len(entries), len(entries))], files=entries, facts=facts))


def _write(stage: Stage, name: str, page: str) -> FileEntry:
    data = page.encode()
    write_bytes(stage.path(name), data)
    return FileEntry(name, 0, len(data), hashlib.sha256(data).hexdigest())


def _linked(manifest: Manifest) -> Manifest:
    """The manifest; inside a run its index is linked from the run's artifacts."""
    index = manifest.file(INDEX)
    if in_run():
        create_link_artifact(
            key=ARTIFACT_KEY, link=f"file://{index}", link_text=index, description="Look before you trust the numbers"
        )
    return manifest


@dataclass(frozen=True)
class Pages:
    """The index, and every other page by its link: a function of its thumbnails."""

    index: str
    makers: list[tuple[PageLink, Callable[[Album], str]]]

    @classmethod
    def of(cls, run: Inspected, links_with: BenchmarkLinks | None, config: Inspection) -> "Pages":
        """All views of the run, ready to be drawn."""
        copies = view_copies(run.described, run.graph, run.unique, config)
        benchmarks = view_benchmarks(run.graph, links_with, config) if links_with else []
        sources = view_sources(run.clustered, run.chosen, config)
        links = [PageLink(COPIES, "Copies within the pool")]
        links += [_link("benchmark", number, view.name) for number, view in enumerate(benchmarks)]
        links += [_link("source", number, view.name) for number, view in enumerate(sources)]
        title = f"run {run.chosen.fingerprint[:8]}"
        frames = list(_frames(links, title))
        makers: list[Callable[..., str]] = [partial(copies_page, copies)]
        makers += [partial(benchmark_page, view) for view in benchmarks]
        makers += [partial(source_page, view) for view in sources]
        first_source = 1 + len(benchmarks)
        view = RunView(title, settings(run), copies, benchmarks, sources, run.chosen.facts["composition"])
        return cls(
            index_page(view, links[0], links[1:first_source], links[first_source:]),
            [(link, _framed(make, frame)) for link, make, frame in zip(links, makers, frames, strict=True)],
        )


def _framed(make: Callable[..., str], frame: Frame) -> Callable[[Album], str]:
    return lambda album: make(album, frame)


def _link(kind: str, number: int, name: str) -> PageLink:
    return PageLink(f"{kind}-{number:02d}-{slug(name)}.html", f"{kind.capitalize()} {name}")


def _frames(links: list[PageLink], run: str) -> Iterator[Frame]:
    for place in range(len(links)):
        before = links[place - 1] if place else None
        yield Frame(run, before, links[place + 1] if place + 1 < len(links) else None)


def settings(run: Inspected) -> list[tuple[str, Any, str]]:
    """What was set, by the names that the config has for it."""
    lines: list[tuple[str, Any, str]] = [
        ("copy_graph.threshold", run.graph.facts["threshold"], "pairs above it are known at all"),
        ("self_dedup.threshold", run.unique.facts["threshold"], "pairs above it are copies of each other"),
    ]
    if run.clean is not None:
        what = "pool images this similar to a benchmark's are dropped, with all they hang together with"
        lines.append(("relative_dedup.threshold", run.clean.facts["threshold"], what))
    lines.append(("cluster.num_clusters", run.clustered.facts.get("num_clusters"), "clusters of the pool"))
    config: Mapping[str, Any] = run.chosen.config
    for name, what in _RETRIEVE.items():
        lines.append((f"retrieve.{name}", config.get(name), what))
    for rule in config.get("rules", ()):
        given = {key: value for key, value in rule.items() if value is not None and key not in ("source", "modes")}
        said = ", ".join([*rule["modes"], *(f"{key} {value:,}" for key, value in given.items())])
        lines.append((f"retrieve.rules: {rule['source']}", said, "for this source alone"))
    return lines


_RETRIEVE = {
    "sample_above": "sources with more images take N neighbours of each, smaller ones M images of each cluster",
    "neighbours": "N",
    "per_cluster": "M",
    "min_queries": "clusters count when they hold more images of the source than this",
    "cap": "images that one source's clusters may bring in all",
}
