"""The inspection pages on copies: within the pool, and of each benchmark. A view and its thumbnails in, HTML out."""

from collections.abc import Sequence

from tasks.inspection.charts import bars, panels
from tasks.inspection.html import Frame, Shot, addresses, figure, follower, number, page, pair, section
from tasks.inspection.pages import Album, members
from tasks.inspection.views import BenchmarkView, CopiesView, Group, Key, Pair, Rung

THRESHOLD = "threshold"
"""The data attribute that the slider goes by."""


def copies_page(view: CopiesView, album: Album, frame: Frame) -> str:
    """Pairs around the threshold, the largest components, and what every threshold would drop."""
    sizes = bars("Components by size", [name for name, _ in view.sizes], [count for _, count in view.sizes])
    parts = [
        f"<p>{number(view.dropped)} of {number(view.images)} images are copies at similarity &gt; {view.threshold:g}. "
        f"The graph holds pairs above {view.lowest:g}, with a recall of {view.recall:.4g} as measured.</p>",
        section(
            "How the counts change",
            panels(view.panels),
            note="From the graph's edges, at every threshold it knows. A largest component that leaps up is chaining: "
            "links between unrelated images. Of an image with very many copies the graph holds the nearest, and what "
            "keeps its components whole.",
        ),
        _borderline(view.above, view.below, view.threshold, album),
        _rungs(view.rungs, view.threshold, album),
        section("Components", f"<div class=charts>{sizes}</div>"),
        section(
            "Largest components",
            *(_group(group, view.threshold, album) for group in view.groups),
            note="The keeper first. Framed: the weakest joint, where the component falls apart first as the threshold "
            "rises.",
        ),
    ]
    return page("Copies within the pool", parts, frame)


def _borderline(above: Sequence[Pair], below: Sequence[Pair], threshold: float, album: Album) -> str:
    return section(
        f"Around the threshold {threshold:g}",
        follower(THRESHOLD, "threshold"),
        "<h3>Just above: linked</h3>",
        _pairs(above, threshold, album),
        "<h3>Just below: apart</h3>",
        _pairs(below, threshold, album),
        note="The closest calls. Wrong pairs above ask for a higher threshold, true copies below for a lower one.",
    )


def _pairs(pairs: Sequence[Pair], threshold: float, album: Album) -> str:
    if not pairs:
        return "<p class=soft>There are none.</p>"
    shots = [shot for p in pairs for shot in _sides(p, album)]
    return f"<div class=wrap>{_framed(pairs, threshold, shots)}</div>{addresses(shots)}"


def _framed(pairs: Sequence[Pair], threshold: float, shots: Sequence[Shot]) -> str:
    """Each pair in its frame; `shots` are its two images, pair after pair."""
    return "".join(
        pair(left, right, similarity=p.similarity, threshold=threshold, attribute=THRESHOLD, note=p.note)
        for p, left, right in zip(pairs, shots[::2], shots[1::2], strict=True)
    )


def _sides(pair_: Pair, album: Album) -> list[Shot]:
    across = pair_.left.stage != pair_.right.stage
    return [_shot(pair_.left, "first", album), _shot(pair_.right, "pool" if across else "second", album)]


def _shot(key: Key, role: str, album: Album) -> Shot:
    """An image of a pair: a benchmark's is called so, two of the pool need no name."""
    if key.stage.startswith("references"):
        return Shot(album[key], "benchmark")
    return Shot(album[key], role, quiet=role != "pool")


def _rungs(rungs: Sequence[Rung], threshold: float, album: Album) -> str:
    lines = (
        f"<h3>{rung.low:.2f} to {rung.high:.2f} <small>{number(rung.count)} pair{'s' * (rung.count > 1)}</small></h3>"
        f"{_pairs(rung.pairs, threshold, album)}"
        for rung in reversed(rungs)
        if rung.count
    )
    return section(
        "Pairs from the most to the least similar",
        follower(THRESHOLD, "threshold"),
        *lines,
        note="A few of each step, drawn by row. The threshold belongs where pairs stop being the same picture.",
    )


def _group(group: Group, threshold: float, album: Album) -> str:
    keeper = Shot(album[group.keeper], "keeper")
    others = members(group.others, album, "copy")
    more = group.size - 1 - len(others)
    head = f"<h3>{number(group.size)} images{f' <small>{number(more)} of them not shown</small>' if more else ''}</h3>"
    ends = (
        [_shot(key, "end of the joint", album) for key in (group.joint.left, group.joint.right)] if group.joint else []
    )
    joint = _framed([group.joint], threshold, ends) if group.joint else ""
    inside = f"<div class=wrap>{figure(keeper, key=True)}{''.join(figure(shot) for shot in others)}{joint}</div>"
    return f"{head}{inside}{addresses([keeper, *others])}"


def benchmark_page(view: BenchmarkView, album: Album, frame: Frame) -> str:
    """References beside the pool images they take out, around the threshold and through chains."""
    parts = [
        f"<p>{number(view.images)} images, {number(view.touched)} of them linked with the pool at similarity &gt; "
        f"{view.threshold:g}. They take {number(view.dropped_direct)} pool images with them directly and "
        f"{number(view.dropped_through_a_chain)} through others: a component that holds a reference is dropped whole."
        "</p>",
        section(
            "How the counts change",
            panels(view.panels),
            note="The curves begin at the least similarity above which this run knows all links.",
        ),
        _borderline(view.above, view.below, view.threshold, album),
        section(
            "Dropped through a chain",
            _pairs(view.chained, view.threshold, album),
            note="These are linked to the reference only through other images; the number is the similarity that put "
            "them in the component.",
        ),
        _rungs(view.rungs, view.threshold, album),
    ]
    return page(f"Benchmark {view.name}", parts, frame)
