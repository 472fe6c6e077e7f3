"""The peers of bench.extract and bench.wat: run in an environment of their own, print {rows, cpu_seconds} as JSON.

python crawl_peer_run.py fastwarc_selectolax|warcio_lxml|cc2dataset PATH
"""

import json
import sys
import time


def fastwarc_selectolax(path: str) -> int:
    """The least that one can do: of pages with `<img`, img@src as written. No URL is resolved, no row made."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType
    from selectolax.lexbor import LexborHTMLParser

    count = 0
    with open(path, "rb") as file:
        for record in ArchiveIterator(file, record_types=WarcRecordType.response, parse_http=True):
            body = record.reader.read()
            if b"<img" in body:
                sources = [node.attributes.get("src") for node in LexborHTMLParser(body).css("img")]
                count += len([source for source in sources if source])
    return count


def warcio_lxml(path: str) -> int:
    """What most scripts do."""
    from lxml import html
    from warcio.archiveiterator import ArchiveIterator

    count = 0
    with open(path, "rb") as file:
        for record in ArchiveIterator(file):
            if record.rec_type == "response":
                body = record.content_stream().read()
                if body.strip():
                    count += len(html.fromstring(body).xpath("//img/@src"))
    return count


def cc2dataset(path: str) -> int:
    """cc2dataset's own function, without its Spark: image URLs, also those without alternative text."""
    from cc2dataset.main import process_wat
    from loguru import logger

    logger.remove()
    return sum(1 for _ in process_wat(path, "image_only"))


if __name__ == "__main__":
    function = {"fastwarc_selectolax": fastwarc_selectolax, "warcio_lxml": warcio_lxml, "cc2dataset": cc2dataset}
    started = time.process_time()
    rows = function[sys.argv[1]](sys.argv[2])
    # Imports are the functions' own: a second run has them warm, and is the one that counts.
    started = time.process_time()
    rows = function[sys.argv[1]](sys.argv[2])
    print(json.dumps({"rows": rows, "cpu_seconds": time.process_time() - started}))
