"""Crawl files → one row per image URL that a page names."""

import posixpath
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
from pydantic import Field

from storage.filesystem import open_read
from storage.layout import Layout
from storage.manifest import Manifest
from storage.records import verdict_schema
from storage.tables import write_table
from tasks.config import StageConfig
from tasks.stage import Outcome, Stage, stage_task
from tasks.web.crawl_files import CrawlFile, find_crawl_files
from tasks.web.errors import EmptyCrawl
from tasks.web.html_files import pages_of_html
from tasks.web.html_images import ALL_WAYS, Srcset, Way
from tasks.web.pages import Page, Reading, Tally
from tasks.web.urls import canonical_url, name_url
from tasks.web.warc import pages_of_warc
from tasks.web.wat import pages_of_wat

SCHEMA = verdict_schema(
    pa.field("url", pa.string()),  # canonical; null when no browser could make a URL of raw_url
    pa.field("raw_url", pa.string()),  # as the page had it, where that differs
    pa.field("page_url", pa.string()),
    pa.field("alt", pa.string()),
    pa.field("how", pa.string()),  # where in the page: img@src, img@srcset, noscript:img@src, meta@og:image, ...
    pa.field("crawl_file", pa.string()),
    pa.field("crawl_offset", pa.int64()),  # bytes into the crawl file (compressed), where the page's record starts
    pa.field("crawl_date", pa.string()),  # ISO 8601, UTC
)
_ROWS_PER_BATCH = 65536


class FoundUrl(NamedTuple):
    """A row's columns that differ within a crawl file."""

    id: str
    url: str | None
    raw_url: str | None
    page_url: str | None
    alt: str | None
    how: str
    crawl_offset: int
    crawl_date: str | None


class Extract(StageConfig):
    """Which crawl files to read, and what counts as naming an image."""

    crawl: tuple[str, ...]
    """Crawl files: paths, globs, folders or URLs (https://, s3://) of .warc, .wat (plain, .gz, .zst, .lz4) and .html
    files, or Common Crawl's listings (*.paths.gz)."""
    listing_prefix: str = "https://data.commoncrawl.org/"
    """What stands before the relative paths of a listing; s3://commoncrawl/ inside AWS."""
    srcset: Srcset = "largest"
    """Of a srcset take the largest candidate, or all."""
    ways: frozenset[Way] = frozenset(ALL_WAYS)
    """Ways of naming an image that count: img (src), srcset, picture (source), lazy (data-src and its like), noscript,
    og_image, image_src."""
    max_page_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 16 << 20
    """Bytes of a decoded page that are looked at."""


@stage_task(name="extract")
def extract(config: Extract, layout: Layout) -> Manifest:
    """One table per crawl file: a row for every image URL that its pages name.

    Raises CrawlNotFound, MalformedCrawl, EmptyCrawl.
    """
    files, content = find_crawl_files(config.crawl, config.listing_prefix)
    stage = Stage("extract", version=1, config=config, inputs={}, layout=layout, also={"content": content})
    if stage.finished:
        return stage.reuse()
    outcomes = stage.map(extract_part, files, config=config)
    if not any(outcome.rows_in for outcome in outcomes):
        pages = sum(outcome.facts["pages"] for outcome in outcomes)
        raise EmptyCrawl(
            f"{len(files)} crawl files ({files[0].path}, ...) hold {pages} HTML pages that name no image. Name other "
            "crawl files, or allow more `ways`."
        )
    return stage.publish(outcomes, facts={"crawl_files": len(files)})


def extract_part(part: CrawlFile, out: str, *, config: Extract) -> Outcome:
    """One crawl file → one table, in the file's order. Memory: the file's rows, about 100 B each (Arrow)."""
    tally = Tally(posixpath.basename(part.path))
    reading = Reading(config.srcset, config.ways, config.max_page_bytes)
    table = pa.Table.from_batches(_batches(part, reading, tally), schema=SCHEMA)
    entry = write_table(f"{out}.parquet", table)
    facts: dict[str, Any] = {"pages": tally.pages, "passed_over": dict(tally.passed_over)}
    if tally.bad_records:
        facts["bad_records"] = tally.bad_records
    return Outcome(table.num_rows, table.num_rows, files=(entry,), facts=facts)


def _batches(part: CrawlFile, reading: Reading, tally: Tally) -> Iterator[pa.RecordBatch]:
    rows: list[FoundUrl] = []
    for page in _pages(part, reading, tally):
        rows += rows_of_page(page)
        if len(rows) >= _ROWS_PER_BATCH:
            yield _batch(rows, part)
            rows = []
    if rows:
        yield _batch(rows, part)


def _batch(rows: list[FoundUrl], part: CrawlFile) -> pa.RecordBatch:
    found = dict(zip(FoundUrl._fields, zip(*rows, strict=True), strict=True))
    columns = [
        pa.array(found[field.name], field.type)
        if field.name in found
        else pa.repeat(part.path if field.name == "crawl_file" else pa.scalar(None, field.type), len(rows))
        for field in SCHEMA
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _pages(part: CrawlFile, reading: Reading, tally: Tally) -> Iterator[Page]:
    if part.kind == "html":
        yield from pages_of_html(part.path, reading, tally)
        return
    with open_read(part.path) as file:
        yield from (pages_of_wat if part.kind == "wat" else pages_of_warc)(file, reading, tally)


def rows_of_page(page: Page) -> Iterator[FoundUrl]:
    """A row for each distinct image URL of a page, in document order; the first way that names it counts."""
    page_url = page.url or None
    base = (canonical_url(page.content.base, page_url) if page.content.base else None) or page_url
    seen: set[str] = set()
    for image in page.images:
        name = name_url(image.url, base)
        if name.id not in seen:
            seen.add(name.id)
            yield FoundUrl(name.id, name.url, name.raw, page_url, image.alt, image.how, page.offset, page.date)
