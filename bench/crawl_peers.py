"""What bench.extract and bench.wat share: real pages, crawl files made of them, peers in an environment of their own.

Pages are those of Debian's documentation packages (8,705 of them, 34 KB each, 6.3 images a page), fetched with apt-get
and unpacked below the folder given; any folder of .html files serves as well. The peers' code is in crawl_peer_run.py,
which runs in their environment and knows nothing of ours.
"""

import gzip
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

DEBIAN_PACKAGES = ("gimp-help-en", "kicad-doc-en", "lilypond-doc-html", "qtbase5-doc-html", "libboost1.74-doc")
_DATE = "2026-01-02T03:04:05Z"


def default_folder() -> Path:
    """Where pages and crawl files are kept when no folder is given."""
    return Path(tempfile.gettempdir()) / "bench-crawl"


def peer_python(given: Path | None, folder: Path, packages: Sequence[str]) -> Path:
    """The interpreter of the environment given, or else of one below `folder`, made where there is none."""
    if given is not None:
        return given
    python = folder / "venv" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def page_files(folder: Path, pages: Path | None) -> list[Path]:
    """HTML files below `pages`, or else of the Debian packages, in an order that mixes them and is always the same."""
    if pages is None:
        pages = folder / "pages"
        if not pages.is_dir():
            packed = folder / "debs"
            packed.mkdir(parents=True, exist_ok=True)
            subprocess.run(["apt-get", "download", *DEBIAN_PACKAGES], cwd=packed, check=True)
            for package in sorted(packed.glob("*.deb")):
                subprocess.run(["dpkg", "-x", str(package), str(pages)], check=True)
    files = sorted(path for path in pages.rglob("*.html") if path.is_file())
    random.Random(0).shuffle(files)
    if not files:
        raise FileNotFoundError(f"no .html file below {pages}: give --pages a folder of pages")
    return files


def write_records(path: Path, records: Iterator[bytes]) -> None:
    """A crawl file: one gzip member a record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for record in records:
            file.write(gzip.compress(record, 6, mtime=0))


def page_url(number: int, page: Path) -> str:
    return f"https://docs{number % 97}.example.org/{'/'.join(page.parts[-4:])}"


def record(kind: str, number: int, url: str, block: bytes, content_type: str) -> bytes:
    """One WARC record."""
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{number:012d}>\r\n"
        f"WARC-Date: {_DATE}\r\nWARC-Target-URI: {url}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def warc_records(pages: Sequence[Path]) -> Iterator[bytes]:
    for number, page in enumerate(pages):
        html = page.read_bytes()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(html)}\r\n\r\n"
        block = head.encode() + html
        yield record("response", number, page_url(number, page), block, "application/http; msgtype=response")


def wat_records(pages: Sequence[Path]) -> Iterator[bytes]:
    """As Common Crawl writes them: of each page a record about its request, one about the page, one about fetching."""
    for number, page in enumerate(pages):
        url = page_url(number, page)
        for kind, payload in (
            (
                "request",
                {"HTTP-Request-Metadata": {"Headers": {"Host": "docs.example.org", "User-Agent": "CCBot/2.0"}}},
            ),
            ("response", {"HTTP-Response-Metadata": {"HTML-Metadata": html_metadata(page.read_bytes())}}),
            ("metadata", {"WARC-Metadata-Metadata": {"Metadata-Records": [{"Name": "fetchTimeMs", "Value": "123"}]}}),
        ):
            about = {"WARC-Type": kind, "WARC-Target-URI": url, "WARC-Date": _DATE}
            content = {
                "Container": {"Filename": "sample.warc.gz", "Compressed": True, "Offset": str(number)},
                "Envelope": {"WARC-Header-Metadata": about, "Payload-Metadata": payload},
            }
            yield record("metadata", number, url, json.dumps(content).encode(), "application/json")


def html_metadata(html: bytes) -> dict[str, Any]:
    """HTML-Metadata with every link, image, script and meta of a page."""
    from selectolax.lexbor import LexborHTMLParser

    links: list[dict[str, str]] = []
    metas: list[dict[str, str]] = []
    for node in LexborHTMLParser(html).css("a[href], img[src], link[href], script[src], meta"):
        attributes = {name: value or "" for name, value in node.attributes.items()}
        if node.tag == "a":
            links.append({"path": "A@/href", "url": attributes["href"], "text": (node.text() or "")[:100]})
        elif node.tag == "img":
            alt = {"alt": attributes["alt"]} if "alt" in attributes else {}
            links.append({"path": "IMG@/src", "url": attributes["src"], **alt})
        elif node.tag == "meta":
            metas.append(attributes)
        else:
            links.append({"path": f"{(node.tag or '').upper()}@/src", "url": attributes.get("src", "")})
    return {"Head": {"Title": "page", "Metas": metas}, "Links": links}


def alternated(runs: dict[str, Callable[[], dict[str, Any]]], *, pages: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Every run `repeats` times, by turns, so that a slow minute of the machine slows all: medians of CPU seconds."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            found[name].append(run())
    return {
        name: {
            "pages_per_cpu_second": round(pages / statistics.median(one["cpu_seconds"] for one in results)),
            "cpu_seconds": sorted(round(one["cpu_seconds"], 3) for one in results),
            "rows": results[0]["rows"],
        }
        for name, results in found.items()
    }


def in_process(python: Path | str, arguments: Sequence[str]) -> dict[str, Any]:
    """What a script printed last, as JSON: each run in a process of its own."""
    done = subprocess.run([str(python), *arguments], stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
