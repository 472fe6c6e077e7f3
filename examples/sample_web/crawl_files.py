"""The crawl of the pages as files: WARC and WAT in one gzip member per record, and the pages by themselves."""

import csv
import gzip
import hashlib
import io
import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from examples.sample_web.pages import Page

DATE = "2026-05-17T08:30:00Z"
_SOFTWARE = "software: sample_web/1\r\nformat: WARC File Format 1.1\r\nisPartOf: SAMPLE-2026-20\r\n"


def _member(data: bytes) -> bytes:
    """One gzip member with no time and no name in it."""
    return gzip.compress(data, 6, mtime=0)


def _record(kind: str, headers: Sequence[tuple[str, str]], block: bytes, *, name: str) -> bytes:
    """A WARC/1.1 record; its id is made from its name, so that it is the same on every day."""
    identity = uuid.UUID(bytes=hashlib.sha256(f"{kind} {name}".encode()).digest()[:16], version=4)
    lines = [
        "WARC/1.1",
        f"WARC-Type: {kind}",
        f"WARC-Record-ID: <urn:uuid:{identity}>",
        f"WARC-Date: {DATE}",
        *(f"{key}: {value}" for key, value in headers),
        f"Content-Length: {len(block)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + block + b"\r\n\r\n"


def _info(name: str) -> bytes:
    headers = (("WARC-Filename", name), ("Content-Type", "application/warc-fields"))
    return _record("warcinfo", headers, _SOFTWARE.encode(), name=name)


def _response(page: Page) -> bytes:
    http = (
        f"HTTP/1.1 200 OK\r\nDate: Sun, 17 May 2026 08:30:00 GMT\r\nContent-Type: text/html; charset={page.charset}\r\n"
        f"Content-Length: {len(page.body)}\r\n\r\n"
    )
    headers = (
        ("WARC-Target-URI", page.url),
        ("WARC-IP-Address", "203.0.113.80"),
        ("Content-Type", "application/http; msgtype=response"),
    )
    return _record("response", headers, http.encode() + page.body, name=page.url)


def _metadata(page: Page) -> bytes:
    """The record of Common Crawl's WAT for one page: JSON of headers, head and links, nothing of the text."""
    head: dict[str, object] = {"Title": page.title}
    if page.base:
        head["Base"] = page.base
    if page.images:
        head["Metas"] = [{"property": "og:image", "content": url} for url in page.images]
    links = [{"path": link.path, "url": link.url, **({"alt": link.alt} if link.alt else {})} for link in page.links]
    response = {
        "Response-Message": {"Status": "200", "Version": "HTTP/1.1", "Reason": "OK"},
        "Headers": {"Content-Type": f"text/html; charset={page.charset}"},
        "HTML-Metadata": {"Head": head, "Links": links},
    }
    envelope = {
        "Container": {"Compressed": True, "Gzip-Metadata": {"Footer-Length": "8"}},
        "Envelope": {
            "Format": "WARC",
            "WARC-Header-Metadata": {"WARC-Type": "response", "WARC-Target-URI": page.url, "WARC-Date": DATE},
            "Payload-Metadata": {
                "Actual-Content-Type": "application/http; msgtype=response",
                "HTTP-Response-Metadata": response,
            },
        },
    }
    body = json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode()
    headers = (("WARC-Target-URI", page.url), ("Content-Type", "application/json"))
    return _record("metadata", headers, body, name=page.url)


def _robots_record(page: Page) -> bytes:
    """A response that is no page, as every real WARC holds some."""
    url = f"http://{urlsplit(page.url).netloc}/robots.txt"
    http = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\nnot found\n"
    headers = (("WARC-Target-URI", url), ("Content-Type", "application/http; msgtype=response"))
    return _record("response", headers, http, name=url + page.url)


def damaged_member(page: Page) -> bytes:
    """The record of a page with its compressed bytes overwritten in the middle: a disk error."""
    member = bytearray(_member(_response(page)))
    middle = len(member) // 2
    member[middle : middle + 40] = bytes(255 - byte for byte in member[middle : middle + 40])
    return bytes(member)


def write_crawl(folder: Path, pages: Sequence[Page], lost: Page, *, files: int = 3) -> None:
    """crawl/sample-0000N.warc.gz and .wat.gz, the pages dealt out in turn.

    The page `lost` stands only in a damaged record, in the middle of the second file of each kind.
    """
    folder.mkdir(parents=True)
    for number in range(files):
        mine = pages[number::files]
        damaged = {len(mine) // 2} if number == 1 else set()
        warc, wat = [_member(_info(f"sample-{number:05d}.warc.gz"))], [_member(_info(f"sample-{number:05d}.wat.gz"))]
        for position, page in enumerate(mine):
            if position in damaged:
                warc.append(damaged_member(lost))
                wat.append(_member(_metadata(lost).replace(b'"Envelope":{', b'"Envelope":[', 1)))
            warc += [_member(_robots_record(page)), _member(_response(page))]
            wat.append(_member(_metadata(page)))
        (folder / f"sample-{number:05d}.warc.gz").write_bytes(b"".join(warc))
        (folder / f"sample-{number:05d}.wat.gz").write_bytes(b"".join(wat))


def write_pages(folder: Path, pages: Sequence[Page]) -> None:
    """pages/000.html and so on, and index.csv with the URL and the time of each."""
    folder.mkdir(parents=True)
    index = io.StringIO()
    rows = csv.writer(index, lineterminator="\n")
    rows.writerow(("file", "url", "date"))
    for number, page in enumerate(pages):
        name = f"{number:04d}.html"
        (folder / name).write_bytes(page.body)
        rows.writerow((name, page.url, DATE))
    (folder / "index.csv").write_text(index.getvalue())
