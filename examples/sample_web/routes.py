"""What the server answers, as files: one blob of bodies and one table of routes into it."""

import json
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from examples.sample_web.cases import Answer
from examples.sample_web.hosts import RESERVED, ROBOTS, TDMREP, ascii_name
from examples.sample_web.pages import Page
from examples.sample_web.plan import Resource
from examples.sample_web.recipes import Made

_BODIES, _ROUTES = "bodies.bin", "routes.json"


@dataclass(frozen=True)
class Route:
    """One served URL: where its body lies in the blob, its type, and how it is answered."""

    offset: int
    num_bytes: int
    mime: str
    manner: str
    status: int
    headers: tuple[tuple[str, str], ...]


class RouteWriter:
    """Collects bodies and routes; equal bodies are stored once."""

    def __init__(self) -> None:
        self._bodies = bytearray()
        self._places: dict[bytes, int] = {}
        self.routes: dict[str, Route] = {}

    def add(self, host: str, path: str, body: bytes, mime: str, answer: Answer) -> None:
        """Answer for http://host/path; `path` holds the query too."""
        offset = self._places.setdefault(body, len(self._bodies))
        if offset == len(self._bodies):
            self._bodies += body
        route = Route(offset, len(body), mime, answer.manner, answer.status, answer.headers)
        self.routes[f"{host}{path}"] = route

    def add_resource(self, resource: Resource, made: Made) -> None:
        """The routes of one planned URL: itself, and where it redirects to if that is planned too."""
        parts = urlsplit(resource.url)
        host, path = parts.netloc, f"{parts.path}?{parts.query}" if parts.query else parts.path
        answer = resource.answer
        location = dict(answer.headers).get("Location")
        if answer.manner == "redirect" and location in ("self", "pair", "moved"):
            target = path if location == "self" else f"/moved{path}"
            answer = Answer("redirect", answer.status, (("Location", target),))
            if location == "pair":
                back = Answer("redirect", 301, (("Location", f"http://{host}{path}"),))
                self.add(host, target, b"", made.mime, back)
            elif location == "moved":
                self.add(host, target, made.data, made.mime, Answer())
        body = b"" if answer.manner == "redirect" else made.data
        self.add(host, path, body, made.mime, answer)

    def add_site_files(self, pages: Iterable[Page], hosts: Iterable[str]) -> None:
        """The pages, a front page of links on each host, robots.txt and tdmrep.json."""
        by_host: dict[str, list[Page]] = {host: [] for host in hosts}
        for page in pages:
            parts = urlsplit(page.url)
            by_host[parts.netloc].append(page)
            self.add(parts.netloc, parts.path, page.body, f"text/html; charset={page.charset}", Answer())
        for host, mine in by_host.items():
            items = "".join(f'<li><a href="{page.url}">{page.title}</a></li>\n' for page in mine)
            front = f'<!DOCTYPE html>\n<meta charset="utf-8">\n<title>{host}</title>\n<ul>\n{items}</ul>\n'
            self.add(host, "/", front.encode(), "text/html; charset=utf-8", Answer())
        for host, rules in ROBOTS.items():
            self.add(ascii_name(host), "/robots.txt", rules.encode(), "text/plain; charset=utf-8", Answer())
        self.add(RESERVED, "/.well-known/tdmrep.json", TDMREP.encode(), "application/json", Answer())

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / _BODIES).write_bytes(self._bodies)
        table = {key: asdict(route) for key, route in sorted(self.routes.items())}
        (folder / _ROUTES).write_text(json.dumps(table, indent=0))


def read_routes(folder: Path) -> tuple[Mapping[str, Route], memoryview]:
    """The routes by "host/path?query", and the blob (mapped, not read)."""
    table = json.loads((folder / _ROUTES).read_text())
    routes = {
        key: Route(**{**route, "headers": tuple((name, value) for name, value in route["headers"])})
        for key, route in table.items()
    }
    with (folder / _BODIES).open("rb") as file:
        return routes, memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
