"""What every kind of crawl file yields: a page with the images it names, and a tally of what was passed over."""

from collections import Counter
from dataclasses import dataclass, field

from tasks.web.html_images import FoundImage, PageImages, Srcset, Way, images_of_page

_MAX_NOTED = 100


@dataclass(frozen=True)
class Page:
    """One page: its URL, when it was crawled (ISO 8601, UTC), where its record starts, and the images it names."""

    url: str
    date: str | None
    offset: int
    content: PageImages

    @property
    def images(self) -> list[FoundImage]:
        return self.content.images


@dataclass(frozen=True)
class Reading:
    """How pages are read. `max_page_bytes` bounds the decoded page: what lies beyond is not looked at."""

    srcset: Srcset
    ways: frozenset[Way]
    max_page_bytes: int

    def images(self, body: bytes, charset: str | None) -> PageImages:
        return images_of_page(body, charset, srcset=self.srcset, ways=self.ways)


@dataclass
class Tally:
    """Counts of one crawl file: pages, records passed over by reason, and where the bad ones start."""

    file: str
    pages: int = 0
    passed_over: Counter[str] = field(default_factory=Counter)
    bad_records: dict[str, int] = field(default_factory=dict)  # "file@offset: what" → 1, the first hundred

    def page(self, page: Page) -> Page:
        """Count a page that was read, and whether it had to be cut."""
        self.pages += 1
        if not page.content.whole:
            self.passed_over["rest_of_costly_page"] += 1
        return page

    def bad(self, offset: int, what: str) -> None:
        """Note a record that cannot be read; the file goes on after it."""
        self.passed_over["bad_record"] += 1
        if len(self.bad_records) < _MAX_NOTED:
            self.bad_records[f"{self.file}@{offset}: {what}"] = 1
