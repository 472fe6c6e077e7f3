"""Line charts as SVG and pages of them: text only, readable without colours, in light and in dark, without scripts."""

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

Point: TypeAlias = tuple[float, float]
Scale: TypeAlias = Literal["linear", "log"]

WIDTH, HEIGHT = 760, 360
LEFT, RIGHT, TOP, BOTTOM = 74, 24, 40, 56
LEGEND_ROW, CHAR_WIDTH, SAMPLE_WIDTH = 20, 6.6, 30
MAX_POINTS = 1200
"""Points of a line that are drawn; of more, the lowest and the highest of each stretch, so that no spike is lost."""
TICKS = 6
# Okabe and Ito's colours, which colour-blind people can tell apart, deepened for white and lightened for black paper;
# after eight lines they begin again. Lines differ in their dashes too.
LIGHT = ("#0072b2", "#c04f00", "#007a5a", "#a8497d", "#8a6100", "#1f78a8", "#5b5b5b", "#000000")
DARK = ("#56b4e9", "#ff8a3d", "#2fc79a", "#e79cc6", "#f0c04a", "#9ad0f5", "#b5b5b5", "#ffffff")
DASHES = ("none", "7 3", "2 3", "9 3 2 3", "12 4", "4 2", "1 2", "6 2 1 2 1 2")


class Mark(NamedTuple):
    """A straight line across a chart, with its name: at a value of y, or of x."""

    label: str
    value: float
    axis: Literal["x", "y"] = "y"


