"""The pages count as slow loops count, show what retrieval took, and are the same bytes for the same run."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from storage.layout import Layout
from storage.manifest import Manifest
from storage.tables import read_table
from tasks.inspect_run import INDEX, Inspection, inspect_run
from tasks.inspection.html import PageLink
from tests.tasks.inspection_html import Read
from tests.tasks.inspection_world import (
    BENCHMARKS,
    CLUSTERS,
    COPY,
    LEAK,
    LOWEST,
    POOL,
    SOURCES,
    World,
    components,
    cosines,
    make_world,
    products,
)
from tests.tasks.vector_stages import rows_of

N_COLUMNS = ("N", "neighbours", "distinct", "collisions", "median", "lowest tenth", "highest tenth")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(Layout(str(tmp_path_factory.mktemp("run"))))


@pytest.fixture(scope="module")
def pages(world: World) -> dict[str, Read]:
    return read_pages(inspect_run.fn(world.run, Inspection(), world.layout))


def read_pages(manifest: Manifest) -> dict[str, Read]:
    return {entry.path: Read(Path(manifest.file(entry.path)).read_text()) for entry in manifest.files}


def page_of(pages: dict[str, Read], name: str) -> Read:
    return next(read for file, read in pages.items() if file.endswith(f"{name}.html"))


def pool_links(world: World, threshold: float) -> list[tuple[int, int]]:
    above = world.edges.similarity > np.float32(threshold)
    return list(zip(world.edges.left[above].tolist(), world.edges.right[above].tolist(), strict=True))


def test_counts_of_copies_by_threshold_are_those_of_each_graph_rebuilt(world: World, pages: dict[str, Read]) -> None:
    (curves,) = pages["copies.html"].curves("threshold", "dropped", "largest", "components", "pairs")
    assert {LOWEST, COPY, 0.99} <= curves.keys()
    for threshold, row in curves.items():
        links = pool_links(world, threshold)
        sizes = [len(component) for component in components(POOL, links)]
        assert row == [POOL - len(sizes), max(sizes), sum(size > 1 for size in sizes), len(links)]
    assert curves[COPY][0] == world.run.unique.drops["copy"]


def test_counts_of_benchmarks_by_threshold_are_those_of_each_graph_rebuilt(
    world: World, pages: dict[str, Read]
) -> None:
    kept = np.array([row["drop"] is None for row in rows_of(world.run.unique)])
    names = np.array(world.reference_names)
    across, among = cosines(world.descriptors, world.references), cosines(world.references, world.references)
    assert world.run.clean is not None
    for name in BENCHMARKS:
        (curves,) = page_of(pages, name.replace("/", "-")).curves("threshold", "for it", "for any")
        for threshold, row in curves.items():
            links = [(a, b) for a, b in pool_links(world, threshold) if kept[a] and kept[b]]
            links += [(a, POOL + b) for a, b in np.argwhere((across > threshold) & kept[:, None]).tolist()]
            links += [(POOL + a, POOL + b) for a, b in np.argwhere(among > threshold).tolist() if a < b]
            groups = components(POOL + len(names), links)
            mine = [group for group in groups if any(row >= POOL and names[row - POOL] == name for row in group)]
            anyone = [group for group in groups if any(row >= POOL for row in group)]
            assert row == [sum(row < POOL for group in chosen for row in group) for chosen in (mine, anyone)]
        assert curves[LEAK][1] == world.run.clean.drops["benchmark_copy"]
    assert any(facts["dropped_through_a_chain"] for facts in world.run.clean.facts["benchmarks"].values())


def nearest_rows(world: World, source: str) -> dict[int, list[int]]:
    """{query: pool rows from the nearest}, by brute force."""
    cosine = products(world.query_vectors, world.embeddings)
    rows = [row for row, name in enumerate(world.sources) if name == source]
    return {row: np.argsort(-cosine[row], kind="stable").tolist() for row in rows}


def drawn(world: World, source: str) -> set[int]:
    """The queries that retrieval stored more neighbours of."""
    tables = [entry.path for entry in world.run.chosen.files if entry.path.startswith("queries-")]
    rows = [row for name in tables for row in read_table(world.run.chosen.file(name)).to_pylist()]
    return {row["query"] for row in rows if row["inspect"] and row["source"] == source}


def test_counts_by_n_are_those_of_sets(world: World, pages: dict[str, Read]) -> None:
    everyone, some = page_of(pages, "birds").curves(*N_COLUMNS)
    nearest = nearest_rows(world, "birds")
    chosen = drawn(world, "birds")
    assert (len(everyone), len(some), len(chosen)) == (5, 12, 8)
    for curves, queries in ((everyone, nearest.keys()), (some, chosen)):
        for n, row in curves.items():
            brought = [pool for query in queries for pool in nearest[query][: int(n)]]
            assert row[:3] == [len(brought), len(set(brought)), len(brought) - len(set(brought))]
    composition = next(row for row in world.run.chosen.facts["composition"] if row["source"] == "birds")
    assert everyone[5][:3] == [composition[name] for name in ("actual", "unique", "collisions")]


def test_counts_by_m_and_by_queries_are_those_of_a_loop_over_clusters(world: World, pages: dict[str, Read]) -> None:
    homes = products(world.query_vectors, np.eye(world.query_vectors.shape[1])[:CLUSTERS]).argmax(axis=1)
    sizes = np.bincount(world.clusters, minlength=CLUSTERS).tolist()
    for source in SOURCES:
        queries = np.bincount(homes[np.array(world.sources) == source], minlength=CLUSTERS).tolist()
        read = page_of(pages, source)
        (by_m,) = read.curves("M", "before the cap", "after it")
        for m, row in by_m.items():
            count = sum(min(size, int(m)) for size, asked in zip(sizes, queries, strict=True) if asked > 3)
            assert row == [count, min(count, 15)]
        (by_least,) = read.curves("more queries than", "clusters", "images")
        for least, row in by_least.items():
            counting = [min(size, 7) for size, asked in zip(sizes, queries, strict=True) if asked > least]
            assert row == [len(counting), sum(counting)]
    final = next(row["final"] for row in world.run.chosen.facts["composition"] if row["mode"] == "cluster")
    assert page_of(pages, "cars").curves("M", "before the cap", "after it")[0][7][1] == final


def strips(read: Read, label: str) -> list[list[tuple[str, dict[str, str]]]]:
    """The tags of every strip whose label begins so, up to the next strip."""
    starts = [place for place, (_, attributes) in enumerate(read.tags) if attributes.get("role") == "group"]
    spans = zip(starts, [*starts[1:], len(read.tags)], strict=True)
    found = [read.tags[start:end] for start, end in spans]
    return [tags for tags in found if tags[0][1]["aria-label"].startswith(label)]


def test_queries_show_their_nearest_images_the_cut_and_who_else_found_them(
    world: World, pages: dict[str, Read]
) -> None:
    cosine, nearest = products(world.query_vectors, world.embeddings), nearest_rows(world, "birds")
    brought = [pool for rows in nearest.values() for pool in rows[:5]]
    one = nearest_rows(world, "one")[SOURCES["birds"] + SOURCES["cars"]][:3]
    shown = strips(page_of(pages, "birds"), "Neighbours of ")
    assert len(shown) == 8
    for tags in shown:
        query = int(tags[0][1]["aria-label"].rsplit("/", 1)[1].removesuffix(".jpg")) - 900
        images = [attributes for tag, attributes in tags if tag == "img"][:12]
        figures = [attributes for tag, attributes in tags if tag == "figure"][:12]
        for rank, (image, figure) in enumerate(zip(images, figures, strict=True)):
            pool = nearest[query][rank]
            assert image["title"] == f"http://example.test/{pool}.jpg"
            assert f"neighbour {rank + 1}, {cosine[query, pool]:.3f}" in image["alt"]
            assert (figure["data-n"], "out" in figure["class"].split()) == (str(rank + 1), rank >= 5)
            others = brought.count(pool) - (rank < 5)
            assert (f"found by {others} other queries" in image["alt"]) == (others > 0)
            assert ("found by source one" in image["alt"]) == (pool in one)


def test_the_sample_of_a_cluster_begins_with_what_retrieval_took(world: World, pages: dict[str, Read]) -> None:
    rows = rows_of(world.run.chosen)
    taken = {
        row["url"]: world.clusters[place] for place, row in enumerate(rows) if "cars:cluster" in (row["detail"] or "")
    }
    shown = 0
    for tags in strips(page_of(pages, "cars"), "Sample of cluster "):
        number = int(tags[0][1]["aria-label"].rsplit(" ", 1)[1])
        first = [attributes["title"] for tag, attributes in tags if tag == "img"][:7]
        if any(cluster == number for cluster in taken.values()):
            assert set(first) == {url for url, cluster in taken.items() if cluster == number}
            shown += 1
    assert shown == len(set(taken.values()))


def test_every_link_leads_to_a_page_and_every_page_is_linked(pages: dict[str, Read]) -> None:
    assert {link for read in pages.values() for link in read.links} == pages.keys()
    assert set(pages[INDEX].links) == pages.keys() - {INDEX}
    assert len(pages) == 2 + len(SOURCES) + len(BENCHMARKS)


def test_pages_are_reused_and_made_again_they_are_the_same_bytes(world: World) -> None:
    first = inspect_run.fn(world.run, Inspection(queries=3), world.layout)
    before = {entry.path: Path(first.file(entry.path)).read_bytes() for entry in first.files}
    written = Path(first.file(INDEX)).stat().st_mtime_ns
    assert inspect_run.fn(world.run, Inspection(queries=3), world.layout) == first
    assert Path(first.file(INDEX)).stat().st_mtime_ns == written
    Path(first.path).unlink()
    again = inspect_run.fn(world.run, Inspection(queries=3, held_edges=1), world.layout)
    assert {entry.path: Path(again.file(entry.path)).read_bytes() for entry in again.files} == before


def test_without_benchmarks_there_are_no_pages_of_them(world: World) -> None:
    pages = read_pages(inspect_run.fn(world.without_benchmarks, Inspection(), world.layout))
    assert sorted(pages) == sorted(["copies.html", INDEX, *(f"source-0{n}-{s}.html" for n, s in enumerate(SOURCES))])
    assert "The run has no benchmarks" in "".join(pages[INDEX].text)


@pytest.mark.parametrize(("page", "total"), [(0.02, 256.0), (8.0, 0.1)])
def test_pictures_stay_below_the_limit_and_what_is_left_out_says_so(world: World, page: float, total: float) -> None:
    manifest = inspect_run.fn(world.run, Inspection(page_megabytes=page, total_megabytes=total), world.layout)
    limit = min(page, total / 6) * 1e6
    for read in read_pages(manifest).values():
        assert sum(len(image["src"]) for image in read.all("img")) <= limit
    text = "".join("".join(read.text) for read in read_pages(manifest).values())
    assert "reached its limit" in text


def test_nothing_shown_asks_for_nothing(world: World) -> None:
    nothing = Inspection(queries=0, clusters=0, near_misses=0, pairs=0, pairs_per_step=0, groups=0)
    pages = read_pages(inspect_run.fn(world.run, nothing, world.layout))
    assert not [image for read in pages.values() for image in read.all("img")]
    assert len(pages) == 2 + len(SOURCES) + len(BENCHMARKS)


def test_the_same_run_below_another_root_has_the_same_bytes_and_an_image_that_is_gone_leaves_a_box(
    world: World, layout: Layout
) -> None:
    other = make_world(layout)
    here, there = inspect_run.fn(world.run, Inspection(), world.layout), inspect_run.fn(other.run, Inspection(), layout)
    for name in [entry.path for entry in here.files] + ["manifest.json"]:
        assert (Path(here.directory) / name).read_bytes() == (Path(there.directory) / name).read_bytes()
    Path(layout.resolve("images.bin")).write_bytes(b"")
    read = page_of(read_pages(inspect_run.fn(other.run, Inspection(seed=1), layout)), "birds")
    assert not read.all("img")
    assert "no longer readable" in "".join(read.text)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_a_real_browser_runs_the_pages_script_and_finds_the_runs_own_numbers(world: World, tmp_path: Path) -> None:
    """The policy lets the script run, and the script finds the tables that it moves through."""
    manifest = inspect_run.fn(world.run, Inspection(), world.layout)
    page = next(manifest.file(entry.path) for entry in manifest.files if entry.path.endswith("birds.html"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom"]
    run = subprocess.run(["chromium", *options, f"file://{page}"], capture_output=True, timeout=120, check=True)
    read = Read(run.stdout.decode())
    assert read.all("html")[0]["class"] == "js"
    panel, drawn, *_ = [slider for slider in read.all("input") if "max" in slider]
    assert (panel["max"], drawn["max"]) == ("4", "11")
    followers = [slider for slider in read.all("input") if "value" not in slider]
    assert {slider["max"] for slider in followers} == {
        "11",
        str(len(read.curves("M", "before the cap", "after it")[0]) - 1),
    }


HOSTILE = "javascript:alert('<script>\"></script><img src=x onerror=alert(1)>')"


def test_addresses_from_the_web_are_text_and_never_links(layout: Layout) -> None:
    world = make_world(layout, address=HOSTILE)
    for read in read_pages(inspect_run.fn(world.run, Inspection(), layout)).values():
        assert all(PageLink(link, "").file.endswith(".html") and "/" not in link for link in read.links)
        assert all(image["src"].startswith("data:image/jpeg;base64,") for image in read.all("img"))
        assert not [name for _, attributes in read.tags for name in attributes if name.startswith("on")]
        assert len(read.scripts) == 1
    assert HOSTILE in "".join(read_pages(inspect_run.fn(world.run, Inspection(), layout))["copies.html"].text)
