"""Every page of a crawl is read, whatever lies between the pages, and every image URL becomes one row."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from storage.errors import StorageError
from storage.layout import Layout
from storage.manifest import Manifest
from storage.tables import read_table
from tasks.extract import Extract, extract
from tasks.web.errors import AcquireError, CrawlNotFound, EmptyCrawl, MalformedCrawl
from tests.tasks.crawls import DATE, gz, page, warc_record, wat_page

PAGES = [page(f"https://www.example/{number}", b"<img src=%d.jpg alt=x>" % number * 20) for number in range(6)]


def run(layout: Layout, *crawl: Path | str, **changes: Any) -> Manifest:
    return extract.fn(Extract(crawl=tuple(map(str, crawl)), **changes), layout)


def rows(manifest: Manifest) -> list[dict[str, Any]]:
    return [row for path in manifest.paths(".parquet") for row in read_table(path).to_pylist()]


def urls(manifest: Manifest) -> list[str]:
    return [row["url"] for row in rows(manifest)]


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.warc.gz", gz(PAGES)), ("a.warc", b"".join(PAGES)), ("one.warc.gz", gzip.compress(b"".join(PAGES), mtime=0))],
)
def test_a_row_says_which_image_from_which_page_and_where_it_stands(
    tmp_path: Path, layout: Layout, name: str, data: bytes
) -> None:
    manifest = run(layout, write(tmp_path / name, data))
    found = rows(manifest)
    assert [row["url"] for row in found] == [f"https://www.example/{number}.jpg" for number in range(6)]
    assert found[0] | {"id": "", "crawl_offset": 0} == {
        "id": "", "drop": None, "detail": None, "value": None, "other": None, "url": "https://www.example/0.jpg",
        "raw_url": "0.jpg", "page_url": "https://www.example/0", "alt": "x", "how": "img@src",
        "crawl_file": str(tmp_path / name), "crawl_offset": 0, "crawl_date": DATE,
    }  # fmt: skip
    assert (manifest.rows_in, manifest.rows_kept, manifest.facts["pages"]) == (6, 6, 6)


@pytest.mark.parametrize(("name", "codec"), [("a.warc.zst", "zstd"), ("a.warc.lz4", "lz4")])
def test_other_compressions_are_read_alike(tmp_path: Path, layout: Layout, name: str, codec: str) -> None:
    apart = b"".join(pa.compress(record, codec=codec, asbytes=True) for record in PAGES)
    in_one = pa.compress(b"".join(PAGES), codec=codec, asbytes=True)  # as `lz4 a.warc` and `zstd a.warc` write
    for packed in (apart, in_one):
        manifest = run(layout, write(tmp_path / name, packed))
        assert urls(manifest) == [f"https://www.example/{number}.jpg" for number in range(6)]
        assert manifest.facts["passed_over"] == {}


def test_a_large_crawl_file_becomes_several_tables_of_the_same_rows(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = [page(f"https://www.example/{number}/", b"<img src=a><img src=b>" * 20) for number in range(50)]
    path = write(tmp_path / "a.warc.gz", gz(pages))
    whole = run(layout, path)
    monkeypatch.setattr("tasks.extract._ROWS_PER_BATCH", 10)
    monkeypatch.setattr("tasks.extract._ROWS_PER_FILE", 30)
    cut = run(Layout(str(tmp_path / "cut")), path)
    assert rows(cut) == rows(whole)
    assert (len(whole.paths(".parquet")), len(cut.paths(".parquet"))) == (1, 4)
    assert [entry.rows for entry in cut.files] == [30, 30, 30, 10]


def test_a_page_of_many_images_is_written_in_pieces_with_the_same_rows(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    html = b"".join(b"<img src=%d><img src=%d>" % (number, number // 3) for number in range(100))
    pages = [page(f"https://www.example/{part}/", html) for part in range(2)]
    path = write(tmp_path / "a.warc.gz", gz(pages))
    whole = run(layout, path)
    monkeypatch.setattr("tasks.extract._IMAGES_AT_A_TIME", 7)
    monkeypatch.setattr("tasks.extract._ROWS_PER_BATCH", 10)
    monkeypatch.setattr("tasks.extract._BYTES_PER_FILE", 5000)
    cut = run(Layout(str(tmp_path / "cut")), path)
    assert rows(cut) == rows(whole)
    assert (whole.rows_in, len(whole.paths(".parquet"))) == (200, 1)
    assert 5 < len(cut.paths(".parquet")) < 20


def test_a_page_address_without_end_is_stored_cut_and_still_the_base(tmp_path: Path, layout: Layout) -> None:
    address = f"https://www.example/{'a' * 60_000}/"
    found = rows(run(layout, write(tmp_path / "a.warc.gz", gz([page(address, b"<img src=/x.jpg>" * 2)]))))
    assert [(row["page_url"], row["url"]) for row in found] == [(address[:4096], "https://www.example/x.jpg")]


@pytest.mark.parametrize("date", [5, ["2026"], {"a": 1}, None, "x" * 10_000])
def test_a_date_that_is_none_costs_the_date_alone(tmp_path: Path, layout: Layout, date: Any) -> None:
    record = wat_page("https://www.example/", {"Links": [{"path": "IMG@/src", "url": "a.jpg"}]})
    envelope = json.loads(record.partition(b"\r\n\r\n")[2])
    envelope["Envelope"]["WARC-Header-Metadata"]["WARC-Date"] = date
    record = warc_record("metadata", "https://www.example/", json.dumps(envelope).encode(), "application/json")
    (row,) = rows(run(layout, write(tmp_path / "a.wat.gz", gz([record]))))
    assert (row["url"], row["crawl_date"]) == ("https://www.example/a.jpg", "x" * 64 if isinstance(date, str) else None)


def test_a_base_of_script_or_data_does_not_count(tmp_path: Path, layout: Layout) -> None:
    pages = [
        page(f"https://www.example/{number}/", f"<base href='{base}'><img src=a.jpg>".encode())
        for number, base in enumerate(("javascript:x", "data:text/html,x", "http://[", "/other/", "//cdn.example/"))
    ]
    assert urls(run(layout, write(tmp_path / "a.warc.gz", gz(pages)))) == [
        "https://www.example/0/a.jpg", "https://www.example/1/a.jpg", "https://www.example/2/a.jpg",
        "https://www.example/other/a.jpg", "https://cdn.example/a.jpg",
    ]  # fmt: skip


def test_the_offset_is_where_the_record_starts(tmp_path: Path, layout: Layout) -> None:
    path = write(tmp_path / "a.warc.gz", gz(PAGES))
    row = rows(run(layout, path))[3]
    assert gzip.decompress(path.read_bytes()[row["crawl_offset"] :]).startswith(PAGES[3])


def test_only_html_that_was_found_counts(tmp_path: Path, layout: Layout) -> None:
    html = b"<img src=a.jpg>"
    records = [
        warc_record("warcinfo", "", b"software: x", "application/warc-fields"),
        warc_record("request", "https://www.example/", b"GET / HTTP/1.1\r\n\r\n", "application/http"),
        page("https://www.example/404", html, status=404),
        page("https://www.example/script.js", html, content_type="text/javascript"),
        page("https://www.example/x", html, content_type="application/xhtml+xml; charset=utf-8"),
        warc_record("resource", "<https://www.example/saved>", html, "text/html"),
    ]
    manifest = run(layout, write(tmp_path / "a.warc.gz", gz(records)))
    assert [row["page_url"] for row in rows(manifest)] == ["https://www.example/x", "https://www.example/saved"]
    assert manifest.facts["passed_over"] == {"not_status_200": 1, "not_html": 1}


def test_without_a_content_type_what_begins_as_html_is_html(tmp_path: Path, layout: Layout) -> None:
    bodies = [
        b"\n <!DOCTYPE html><img src=a>",
        b"<p><img src=b>",
        b"<?xml version='1.0'?><img src=c>",
        b"<image src=d>",
    ]
    pages = [page(f"https://www.example/{number}/", body) for number, body in enumerate(bodies)]
    bare = [
        re.sub(rb"(HTTP/1.1 200 OK\r\n)Content-Type: text/html", rb"\1X-Content-Of: a_page__x", one) for one in pages
    ]
    manifest = run(layout, write(tmp_path / "a.warc", b"".join(bare)))
    assert urls(manifest) == ["https://www.example/0/a", "https://www.example/1/b"]
    assert manifest.facts["passed_over"] == {"not_html": 2}


def test_compressed_and_chunked_pages_are_read(tmp_path: Path, layout: Layout) -> None:
    html = b"<img src=a.jpg>"
    records = [
        page("https://a.example/", gzip.compress(html), extra="Content-Encoding: gzip\r\n"),
        page("https://b.example/", b"f\r\n" + html + b"\r\n0\r\n\r\n", extra="Transfer-Encoding: chunked\r\n"),
    ]
    manifest = run(layout, write(tmp_path / "a.warc.gz", gz(records)))
    assert urls(manifest) == ["https://a.example/a.jpg", "https://b.example/a.jpg"]


def test_a_page_is_read_only_up_to_its_limit(tmp_path: Path, layout: Layout) -> None:
    bomb = gzip.compress(b"<img src=a.jpg>" + b" " * 30_000_000 + b"<img src=b.jpg>")
    path = write(tmp_path / "a.warc.gz", gz([page("https://a.example/", bomb, extra="Content-Encoding: gzip\r\n")]))
    assert urls(run(layout, path, max_page_bytes=4096)) == ["https://a.example/a.jpg"]


def damaged_member(data: bytes, number: int) -> bytes:
    start = sum(len(gzip.compress(record, mtime=0)) for record in PAGES[:number])
    return data[: start + 40] + b"\xff" * 20 + data[start + 60 :]


@pytest.mark.parametrize("number", [0, 2, 5])
def test_a_damaged_record_costs_that_record_only(tmp_path: Path, layout: Layout, number: int) -> None:
    manifest = run(layout, write(tmp_path / "a.warc.gz", damaged_member(gz(PAGES), number)))
    wanted = [f"https://www.example/{other}.jpg" for other in range(6) if other != number]
    assert urls(manifest) == wanted
    assert manifest.facts["passed_over"] == {"bad_record": 1}
    offset = sum(len(gzip.compress(record, mtime=0)) for record in PAGES[:number])
    assert next(iter(manifest.facts["bad_records"])).startswith(f"a.warc.gz@{offset}: ")


def test_a_damaged_plain_record_costs_that_record_only(tmp_path: Path, layout: Layout) -> None:
    records = [record if number != 2 else b"XXXX" + record[4:] for number, record in enumerate(PAGES)]
    manifest = run(layout, write(tmp_path / "a.warc", b"".join(records)))
    assert urls(manifest) == [f"https://www.example/{number}.jpg" for number in (0, 1, 3, 4, 5)]


@pytest.mark.parametrize("name", ["a.warc.gz", "a.warc"])
def test_a_record_that_announces_too_much_swallows_no_other(tmp_path: Path, layout: Layout, name: str) -> None:
    liar = re.sub(rb"(WARC/.*?Content-Length: )[0-9]+", rb"\g<1>1000000000000", PAGES[2], count=1, flags=re.S)
    records = [*PAGES[:2], liar, *PAGES[3:]]
    data, head = (gz(records), gz(records[:2])) if name.endswith(".gz") else (b"".join(records), b"".join(records[:2]))
    manifest = run(layout, write(tmp_path / name, data))
    assert {row["url"] for row in rows(manifest) if row["page_url"] != "https://www.example/2"} == {
        f"https://www.example/{number}.jpg" for number in (0, 1, 3, 4, 5)
    }
    assert manifest.facts["passed_over"] == {"bad_record": 1}
    (bad,) = manifest.facts["bad_records"]
    assert bad.startswith(f"{name}@{len(head)}: announces 1000000000000 bytes, has ")


def test_a_thousand_records_that_announce_too_much_do_not_cost_a_thousand_passes(
    tmp_path: Path, layout: Layout
) -> None:
    liar = re.sub(rb"(WARC/.*?Content-Length: )[0-9]+", rb"\g<1>1000000000000", PAGES[2], count=1, flags=re.S)
    manifest = run(layout, write(tmp_path / "a.warc.gz", gz([PAGES[0], *[liar] * 1000])))
    assert manifest.facts["passed_over"]["bad_record"] == 65
    assert manifest.facts["pages"] == 65


@pytest.mark.parametrize("before", [0, 1, 3])
def test_empty_members_hide_nothing(tmp_path: Path, layout: Layout, before: int) -> None:
    data = gz([*PAGES[:before], b"", b"", *PAGES[before:]])
    manifest = run(layout, write(tmp_path / "a.warc.gz", data))
    assert urls(manifest) == [f"https://www.example/{number}.jpg" for number in range(6)]
    assert manifest.facts["passed_over"] == {}


def test_a_file_cut_in_the_middle_keeps_what_came_before(tmp_path: Path, layout: Layout) -> None:
    manifest = run(layout, write(tmp_path / "a.warc.gz", gz(PAGES)[:-100]))
    assert urls(manifest) == [f"https://www.example/{number}.jpg" for number in range(5)]
    assert manifest.facts["passed_over"] == {"bad_record": 1}


def test_wat_files_give_the_images_that_their_writer_noted(tmp_path: Path, layout: Layout) -> None:
    records = [
        warc_record("warcinfo", "", b"x", "application/warc-fields"),
        wat_page(
            "https://www.example/dir/",
            {
                "Head": {
                    "Base": "/base/",
                    "Metas": [{"property": "og:image", "content": "og.jpg"}, {"name": "x", "content": "y"}],
                    "Link": [{"path": "LINK@/href", "rel": "image_src", "url": "link.jpg"}],
                },
                "Links": [
                    {"path": "IMG@/src", "url": "a.jpg", "alt": "A"},
                    {"path": "IMG@/srcset", "url": "b.jpg 1x, c.jpg 2x"},
                    {"path": "IMG@/data-src", "url": "d.jpg"},
                    {"path": "A@/href", "url": "no.html"},
                    {"path": "SOURCE@/src", "url": "no.mp4"},
                    {"url": "no"},
                ],
            },
        ),
        warc_record("metadata", "https://www.example/bad", b"{not json", "application/json"),
        wat_page("https://www.example/none", {"Links": None}),
    ]
    manifest = run(layout, write(tmp_path / "a.warc.wat.gz", gz(records)))
    assert [(row["how"], row["url"]) for row in rows(manifest)] == [
        ("meta@og:image", "https://www.example/base/og.jpg"),
        ("link@image_src", "https://www.example/base/link.jpg"),
        ("img@src", "https://www.example/base/a.jpg"),
        ("img@srcset", "https://www.example/base/c.jpg"),
        ("img@data-src", "https://www.example/base/d.jpg"),
    ]
    assert manifest.facts["passed_over"] == {"bad_record": 1}


def test_saved_html_is_read_with_an_index_of_its_urls(tmp_path: Path, layout: Layout) -> None:
    write(tmp_path / "site/a.html", b"<img src=a.jpg>")
    write(tmp_path / "site/sub/b.htm", b"<base href='https://cdn.example/'><img src=b.jpg>")
    write(tmp_path / "site/c.html", b"<img src=c.jpg><img src=https://c.example/d.jpg>")
    write(tmp_path / "site/index.csv", b"file,url,date\na.html,https://www.example/x/,2026-01-01T00:00:00Z\n")
    found = {row["url"] or row["raw_url"]: row for row in rows(run(layout, tmp_path / "site"))}
    assert set(found) == {
        "https://www.example/x/a.jpg",
        "https://cdn.example/b.jpg",
        "c.jpg",
        "https://c.example/d.jpg",
    }
    assert found["https://www.example/x/a.jpg"]["crawl_date"] == "2026-01-01T00:00:00Z"
    assert found["c.jpg"]["url"] is None


def test_one_part_per_crawl_file_in_the_order_given(tmp_path: Path, layout: Layout) -> None:
    paths = [write(tmp_path / f"{name}.warc.gz", gz(PAGES[:1])) for name in "cab"]
    listing = write(tmp_path / "more.paths.gz", gzip.compress("\n".join(map(str, paths)).encode()))
    assert [row["crawl_file"] for row in rows(run(layout, tmp_path / "*.warc.gz"))] == sorted(map(str, paths))
    assert [row["crawl_file"] for row in rows(run(layout, listing))] == list(map(str, paths))
    assert [row["crawl_file"] for row in rows(run(layout, paths[0], tmp_path / "?.warc.gz", tmp_path))] == [
        str(paths[0]), *sorted(map(str, paths[1:])),
    ]  # fmt: skip
    relative = write(tmp_path / "cc.paths", b"c.warc.gz\na.warc.gz\n")
    manifest = run(layout, relative, listing_prefix=f"{tmp_path}/")
    assert [row["crawl_file"] for row in rows(manifest)] == list(map(str, paths[:2]))


def test_an_image_named_twice_on_a_page_is_one_row_and_on_two_pages_two(tmp_path: Path, layout: Layout) -> None:
    html = b"<img src=/a.jpg><noscript><img src=/a.jpg#x></noscript>"
    records = [page(f"https://www.example/{number}", html) for number in range(2)]
    found = rows(run(layout, write(tmp_path / "a.warc.gz", gz(records))))
    assert [row["how"] for row in found] == ["img@src", "img@src"]
    assert found[0]["id"] == found[1]["id"]


def test_an_unchanged_crawl_is_reused_and_a_changed_file_is_not(tmp_path: Path, layout: Layout) -> None:
    path = write(tmp_path / "a.warc.gz", gz(PAGES))
    first = run(layout, path)
    write(path, gz(PAGES))
    assert run(layout, path).directory == first.directory
    write(path, gz(PAGES[:5]))
    assert run(layout, path).directory != first.directory


@pytest.mark.parametrize(
    ("name", "data", "error", "message"),
    [
        ("a.warc.gz", b"", MalformedCrawl, r"a\.warc\.gz is no WARC file: it is empty"),
        (
            "a.warc.gz",
            b"<html><img src=a.jpg></html>",
            MalformedCrawl,
            r"a\.warc\.gz is no WARC file: it starts with b'<html",
        ),
        ("a.warc.gz", gzip.compress(b"hello" * 100, mtime=0), MalformedCrawl, "holds no WARC record"),
        ("a.warc.gz", gz([warc_record("warcinfo", "", b"x", "text/plain")]), EmptyCrawl, "hold 0 HTML pages"),
        (
            "a.warc.gz",
            gz([page("https://a.example/", b"<p>none</p>")]),
            EmptyCrawl,
            "hold 1 HTML pages that name no image",
        ),
        ("a.paths", b"", CrawlNotFound, "lists no crawl file"),
        ("a.paths.gz", b"not gzip", MalformedCrawl, "no listing"),
        ("a.zip", b"PK", MalformedCrawl, "its name does not say what it holds"),
        ("site/index.csv", b"a,b\n1,2\n", MalformedCrawl, "is no index of pages"),
    ],
)
def test_bad_input_ends_in_one_clear_error(
    tmp_path: Path, layout: Layout, name: str, data: bytes, error: type[AcquireError], message: str
) -> None:
    path = write(tmp_path / name, data)
    if name == "site/index.csv":
        write(tmp_path / "site/a.html", b"<img src=a.jpg>")
        path = path.parent
    with pytest.raises((error, RuntimeError), match=message):
        run(layout, path)
    assert not list(Path(layout.root).rglob("manifest.json"))


@pytest.mark.parametrize("damage", [b"", b"\xff" * 30])
def test_a_listing_that_cannot_be_unpacked_says_so(tmp_path: Path, layout: Layout, damage: bytes) -> None:
    packed = gzip.compress(b"".join(b"%d.warc.gz\n" % number for number in range(1000)))
    with pytest.raises(MalformedCrawl, match="no listing of crawl files"):
        run(layout, write(tmp_path / "warc.paths.gz", packed[:40] + damage))


def test_a_listing_may_begin_with_a_byte_order_mark(tmp_path: Path, layout: Layout) -> None:
    write(tmp_path / "a.warc.gz", gz(PAGES))
    listing = write(tmp_path / "warc.paths", b"\xef\xbb\xbfa.warc.gz\r\n")
    assert len(urls(run(layout, listing, listing_prefix=str(tmp_path)))) == 6


def test_a_missing_crawl_names_itself(tmp_path: Path, layout: Layout) -> None:
    for missing in ("none.warc.gz", "*.warc.gz", "folder", "none.paths.gz"):
        with pytest.raises((CrawlNotFound, StorageError), match=missing.replace("*", r"\*").replace(".", r"\.")):
            run(layout, tmp_path / missing)
    with pytest.raises(CrawlNotFound, match="`crawl` is empty"):
        run(layout)


def test_unknown_keys_and_ways_are_refused() -> None:
    with pytest.raises(ValidationError):
        Extract(crawl=("a.warc",), unknown=1)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        Extract(crawl=("a.warc",), ways=frozenset({"background"}))  # type: ignore[arg-type]
