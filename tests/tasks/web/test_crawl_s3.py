"""A crawl in S3 is found, read and its rows written there, through a server on loopback that speaks the protocol."""

import gzip
from collections.abc import Iterator

import pytest

from tasks.extract import Extract, extract_part
from tasks.web.crawl_files import find_crawl_files
from tests.tasks.crawls import gz, page

s3fs = pytest.importorskip("s3fs", reason="the s3 extra is not installed")
moto_server = pytest.importorskip("moto.server", reason="moto[server,s3] is not installed")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """s3://crawl/ with two crawl files and a listing of them."""
    import boto3

    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:{1}".format(*server.get_host_and_port()))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3")
    client.create_bucket(Bucket="crawl")
    for name in "ab":
        pages = [page(f"https://{name}.example/{number}", b"<img src=%d.jpg>" % number) for number in range(20)]
        client.put_object(Bucket="crawl", Key=f"data/{name}.warc.gz", Body=gz(pages))
    client.put_object(Bucket="crawl", Key="warc.paths.gz", Body=gzip.compress(b"data/b.warc.gz\ndata/a.warc.gz\n"))
    s3fs.S3FileSystem.clear_instance_cache()  # one of an earlier test knows that test's server
    yield "s3://crawl"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.mark.parametrize(
    ("crawl", "names"), [("data/a.warc.gz", "a"), ("data/*.warc.gz", "ab"), ("warc.paths.gz", "ba")]
)
def test_a_crawl_in_s3_is_read(bucket: str, crawl: str, names: str) -> None:
    config = Extract(crawl=(f"{bucket}/{crawl}",), listing_prefix=f"{bucket}/")
    files, key = find_crawl_files(config.crawl, config.listing_prefix)
    assert [file.path for file in files] == [f"{bucket}/data/{name}.warc.gz" for name in names]
    assert key
    outcomes = [extract_part(file, f"{bucket}/out/{number}", config=config) for number, file in enumerate(files)]
    assert [outcome.rows_in for outcome in outcomes] == [20] * len(names)
