"""Pieces of an inspection page: plain values in, HTML out. Every string is escaped here, whoever it came from.

Nothing on a page leads to the web: addresses are text, links go to the other pages only.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.inspection.style import POLICY, SCRIPT, STYLE

_MOST_CHARS = 300


@dataclass(frozen=True)
class Thumbnail:
    """One image as pages show it. `uri` is data; None where the picture is not shown, and `why` says why."""

    id: str
    address: str
    width: int
    height: int
    uri: str | None
    why: str = ""


@dataclass(frozen=True)
class Shot:
    """A thumbnail in its place: what it is to the image beside it, and what stands below it."""

    image: Thumbnail
    role: str
    caption: str = ""
    quiet: bool = False
    """The role is spoken but not written: where the place says it."""
    at: tuple[str, float] | None = None
    """The number that brings it in (its data attribute) and from where on."""
    out: bool = False
    hits: str = ""
    """What else it is a neighbour of, in a few characters; `hits_spoken` in words."""
    hits_spoken: str = ""


@dataclass(frozen=True)
class Band:
    """Shots under one label. It counts as in (or out) with its first shot."""

    label: str
    shots: Sequence[Shot]


@dataclass(frozen=True)
class PageLink:
    """A page of the set, and what its link says."""

    file: str
    name: str


@dataclass(frozen=True)
class Frame:
    """What stands around a page: the run's name, and the pages before and after it."""

    run: str
    before: PageLink | None = None
    after: PageLink | None = None
    home: PageLink | None = field(default_factory=lambda: PageLink("index.html", "All pages"))


def text(value: object, most: int = _MOST_CHARS) -> str:
    """Any value as harmless text: escaped, cut to `most` characters, without the characters that reorder a line."""
    plain = "".join(ch if ch.isprintable() else "\ufffd" for ch in str(value))
    return html.escape(plain if len(plain) <= most else plain[: most - 1] + "…", quote=True)


def number(value: float | None) -> str:
    """A count with separators, a fraction with three digits, nothing for None and NaN."""
    if value is None or value != value:
        return ""
    return f"{value:,.3f}" if isinstance(value, float) and not value.is_integer() else f"{int(value):,}"


