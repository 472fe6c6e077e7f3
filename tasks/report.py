"""What a person reads after a run: the funnel, and one static HTML page with pictures that opens from disk."""

import html
import json
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from storage.filesystem import exists, read_bytes, write_bytes
from storage.layout import Layout
from storage.manifest import Manifest
from storage.tables import read_table
from tasks.contact_sheet import Picture, contact_sheet, picture_of
from tasks.trace import trace

_PAIRS = 10
_PAIR_STAGES = ("hash_dedup", "self_dedup", "relative_dedup", "retrieve")


@dataclass(frozen=True)
class FunnelRow:
    """One stage of the funnel."""

    stage: str
    rows_in: int
    rows_kept: int
    drops: Mapping[str, int]
    seconds: float

    @property
    def rate(self) -> float:
        """Records per second of the run that computed the stage."""
        return self.rows_in / self.seconds if self.seconds else 0.0


def funnel(chain: Mapping[str, Manifest]) -> list[FunnelRow]:
    """The run's stages in order, with what each kept and dropped; pages to look at are no images."""
    stages = (manifest for manifest in chain.values() if manifest.stage != "inspect")
    return [FunnelRow(m.stage, m.rows_in, m.rows_kept, m.drops, m.seconds) for m in stages]


def print_funnel(rows: Iterable[FunnelRow]) -> None:
    """The funnel as a table in the terminal; seconds are those of the run that computed the stage."""
    table = Table(title="Funnel", title_justify="left", expand=False)
    for name, justify in [("stage", "left"), ("in", "right"), ("kept", "right"), ("drops by reason", "left")]:
        is_name = name == "stage"
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold", no_wrap=is_name)
    table.add_column("seconds", justify="right")
    table.add_column("images/s", justify="right")
    for row in rows:
        drops = ", ".join(f"{reason} {count:,}" for reason, count in sorted(row.drops.items(), key=lambda d: -d[1]))
        counts = (f"{row.rows_in:,}", f"{row.rows_kept:,}")
        table.add_row(row.stage, *counts, drops, f"{row.seconds:.1f}", f"{row.rate:,.0f}")
    Console().print(table)


def write_report(chain: Mapping[str, Manifest], layout: Layout, folder: str) -> str:
    """report.html in `folder`: the funnel, every stage with pictures, copies beside their keepers, training curves.

    Reads a few hundred images. Text from the web is escaped; the page loads nothing and runs no script.
    """
    sections = [
        *_look_links(chain, folder),
        _funnel_section(funnel(chain)),
        *(_stage_section(m, chain, layout) for m in chain.values()),
    ]
    page = _PAGE.format(title=html.escape(f"Curation run in {layout.root}"), body="\n".join(sections))
    path = f"{folder}/report.html"
    write_bytes(path, page.encode())
    return path


def _look_links(chain: Mapping[str, Manifest], folder: str) -> list[str]:
    """Where the run's inspection pages are, seen from its folder."""
    pages = (manifest.file("index.html") for manifest in chain.values() if manifest.stage == "inspect")
    links = (html.escape(posixpath.relpath(path, folder), quote=True) for path in pages)
    return [f"<p><a href='{link}'>Look: neighbours, clusters, borderline pairs</a></p>" for link in links]


def _funnel_section(rows: Sequence[FunnelRow]) -> str:
    most = max((row.rows_in for row in rows), default=1) or 1
    lines = [
        f"<tr><td><a href='#{row.stage}'>{row.stage}</a></td><td class=n>{row.rows_in:,}</td>"
        f"<td class=n>{row.rows_kept:,}</td>"
        f"<td><div class=bar style='width:{300 * row.rows_kept / most:.0f}px'></div></td>"
        f"<td>{html.escape(', '.join(f'{reason} {count:,}' for reason, count in row.drops.items()))}</td>"
        f"<td class=n>{row.seconds:.1f}</td><td class=n>{row.rate:,.0f}</td></tr>"
        for row in rows
    ]
    head = "<tr><th>stage<th>in<th>kept<th><th>drops by reason<th>seconds<th>images/s</tr>"
    return f"<h1>Funnel</h1><table>{head}{''.join(lines)}</table>"


def _stage_section(manifest: Manifest, chain: Mapping[str, Manifest], layout: Layout) -> str:
    facts = {**manifest.facts, "fingerprint": manifest.fingerprint[:16], "manifest": manifest.path}
    parts = [f"<h2 id='{manifest.stage}'>{manifest.stage}</h2>", _facts(facts)]
    parts += [_strip(kind, pictures) for kind, pictures in contact_sheet(manifest, layout).items()]
    if manifest.stage in _PAIR_STAGES:
        parts.append(_pairs(manifest, chain, layout))
    if manifest.stage == "pretrain" and exists(f"{manifest.directory}/metrics.jsonl"):
        parts.append(_curves(read_bytes(f"{manifest.directory}/metrics.jsonl")))
    return "\n".join(parts)


