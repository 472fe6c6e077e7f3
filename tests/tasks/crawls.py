"""Small crawl files, made byte by byte."""

import gzip
import json
from collections.abc import Iterable

DATE = "2026-01-02T03:04:05Z"


def warc_record(kind: str, url: str, block: bytes, content_type: str) -> bytes:
    """One WARC record."""
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000000>\r\n"
        f"WARC-Date: {DATE}\r\nWARC-Target-URI: {url}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def page(url: str, html: bytes, *, status: int = 200, content_type: str = "text/html", extra: str = "") -> bytes:
    """A response record with a page."""
    http = f"HTTP/1.1 {status} OK\r\nContent-Type: {content_type}\r\n{extra}Content-Length: {len(html)}\r\n\r\n"
    return warc_record("response", url, http.encode() + html, "application/http; msgtype=response")


def wat_page(url: str, html: dict[str, object]) -> bytes:
    """A metadata record as Common Crawl's WAT files have it."""
    envelope = {
        "WARC-Header-Metadata": {"WARC-Type": "response", "WARC-Target-URI": url, "WARC-Date": DATE},
        "Payload-Metadata": {"HTTP-Response-Metadata": {"HTML-Metadata": html}},
    }
    return warc_record("metadata", url, json.dumps({"Envelope": envelope}).encode(), "application/json")


def gz(records: Iterable[bytes]) -> bytes:
    """Records compressed one member each."""
    return b"".join(gzip.compress(record, mtime=0) for record in records)
