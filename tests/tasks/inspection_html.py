"""A page read back as a browser reads it: its tags, links, tables and text."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

Table = list[list[str]]


@dataclass
class Read(HTMLParser):
    """What a parser finds in a page. A table is its rows of cells, the head first."""

    page: str
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._inside = ""
        self.feed(self.page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = tag
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        {"script": self.scripts, "style": self.styles}.get(self._inside, self.text).append(data)
        if self._inside in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of every such tag."""
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def links(self) -> list[str]:
        """Where the page leads."""
        return [attributes["href"] for attributes in self.all("a")]

    def curves(self, *names: str) -> list[dict[float, list[float]]]:
        """Every table with these columns, as {first column: the others}; empty cells are NaN."""
        found = [table for table in self.tables if table[0] == list(names)]
        return [{_number(row[0]): [_number(cell) for cell in row[1:]] for row in table[1:]} for table in found]


def _number(cell: str) -> float:
    return float(cell.replace(",", "")) if cell else float("nan")
