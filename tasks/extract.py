"""Crawl files → one row per image URL that a page names."""

import posixpath
from collections.abc import Iterator
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from storage.layout import Layout
from storage.manifest import FileEntry, Manifest
from storage.records import verdict_schema
from storage.tables import write_table
from tasks.config import StageConfig
from tasks.news import Teller
from tasks.stage import Outcome, Stage, stage_task
from tasks.web.allocator import keep_freed_memory
from tasks.web.crawl_files import CrawlFile, find_crawl_files
from tasks.web.crawl_stream import open_crawl_file
from tasks.web.errors import EmptyCrawl
from tasks.web.html_files import pages_of_html
from tasks.web.html_images import ALL_WAYS, Srcset, Way
from tasks.web.pages import Page, Reading, Tally
from tasks.web.urls import MAX_STORED_CHARS, Base, canonical_url, name_url, plain_or_canonical
from tasks.web.warc import pages_of_warc
from tasks.web.wat import pages_of_wat

SCHEMA = verdict_schema(
    pa.field("url", pa.string()),  # canonical; null when no browser could make a URL of raw_url
    pa.field("raw_url", pa.string()),  # as the page had it, where that differs
    pa.field("page_url", pa.string()),  # its first 4,096 characters
    pa.field("alt", pa.string()),
    pa.field("how", pa.string()),  # where in the page: img@src, img@srcset, noscript:img@src, meta@og:image, ...
    pa.field("crawl_file", pa.string()),
    pa.field("crawl_offset", pa.int64()),  # bytes into the crawl file (compressed), where the page's record starts
    pa.field("crawl_date", pa.string()),  # ISO 8601, UTC
)
VERSION = 4
_FOUND = ("id", "url", "raw_url", "page_url", "alt", "how", "crawl_offset", "crawl_date")  # differ within a crawl file
_ROWS_PER_BATCH = 20_000
_ROWS_PER_FILE = 200_000
_BYTES_PER_FILE = 128 << 20  # of Arrow; 200,000 rows of the usual length are 60 MB
_IMAGES_AT_A_TIME = 5000  # of one page: one of a few megabytes can name half a million, each with a long URL
_MAX_DATE_CHARS = 64


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
    """One table per crawl file (more for a large one): a row for every image URL that its pages name.

    Raises CrawlNotFound, MalformedCrawl, EmptyCrawl.
    """
    files, content = find_crawl_files(config.crawl, config.listing_prefix)
    stage = Stage("extract", version=VERSION, config=config, inputs={}, layout=layout, also={"content": content})
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
    """One crawl file → one table or more, in the file's order.

    Memory: the rows of one table, whatever the size of the crawl file: 120 MB for 200,000 rows (they are held as lists,
    then as Arrow, then as Parquet), and the page that is being read (some ten times its bytes).
    """
    keep_freed_memory()
    tally = Tally(posixpath.basename(part.path))
    reading = Reading(config.srcset, config.ways, config.max_page_bytes)
    files: list[FileEntry] = []
    with Teller(out, None) as teller:
        for table in _tables(part, reading, tally, teller):
            name = f"{out}.parquet" if not files else f"{out}-{len(files):03d}.parquet"
            files.append(write_table(name, table))
    facts: dict[str, Any] = {"pages": tally.pages, "passed_over": dict(tally.passed_over)}
    if tally.bad_records:
        facts["bad_records"] = tally.bad_records
    rows = sum(entry.rows for entry in files)
    return Outcome(rows, rows, files=files, facts=facts)


def _tables(part: CrawlFile, reading: Reading, tally: Tally, teller: Teller) -> Iterator[pa.Table]:
    """The rows of a crawl file in tables of at most about _ROWS_PER_FILE and _BYTES_PER_FILE; at least one table, be it
    empty."""
    done = size = 0
    batches: list[pa.RecordBatch] = []
    for batch in _batches(part, reading, tally, teller):
        batches.append(batch)
        size += batch.nbytes
        if len(batches) * _ROWS_PER_BATCH >= _ROWS_PER_FILE or size >= _BYTES_PER_FILE:
            yield pa.Table.from_batches(batches, schema=SCHEMA)
            batches, size, done = [], 0, done + 1
    if batches or not done:
        yield pa.Table.from_batches(batches, schema=SCHEMA)


def _batches(part: CrawlFile, reading: Reading, tally: Tally, teller: Teller) -> Iterator[pa.RecordBatch]:
    rows = UrlRows()
    for page in _pages(part, reading, tally):
        for _ in rows.add_page(page):
            yield rows.take_batch(part.path)
        teller.rows(len(page.images))
    if len(rows):
        yield rows.take_batch(part.path)


def _pages(part: CrawlFile, reading: Reading, tally: Tally) -> Iterator[Page]:
    if part.kind == "html":
        yield from pages_of_html(part.path, reading, tally)
        return
    with open_crawl_file(part.path) as file:
        yield from (pages_of_wat if part.kind == "wat" else pages_of_warc)(file, reading, tally)


class UrlRows:
    """Rows of SCHEMA, gathered by column: a row costs list appends and no object of its own."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {name: [] for name in _FOUND}

    def __len__(self) -> int:
        return len(self._columns["id"])

    def add_page(self, page: Page) -> Iterator[None]:
        """A row for each distinct image URL of a page, in document order; the first way that names it counts.

        Halts whenever there are rows enough for a batch, also within the page.
        """
        page_url = page.url or None
        base = page_base(page.content.base, page_url)
        ids, urls, raws, _, alts, hows, _, _ = self._columns.values()
        of_page = (
            ("page_url", page_url and page_url[:MAX_STORED_CHARS]),
            ("crawl_offset", page.offset),
            ("crawl_date", page.date and page.date[:_MAX_DATE_CHARS]),
        )
        written: set[str] = set()
        seen: set[str] = set()
        for start in range(0, len(page.images), _IMAGES_AT_A_TIME):
            before = len(ids)
            for raw, how, alt in page.images[start : start + _IMAGES_AT_A_TIME]:
                if raw in written:
                    continue
                written.add(raw)
                name = name_url(raw, base)
                if name.id not in seen:
                    seen.add(name.id)
                    ids.append(name.id)
                    urls.append(name.url)
                    raws.append(name.raw)
                    alts.append(alt)
                    hows.append(how)
            for column, value in of_page:
                self._columns[column] += [value] * (len(ids) - before)
            if len(ids) >= _ROWS_PER_BATCH:
                yield

    def take_batch(self, crawl_file: str) -> pa.RecordBatch:
        """The rows so far as Arrow; the lists are empty afterwards."""
        rows = len(self)
        same = {"crawl_file": pa.repeat(crawl_file, rows)}
        columns = [
            pa.array(self._columns[field.name], field.type)
            if field.name in self._columns
            else same.get(field.name, pa.nulls(rows, field.type))
            for field in SCHEMA
        ]
        for column in self._columns.values():
            column.clear()
        return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def page_base(href: str | None, page_url: str | None) -> Base:
    """What a page's URLs are relative to: its <base href>, unless that is no URL, or one of script or data (HTML
    4.2.3), else the page's own URL."""
    own = plain_or_canonical(page_url) if page_url else None
    base = canonical_url(href, own) if href else None
    return Base(own if base is None or base.startswith(("data:", "javascript:")) else base)