def line_chart(
    series: Mapping[str, Sequence[Point]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    marks: Sequence[Mark | tuple[str, float]] = (),
    y_scale: Scale = "linear",
) -> str:
    """An <svg> with one line for each entry of `series`, its points (x, y) in the order of x.

    Points that are no number break their line, and so do those that are not above 0 on a `log` scale. A chart without
    points says so. The picture names itself and tells where each line begins and ends, for those who do not see it.
    """
    lines = [Mark(*mark) for mark in marks]
    drawable = {name: _drawable(points, y_scale) for name, points in series.items()}
    frame = _frame(drawable, lines, y_scale)
    rows = _legend_rows(list(series))
    height = HEIGHT + LEGEND_ROW * len(rows)
    body = [
        f"<title>{html.escape(title)}</title><desc>{html.escape(_told(drawable, lines, y_label))}</desc>",
        f"<style>{CHART_CSS}</style>",
        _text("chart-title", LEFT, 22, title),
        *_axes(frame, x_label, y_label),
        *(_mark(frame, mark) for mark in lines),
        *(_line(frame, points, number) for number, points in enumerate(drawable.values())),
        *_legend(rows),
    ]
    if not any(any(stretch) for stretch in drawable.values()):
        body.append(_text("chart-label", WIDTH / 2, HEIGHT / 2, "nothing to draw yet", "middle"))
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" viewBox="0 0 {WIDTH} {height}"'
    return f'{opening} width="{WIDTH}" height="{height}">' + "\n".join(body) + "</svg>"


def page(title: str, parts: Iterable[str]) -> str:
    """A whole HTML page under a title; `parts` are HTML (charts, tables), one below the other."""
    name = html.escape(title)
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{name}</title>'
    body = "\n".join(f"<section>{part}</section>" for part in parts)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{PAGE_CSS}</style></head>\n'
        f"<body><main><h1>{name}</h1>\n{body}\n</main></body></html>\n"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table of plain texts; the first cell of a row names it."""
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
    lines = [
        f'<tr><th scope="row">{html.escape(name)}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in rows
    ]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


@dataclass(frozen=True)
class _Axis:
    """From values to pixels."""

    low: float
    high: float
    first_pixel: float
    last_pixel: float
    log: bool = False

    def pixel(self, value: float) -> float:
        """Where a value lies."""
        low, high = self._flat(self.low), self._flat(self.high)
        share = (self._flat(value) - low) / (high - low)
        return self.first_pixel + share * (self.last_pixel - self.first_pixel)

    def ticks(self) -> list[float]:
        """Round values between both ends."""
        if not self.log:
            return _round_values(self.low, self.high)
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        every = max(1, (last - first) // TICKS)
        return [10.0**power for power in range(first, last + 1, every)]

    def _flat(self, value: float) -> float:
        return math.log10(value) if self.log else value


class _Frame(NamedTuple):
    x: _Axis
    y: _Axis


def _drawable(points: Sequence[Point], scale: Scale) -> list[list[Point]]:
    """Stretches of points that can be drawn, thinned where they are many."""
    stretches: list[list[Point]] = [[]]
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y) and (y > 0 or scale == "linear"):
            stretches[-1].append((x, y))
        elif stretches[-1]:
            stretches.append([])
    size = max(1, math.ceil(2 * len(points) / MAX_POINTS))
    return [_thinned(stretch, size) for stretch in stretches if stretch]


def _thinned(points: list[Point], size: int) -> list[Point]:
    """The lowest and highest of every `size` points, and both ends."""
    if size <= 2:
        return points
    kept = {0, len(points) - 1}
    for start in range(0, len(points), size):
        places = range(start, min(start + size, len(points)))
        kept |= {min(places, key=lambda i: points[i][1]), max(places, key=lambda i: points[i][1])}
    return [points[place] for place in sorted(kept)]


def _frame(series: Mapping[str, list[list[Point]]], marks: Sequence[Mark], scale: Scale) -> _Frame:
    points = [point for stretches in series.values() for stretch in stretches for point in stretch]
    seen = [mark for mark in marks if mark.axis == "x" or mark.value > 0 or scale == "linear"]
    xs = [x for x, _ in points] + [mark.value for mark in seen if mark.axis == "x"]
    ys = [y for _, y in points] + [mark.value for mark in seen if mark.axis == "y"]
    return _Frame(
        _Axis(*_range(xs, "linear", margin=0.0), LEFT, WIDTH - RIGHT),
        _Axis(*_range(ys, scale, margin=0.05), HEIGHT - BOTTOM, TOP, log=scale == "log"),
    )


def _range(values: Sequence[float], scale: Scale, margin: float) -> tuple[float, float]:
    """Both ends of an axis, with some room, and room where all values are one."""
    low, high = (min(values), max(values)) if values else (1.0, 10.0)
    if scale == "log":
        room = max((math.log10(high) - math.log10(low)) * margin, 0.05 if low < high else 0.5)
        return low / 10**room, high * 10**room
    room = (high - low) * margin if low < high else max(abs(low), 1.0) * 0.5
    return low - room, high + room


def _round_values(low: float, high: float) -> list[float]:
    rough = (high - low) / TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def number_text(value: float, step: float = 0.0) -> str:
    """A number for people: as many places as its neighbours at distance `step` need, and thousands set apart."""
    size = max(abs(value), abs(step))
    if size and (size >= 1e7 or size < 1e-3):
        return f"{value:.3g}"
    places = max(0, -math.floor(math.log10(step) + 1e-9)) if step else 0 if value == int(value) else 3
    return f"{value:,.{places}f}"


def _axes(frame: _Frame, x_label: str, y_label: str) -> list[str]:
    x, y = frame
    floor, middle_x, middle_y = HEIGHT - BOTTOM, (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    downs = [(x.pixel(value), _tick_text(value, x)) for value in x.ticks()]
    acrosses = [(y.pixel(value), _tick_text(value, y)) for value in y.ticks()]
    return [
        *(f'<path class="chart-grid" d="M{place:.1f} {TOP}V{floor}"/>' for place, _ in downs),
        *(f'<path class="chart-grid" d="M{LEFT} {place:.1f}H{WIDTH - RIGHT}"/>' for place, _ in acrosses),
        *(_text("chart-tick", place, floor + 18, text, "middle") for place, text in downs),
        *(_text("chart-tick", LEFT - 8, place + 4, text, "end") for place, text in acrosses),
        f'<path class="chart-axis" d="M{LEFT} {TOP}V{floor}H{WIDTH - RIGHT}"/>',
        _text("chart-label", middle_x, floor + 40, x_label, "middle"),
        f'<g transform="translate(16 {middle_y:g}) rotate(-90)">{_text("chart-label", 0, 0, y_label, "middle")}</g>',
    ]


def _text(kind: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _tick_text(value: float, axis: _Axis) -> str:
    if axis.log:
        return f"{value:g}"
    values = axis.ticks()
    return number_text(value, values[1] - values[0] if len(values) > 1 else 0.0)


def _mark(frame: _Frame, mark: Mark) -> str:
    if mark.axis == "x":
        place = frame.x.pixel(mark.value)
        anchor, shift = ("end", -5) if place > (LEFT + WIDTH) / 2 else ("start", 5)
        line = f'<path class="chart-mark" d="M{place:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
        return line + _text("chart-tick", place + shift, TOP + 12, mark.label, anchor)
    if frame.y.log and mark.value <= 0:
        return ""
    place = frame.y.pixel(mark.value)
    line = f'<path class="chart-mark" d="M{LEFT} {place:.1f}H{WIDTH - RIGHT}"/>'
    return line + _text("chart-tick", WIDTH - RIGHT - 4, place - 5, mark.label, "end")


def _line(frame: _Frame, stretches: list[list[Point]], number: int) -> str:
    style = f'class="chart-line chart-c{number % len(LIGHT)}" stroke-dasharray="{DASHES[number % len(DASHES)]}"'
    parts = []
    for points in stretches:
        places = [f"{frame.x.pixel(x):.1f} {frame.y.pixel(y):.1f}" for x, y in points]
        # A single point is drawn as a line of no length, which a round cap makes a dot.
        parts.append("M" + "L".join(places if len(places) > 1 else places * 2))
    return f'<path {style} d="{"".join(parts)}"/>' if parts else ""


def _legend_rows(names: Sequence[str]) -> list[list[tuple[float, int, str]]]:
    """Rows of (x in pixels, number of the line, name), broken where the next does not fit."""
    rows: list[list[tuple[float, int, str]]] = []
    x = math.inf
    for number, name in enumerate(names):
        width = SAMPLE_WIDTH + 8 + CHAR_WIDTH * len(name) + 18
        if x + width > WIDTH - RIGHT:
            rows.append([])
            x = LEFT
        rows[-1].append((x, number, name))
        x += width
    return rows


def _legend(rows: list[list[tuple[float, int, str]]]) -> list[str]:
    return [
        f'<path class="chart-line chart-c{number % len(LIGHT)}" stroke-dasharray="{DASHES[number % len(DASHES)]}" '
        f'd="M{x:g} {y - 4}h{SAMPLE_WIDTH}"/>' + _text("chart-name", x + SAMPLE_WIDTH + 6, y, name)
        for y, row in ((HEIGHT + LEGEND_ROW * place + 6, row) for place, row in enumerate(rows))
        for x, number, name in row
    ]


def _told(series: Mapping[str, list[list[Point]]], marks: Sequence[Mark], y_label: str) -> str:
    """The chart in words: where each line begins and ends."""
    sentences = []
    for name, stretches in series.items():
        if not stretches:
            sentences.append(f"{name}: nothing to draw.")
            continue
        (x0, y0), (x1, y1) = stretches[0][0], stretches[-1][-1]
        sentences.append(f"{name}: {y_label} {y0:.4g} at {x0:g}, {y1:.4g} at {x1:g}.")
    sentences += [f"A line marks {mark.label} ({mark.axis} = {mark.value:.4g})." for mark in marks]
    return " ".join(sentences)


def _colours(palette: Sequence[str]) -> str:
    return "".join(f".chart-c{number}{{stroke:{colour}}}" for number, colour in enumerate(palette))


_tones: Callable[[str, str, str], str] = (
    ".chart text{{fill:{0}}}.chart-grid{{stroke:{1}}}.chart-axis,.chart-mark{{stroke:{2}}}".format
)
CHART_CSS = (
    ".chart{max-width:100%;height:auto;font:12px system-ui,sans-serif}.chart path{fill:none}"
    ".chart-title{font-size:15px;font-weight:600}"
    ".chart-line{stroke-width:2;stroke-linejoin:round;stroke-linecap:round}.chart-mark{stroke-dasharray:4 4}"
    + _tones("#222", "#e4e4e4", "#777")
    + _colours(LIGHT)
    + "@media (prefers-color-scheme:dark){"
    + _tones("#e6e6e6", "#3a3a3a", "#9a9a9a")
    + _colours(DARK)
    + "}"
)
PAGE_CSS = (
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;padding:0 1rem;"
    "max-width:60rem;background:#fff;color:#222}table{border-collapse:collapse}section{margin:1.5rem 0}"
    "th,td{padding:.35rem .7rem;text-align:left;border-bottom:1px solid #bbb;vertical-align:top}"
    "@media (prefers-color-scheme:dark){body{background:#161616;color:#e6e6e6}th,td{border-color:#444}}"
)