def slug(name: str) -> str:
    """A part of a file name: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "unnamed"


def page(title: str, body: Iterable[str], frame: Frame) -> str:
    """A whole document: no remote part, no inline handler, one style and one script, both named by their hash."""
    links = [_nav_link(frame.home, ""), _nav_link(frame.before, "← "), _nav_link(frame.after, "", " →")]
    return (
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n"
        f'<meta http-equiv=Content-Security-Policy content="{POLICY}">\n'
        "<meta name=viewport content='width=device-width,initial-scale=1'>\n"
        "<meta name=referrer content=no-referrer>\n"
        f"<title>{text(title)} · {text(frame.run)}</title>\n<style>{STYLE}</style>\n"
        f"<nav aria-label='Pages of this run'>{''.join(links)}</nav>\n"
        f"<main>\n<h1>{text(title)}</h1>\n" + "\n".join(body) + f"\n</main>\n<script>{SCRIPT}</script>\n</html>\n"
    )


def _nav_link(link: PageLink | None, before: str, after: str = "") -> str:
    return f"<a href='{text(link.file)}'>{before}{text(link.name)}{after}</a>" if link else ""


def section(title: str, *parts: str, note: str = "", small: str = "") -> str:
    """A headed part of a page; `note` says how to read it."""
    quiet = f" <small>{text(small)}</small>" if small else ""
    lead = f"<p class=soft>{text(note, 2000)}</p>" if note else ""
    return f"<section><h2>{text(title)}{quiet}</h2>{lead}{''.join(parts)}</section>"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a table, with the columns that any of them has; numbers stand right. Values may be `Raw`."""
    if not rows:
        return "<p class=soft>Nothing to show.</p>"
    columns = sorted(dict.fromkeys(name for row in rows for name in row), key=_column_order)
    right = {name for name in columns if all(_is_number(row.get(name)) for row in rows)}
    head = "".join(
        f"<th scope=col{' class=n' if name in right else ''}>{text(name.replace('_', ' '))}</th>" for name in columns
    )
    lines = ("".join(_cell(row.get(name), right=name in right) for name in columns) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<div class=scroll tabindex=0><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


_FIRST = (
    "source",
    "mode",
    "images",
    "nominal",
    "retrieved",
    "actual",
    "unique",
    "collisions",
    "nominal_final",
    "final",
)


def _column_order(name: str) -> int:
    """Known columns as the paper's table has them (manifests sort their keys), others after them as they come."""
    return _FIRST.index(name) if name in _FIRST else len(_FIRST)


class Raw(str):
    """HTML that these functions made, for a cell of a table."""


def link_to(link: PageLink) -> Raw:
    """A link to another page of the set."""
    return Raw(f"<a href='{text(link.file)}'>{text(link.name)}</a>")


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _cell(value: object, *, right: bool) -> str:
    if isinstance(value, Raw):
        return f"<td>{value}</td>"
    if right:
        return f"<td class=n>{number(value)}</td>"  # type: ignore[arg-type]
    return f"<td>{text('' if value is None else value)}</td>"


def figure(shot: Shot, *, key: bool = False) -> str:
    """One image with what stands below it; where there is no picture, a box that says why."""
    image = shot.image
    spoken = ", ".join(filter(None, [shot.role, shot.caption, shot.hits_spoken])) + f": {_end_of(image.address)}"
    if image.uri is None:
        picture = f"<div class=gone role=img aria-label='{text(spoken)}'>{text(image.why)}</div>"
    else:
        picture = (
            f"<img decoding=async width={image.width} height={image.height} alt='{text(spoken)}' "
            f"title='{text(image.address)}' src='{_data(image.uri)}'>"
        )
    hits = f" <span class=hit title='{text(shot.hits_spoken)}'>{text(shot.hits)}</span>" if shot.hits else ""
    caption = f"<b>{text(shot.caption)}</b>" if shot.caption else "" if shot.quiet else text(shot.role)
    classes = _classes("shot", key=key, out=shot.out)
    return f"<figure class='{classes}'{_at(shot)}>{picture}<figcaption>{caption}{hits}</figcaption></figure>"


def _data(uri: str) -> str:
    if not uri.startswith("data:image/jpeg;base64,"):
        raise ValueError(f"a picture on a page is a JPEG's data URI, not {uri[:40]!r}")
    return html.escape(uri, quote=True)


def _end_of(address: str) -> str:
    return address if len(address) <= 60 else "…" + address[-59:]


def row(*beside: str, key: Shot | None = None) -> str:
    """One line of a page: the image that it is about, if there is one, and beside it what belongs to it."""
    return f"<div class=row>{figure(key, key=True) if key else ''}<div class=beside>{''.join(beside)}</div></div>"


def strip(bands: Sequence[Band], *, label: str) -> str:
    """Bands side by side; the strip scrolls on its own, by keyboard too."""
    inside = "".join(_band(band) for band in bands if band.shots)
    return f"<div class=scroll tabindex=0 role=group aria-label='{text(label)}'><div class=strip>{inside}</div></div>"


def _band(band: Band) -> str:
    first = band.shots[0]
    shots = "".join(figure(shot) for shot in band.shots)
    classes = _classes("band", step=first.at is not None, out=first.out)
    return (
        f"<div class='{classes}'{_at(first)}><div class=label>{text(band.label)}</div>"
        f"<div class=shots>{shots}</div></div>"
    )


def _at(shot: Shot) -> str:
    return f" data-{shot.at[0]}='{shot.at[1]:g}'" if shot.at else ""


def _classes(*names: str, **when: bool) -> str:
    return " ".join([*names, *(name for name, here in when.items() if here)])


def pair(left: Shot, right: Shot, *, similarity: float, threshold: float, attribute: str, note: str = "") -> str:
    """Two images and their similarity, framed by which side of the threshold they fall on."""
    out = "" if similarity > threshold else " out"
    return (
        f"<div class='pair{out}' data-{attribute}='{similarity:.6f}'>"
        f"<div class=label><b>{similarity:.3f}</b><span>{text(note)} <span class=verdict></span></span></div>"
        f"<div class=shots>{figure(left)}{figure(right)}</div></div>"
    )


def follower(attribute: str, name: str) -> str:
    """A second slider, that script shows and that stays in sight beside the images: it moves with its panel's own."""
    return (
        f"<label class='tune follow' data-follow='{attribute}'><span>{text(name)}</span><input type=range step=1>"
        "<output>move to try other values</output></label>"
    )


def addresses(shots: Sequence[Shot]) -> str:
    """Ids and addresses as text, folded away: what `curate-lvd why` is asked with."""
    if not shots:
        return ""
    lines = (
        f"<li>{text(shot.role)} <code>{text(shot.image.id, 64)}</code> {text(shot.image.address)}</li>"
        for shot in shots
    )
    return f"<details><summary>Ids and addresses</summary><ol>{''.join(lines)}</ol></details>"
