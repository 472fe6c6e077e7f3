"""What can go wrong on the way from a crawl to images, apart from bad data (which is a value, a drop with a reason).

AcquireError
├── CrawlNotFound     a crawl path, glob or listing that names nothing
├── MalformedCrawl    a file that is not what its name says (a WARC without one WARC record, a broken index)
├── EmptyCrawl        crawl files without a single page or image URL, or a policy that keeps none
├── BadDomainList     a block or allow list that cannot be understood
└── BadHashList       a list of known-bad files that cannot be understood

Every message says what happened, where, and what to do about it.
"""


class AcquireError(Exception):
    """Anything that the first half of the chain refuses."""


class CrawlNotFound(AcquireError):
    """A crawl path, glob or listing that names nothing."""


class MalformedCrawl(AcquireError):
    """A file that is not what its name says."""


class EmptyCrawl(AcquireError):
    """A crawl without a page, or without one image URL that may be fetched."""


class BadDomainList(AcquireError):
    """A domain list that cannot be understood."""


class BadHashList(AcquireError):
    """A list of hashes that cannot be understood."""