def _facts(facts: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><td>{html.escape(name)}</td><td>{_fact(value)}</td></tr>" for name, value in facts.items())
    return f"<table>{rows}</table>"


def _fact(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        head = "".join(f"<th>{html.escape(str(key))}" for key in value[0])
        rows = ("".join(f"<td>{html.escape(str(item))}" for item in row.values()) for row in value)
        return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
    return html.escape(f"{value:,.6g}" if isinstance(value, float) else str(value))


def _strip(kind: str, pictures: Sequence[Picture]) -> str:
    return f"<h3>{html.escape(kind)}</h3><div class=strip>{''.join(_figure(picture) for picture in pictures)}</div>"


def _figure(picture: Picture, note: str = "") -> str:
    caption = html.escape(" ".join(filter(None, [note, picture.caption])))
    return (
        f"<figure><img src='{picture.data_uri}' title='{html.escape(picture.title, quote=True)}'><figcaption>{caption}"
    )


def _pairs(manifest: Manifest, chain: Mapping[str, Manifest], layout: Layout) -> str:
    """Images beside what they were a copy of (or the query that brought them in), the closest calls first."""
    rows = [
        row
        for path in manifest.paths(".parquet")[:4]
        for row in read_table(path).to_pylist()
        if row.get("other") and row.get("image_file")
    ]
    rows.sort(key=lambda row: (row["value"] is None, row["value"], row["id"]))
    figures = []
    for row in rows[:_PAIRS]:
        partner = _image_row(row["other"], chain)
        left, right = picture_of(row, layout), picture_of(partner, layout) if partner else []
        if left and right:
            figures.append(f"<div class=pair>{_figure(left[0], row['drop'] or 'kept')}{_figure(right[0], '←')}</div>")
    return f"<h3>Closest calls: each image and what it was matched with</h3><div class=strip>{''.join(figures)}</div>"


def _image_row(record: str, chain: Mapping[str, Manifest]) -> dict[str, Any] | None:
    found = [step.row for step in trace(record, chain) if step.row.get("image_file")]
    return dict(found[-1]) if found else None


def _curves(metrics: bytes) -> str:
    """Every numeric metric of the training as a small curve."""
    lines = [json.loads(line) for line in metrics.splitlines() if line.strip()]
    names = [name for name, value in (lines[-1] if lines else {}).items() if isinstance(value, (int, float))]
    drawn = (_curve(name, [line.get(name) for line in lines]) for name in names if name != "step")
    return f"<h3>Training</h3><div class=strip>{''.join(drawn)}</div>"


def _curve(name: str, values: Sequence[float | None]) -> str:
    points = [(x, y) for x, y in enumerate(values) if isinstance(y, (int, float)) and y == y]
    if len(points) < 2:
        return ""
    low, high = min(y for _, y in points), max(y for _, y in points)
    scale_x, scale_y = _scale(points[0][0], points[-1][0], 150.0), _scale(low, high, 60.0)
    path = " ".join(f"{scale_x(x):.1f},{62 - scale_y(y):.1f}" for x, y in points)
    return (
        f"<figure><svg width=156 height=66><polyline points='{path}' fill=none stroke='#1a7f37' /></svg>"
        f"<figcaption>{html.escape(name)}: {points[0][1]:.4g} → {points[-1][1]:.4g}</figcaption></figure>"
    )


def _scale(low: float, high: float, size: float) -> Callable[[float], float]:
    return lambda value: size * (value - low) / ((high - low) or 1.0)


_PAGE = """<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>
<meta http-equiv=Content-Security-Policy content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
body{{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1200px;padding:0 1rem;color:#1f2328}}
table{{border-collapse:collapse;margin:.5rem 0}}td,th{{border:1px solid #d0d7de;padding:.2rem .5rem;text-align:left;
vertical-align:top;max-width:640px;overflow-wrap:anywhere}}.n{{text-align:right;white-space:nowrap}}th{{white-space:nowrap}}.bar{{background:#1a7f37;height:.8rem}}
.strip{{display:flex;flex-wrap:wrap;gap:.5rem}}figure{{margin:0;max-width:156px}}figcaption{{font-size:11px;color:#59636e;
overflow-wrap:anywhere}}.pair{{display:flex;gap:2px;border:1px solid #d0d7de;padding:2px}}h2{{margin-top:2.2rem;
border-bottom:1px solid #d0d7de}}h3{{margin:.8rem 0 .3rem}}
</style>
<p>{title}</p>
{body}
</html>
"""
