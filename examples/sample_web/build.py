"""Builds the sample web in a folder: plan it, draw it, write it, and put the marker last."""

import json
import multiprocessing
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from examples.sample_web.copies import (
    BENCHMARKS,
    SOURCES,
    CuratedImage,
    curated_images,
    plan_benchmark_copies,
    plan_copies,
)
from examples.sample_web.crawl_files import write_crawl, write_pages
from examples.sample_web.figures import plan_markup, plan_never_fetched, plan_spellings
from examples.sample_web.hosts import ALL_HOSTS
from examples.sample_web.pages import Page, plan_pages, references, write_page
from examples.sample_web.plan import Figure, Planner, plan_faces, plan_plain, plan_specials
from examples.sample_web.recipes import Made, Recipe, make_image
from examples.sample_web.routes import RouteWriter
from examples.sample_web.truth import truth_table, write_truth

VERSION = 8
"""Raise it when the same seed gives other bytes: older folders are then built anew."""

_MARKER, _BUILDING = "sample_web.json", "sample_web.building"
_ENTRIES = ("served", "crawl", "pages", "sources", "benchmarks", "labelled", "truth.parquet")
_CHUNK = 32  # images a worker makes at a time


@dataclass(frozen=True)
class SampleWeb:
    """A finished sample web, by its paths."""

    directory: Path
    seed: int
    num_images: int
    num_pages: int
    hosts: tuple[str, ...] = ALL_HOSTS

    @property
    def truth(self) -> Path:
        return self.directory / "truth.parquet"

    @property
    def warc_files(self) -> tuple[Path, ...]:
        return tuple(sorted((self.directory / "crawl").glob("*.warc.gz")))

    @property
    def wat_files(self) -> tuple[Path, ...]:
        return tuple(sorted((self.directory / "crawl").glob("*.wat.gz")))

    @property
    def pages(self) -> Path:
        """Folder of HTML files with index.csv."""
        return self.directory / "pages"

    @property
    def sources(self) -> Mapping[str, Path]:
        """Curated sources by name: postcards (sample), fabrics (cluster), aquarium (as is)."""
        return {name: self.directory / "sources" / name for name in SOURCES}

    @property
    def benchmarks(self) -> Mapping[str, Path]:
        """Benchmarks by name; each folder holds train/ and test/."""
        return {name: self.directory / "benchmarks" / name for name in BENCHMARKS}

    @property
    def labelled(self) -> Path:
        """Folder with train/ and test/, each with one folder a concept."""
        return self.directory / "labelled"

    def connect_to(self, address: str) -> dict[str, str]:
        """Every host of the web → the address ("127.0.0.1:8765") that serves it."""
        return dict.fromkeys(self.hosts, address)


def build_sample_web(
    directory: Path, *, seed: int = 0, num_images: int = 2000, num_pages: int = 200, workers: int | None = None
) -> SampleWeb:
    """Make the web in `directory`, or take what is there if it was made whole with the same seed, sizes and version.

    The same arguments give the same bytes, whatever `workers` is (None: two processes for a large web, none for a
    small one). Another or a half-made sample web in the folder is replaced; files of others in it are not touched.
    Raises FileExistsError when the folder holds entries of the same names that this function did not make, and
    ValueError for sizes that cannot hold every planted case.
    """
    directory = Path(directory)
    web = SampleWeb(directory.resolve(), seed, num_images, num_pages)
    wanted = {"version": VERSION, "seed": seed, "num_images": num_images, "num_pages": num_pages}
    marker = directory / _MARKER
    if marker.exists() and json.loads(marker.read_text()).get("made") == wanted:
        return web
    planner, curated = plan_web(seed, num_images)
    pages = plan_pages(seed, num_pages, planner.figures)
    _clear(directory)
    counts = _write(directory, planner, curated, pages, workers)
    temporary = directory / f"{_MARKER}.tmp"
    temporary.write_text(json.dumps({"made": wanted, "counts": counts}, indent=1) + "\n")
    temporary.rename(marker)
    (directory / _BUILDING).unlink()
    return web


def plan_web(seed: int, num_images: int) -> tuple[Planner, dict[str, list[CuratedImage]]]:
    """Every URL, every figure and every curated image of a web, before anything is drawn."""
    planner, curated = Planner(seed, num_images), curated_images(seed, num_images)
    plan_specials(planner)
    plan_copies(planner)
    plan_benchmark_copies(planner, curated)
    plan_faces(planner)
    plan_markup(planner)
    plan_spellings(planner)
    plan_never_fetched(planner)
    plan_plain(planner)
    return planner, curated


def _clear(directory: Path) -> None:
    """Remove what an earlier build left, the marker first."""
    directory.mkdir(parents=True, exist_ok=True)
    present = [name for name in _ENTRIES if (directory / name).exists()]
    if present and not any((directory / name).exists() for name in (_MARKER, _BUILDING)):
        raise FileExistsError(
            f"{directory} holds {', '.join(present)} but no {_MARKER}: not a sample web. Choose another folder."
        )
    (directory / _BUILDING).touch()
    (directory / _MARKER).unlink(missing_ok=True)
    for name in present:
        path = directory / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _write(
    directory: Path,
    planner: Planner,
    curated: Mapping[str, Sequence[CuratedImage]],
    pages: list[Page],
    workers: int | None,
) -> dict[str, int]:
    served = [resource for resource in planner.resources if resource.recipe is not None]
    files = [image for images in curated.values() for image in images]
    recipes = [resource.recipe for resource in served if resource.recipe] + [image.recipe for image in files]
    routes, made, num_bytes = RouteWriter(), {}, 0
    with _made(recipes, workers) as results:
        for resource, image in zip(served, results, strict=False):
            routes.add_resource(resource, image)
            made[resource.url] = image._replace(data=b"")
            num_bytes += len(image.data)
        for file, image in zip(files, results, strict=True):
            path = directory / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image.data)
    widths = {url: image.width for url, image in made.items()}
    lost = Page("http://photos.sample.test/lost.html", "Lost")
    lost.figures = [Figure("img", ("http://photos.sample.test/img/lost.jpg",), "lost")] * 40
    for page in [*pages, lost]:
        write_page(planner.seed, page, pages, widths)
    routes.add_site_files(pages, ALL_HOSTS)
    routes.write(directory / "served")
    write_crawl(directory / "crawl", pages, lost)
    write_pages(directory / "pages", pages)
    write_truth(directory / "truth.parquet", truth_table(planner.resources, planner.figures, references(pages), made))
    return {"urls": len(planner.resources), "served_images": len(served), "served_bytes": num_bytes}


@contextmanager
def _made(recipes: Sequence[Recipe], workers: int | None) -> Iterator[Iterator[Made]]:
    """The images of the recipes in order, made here or by worker processes."""
    workers = workers if workers is not None else (2 if len(recipes) > 1000 else 0)
    if workers == 0:
        yield map(make_image, recipes)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield pool.map(make_image, recipes, chunksize=_CHUNK)
