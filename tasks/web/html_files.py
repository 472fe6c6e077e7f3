"""Saved HTML: one .html file, or a folder of them with an index that says which URL each was."""

import csv
import io
import posixpath
from collections.abc import Iterator

from storage.filesystem import exists, join, list_files, open_read, read_bytes
from tasks.web.errors import MalformedCrawl
from tasks.web.pages import Page, Reading, Tally

INDEX = "index.csv"
_SUFFIXES = (".html", ".htm", ".xhtml")


def is_html_file(path: str) -> bool:
    """True when the name says HTML."""
    return path.lower().endswith(_SUFFIXES)


def html_files(folder: str) -> list[str]:
    """HTML files below a folder, sorted."""
    return [path for path in list_files(join(folder, "**"), only_files=True) if is_html_file(path)]


def pages_of_html(path: str, reading: Reading, tally: Tally) -> Iterator[Page]:
    """The pages of a folder, in order of their names, or the one page of a file.

    `index.csv` beside the files (columns file, url and, if known, date) gives each page's URL, against which relative
    image URLs are resolved. A page that it does not name has none: there only absolute URLs and <base> count.
    """
    single = is_html_file(path)
    folder = posixpath.dirname(path) if single else path
    index = _read_index(join(folder, INDEX) if folder else INDEX)
    for file in [path] if single else html_files(path):
        with open_read(file) as opened:
            body = opened.read(reading.max_page_bytes)
        url, date = index.get(file.removeprefix(folder).lstrip("/"), ("", None))
        yield tally.page(Page(url, date, 0, reading.images(body, None)))


def _read_index(path: str) -> dict[str, tuple[str, str | None]]:
    if not exists(path):
        return {}
    try:
        rows = list(csv.DictReader(io.StringIO(read_bytes(path).decode("utf-8-sig"))))
        return {row["file"]: (row["url"], row.get("date") or None) for row in rows}
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise MalformedCrawl(
            f"{path} is no index of pages ({type(error).__name__}: {error}). It must be UTF-8 CSV with a header and "
            "the columns file,url (and date, if known)."
        ) from error
