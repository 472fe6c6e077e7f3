"""`crawl` as a person writes it (paths, globs, folders, URLs, listings) → the files to read, in order."""

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from storage.filesystem import content_key, exists, is_url, join, list_files, read_bytes
from tasks.web.errors import CrawlNotFound, MalformedCrawl
from tasks.web.html_files import INDEX, html_files, is_html_file

Kind = Literal["warc", "wat", "html"]
_COMPRESSIONS = (".gz", ".zst", ".lz4", "")
_LISTING = (".paths", ".paths.gz")


@dataclass(frozen=True)
class CrawlFile:
    """One unit of reading: a WARC or WAT file, an HTML file, or a folder of HTML files."""

    path: str
    kind: Kind


def find_crawl_files(crawl: Sequence[str], listing_prefix: str) -> tuple[list[CrawlFile], str]:
    """Files that `crawl` names, each once, in its order, and a key that changes when their contents do.

    Lines of a listing (*.paths, *.paths.gz, as Common Crawl publishes) without a scheme or leading slash are put after
    `listing_prefix`. Listed files are not opened here (there may be 100,000); all others must exist. Raises
    CrawlNotFound, MalformedCrawl or UnreachableStorage.
    """
    if not crawl:
        raise CrawlNotFound("`crawl` is empty. Name WARC, WAT or HTML files, a folder, a glob or a *.paths listing.")
    files: dict[str, CrawlFile] = {}
    keys: list[str] = []
    for entry in crawl:
        listed = _listing(entry, listing_prefix) if entry.endswith(_LISTING) else None
        for file in listed if listed is not None else _found(entry):
            if file.path not in files:
                files[file.path] = file
                keys += [] if listed is not None else _content_keys(file)
        keys += [content_key(entry)] if listed is not None else []
    return list(files.values()), " ".join(keys)


def _kind(path: str) -> Kind | None:
    lower = path.lower()
    if is_html_file(lower):
        return "html"
    for compression in _COMPRESSIONS:
        stem = lower.removesuffix(compression)
        if stem.endswith(".warc"):
            return "warc"
        if stem.endswith(".wat"):
            return "wat"
    return None


def _crawl_file(path: str) -> CrawlFile:
    kind = _kind(path.split("?")[0] if is_url(path) else path)
    if kind is None:
        raise MalformedCrawl(
            f"{path}: its name does not say what it holds. Wanted: .warc or .wat (plain, .gz, .zst, .lz4), .html, "
            "a folder of these, or a .paths listing."
        )
    return CrawlFile(path, kind)


def _is_glob(entry: str) -> bool:
    if is_url(entry):
        return any(wild in entry for wild in "*[")  # in a URL, ? starts the query
    return any(wild in entry for wild in "*?[") and not exists(entry)  # what is there may be called so


def _found(entry: str) -> list[CrawlFile]:
    if _is_glob(entry) or (not is_url(entry) and not _kind(entry)):
        return _matches(entry)
    if not exists(entry):
        raise CrawlNotFound(f"no crawl file at {entry}. Correct `crawl`, or fetch the file.")
    return [_crawl_file(entry)]


def _matches(entry: str) -> list[CrawlFile]:
    paths = list_files(entry)
    if not _is_glob(entry):
        if not exists(entry):
            raise CrawlNotFound(f"no crawl file or folder at {entry}. Correct `crawl`, or fetch the files.")
        inside = [path for path in list_files(join(entry, "*")) if _kind(path) in ("warc", "wat")]
        if not inside and html_files(entry):
            return [CrawlFile(entry.rstrip("/"), "html")]
        paths = inside or paths
    if not paths:
        raise CrawlNotFound(f"nothing matches {entry}. Correct `crawl`, or fetch the files.")
    return [_crawl_file(path) for path in paths]


def _listing(path: str, prefix: str) -> list[CrawlFile]:
    data = read_bytes(path)
    try:
        lines = (gzip.decompress(data) if path.endswith(".gz") else data).decode("utf-8-sig").split()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise MalformedCrawl(f"{path} is no listing of crawl files: {error}. Fetch it again.") from error
    if not lines:
        raise CrawlNotFound(f"{path} lists no crawl file. Fetch it again, or remove it from `crawl`.")
    return [_crawl_file(line if is_url(line) else join(prefix, line)) for line in lines]


def _content_keys(file: CrawlFile) -> list[str]:
    if file.kind == "html" and not is_html_file(file.path):
        index = join(file.path, INDEX)
        return [content_key(path) for path in [*([index] if exists(index) else []), *html_files(file.path)]]
    return [content_key(file.path)]
