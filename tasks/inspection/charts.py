"""Curves of an inspection page as SVG that needs no script, with the same numbers as a table below them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.inspection.html import number, text

_WIDTH, _HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 16, 34
Scale = Literal["linear", "log"]


@dataclass(frozen=True)
class Curve:
    """A named series, one value per x of its panel; NaN where there is none."""

    name: str
    values: Sequence[float]


@dataclass(frozen=True)
class Chart:
    """Curves on common axes. A log scale shows 0 at its foot; `fitted` begins near the lowest value instead."""

    title: str
    curves: Sequence[Curve]
    scale: Scale = "linear"
    fitted: bool = False


@dataclass(frozen=True)
class Panel:
    """Charts over the same numbers x, one of which is the run's; a slider moves through them all at once.

    `attribute` names the data attribute of what the slider marks on the page: kept where the attribute's number is
    > x (rule "above") or <= x ("up_to").
    """

    title: str
    attribute: str
    x_name: str
    xs: Sequence[float]
    now: float
    charts: Sequence[Chart]
    rule: Literal["above", "up_to"] = "up_to"
    x_scale: Scale = "linear"


def panel(content: Panel) -> str:
    """The charts, a slider that script shows, and all numbers as a table; the run's own line is marked."""
    now = nearest_place(content.xs, content.now)
    charts = "".join(chart(item, content) for item in content.charts)
    slider = (
        f"<label class=tune><span>{text(content.x_name)}</span><input type=range min=0 value={now} "
        f"max={len(content.xs) - 1} step=1><output>move to try other values</output></label>"
    )
    numbers = _numbers(content, now)
    wide = " wide" if len(content.charts) > 2 else ""
    return (
        f"<div class='panel{wide}' data-tune='{content.attribute}' data-rule='{content.rule}'>"
        f"<h3>{text(content.title)}</h3><div class=charts>{charts}</div>"
        f"{slider}<details><summary>The numbers</summary>{numbers}</details></div>"
    )


def panels(contents: Sequence[Panel]) -> str:
    """Panels side by side where there is room."""
    return f"<div class=panels>{''.join(panel(content) for content in contents)}</div>"


def nearest_place(xs: Sequence[float], value: float) -> int:
    """The index of the x nearest to a value."""
    return min(range(len(xs)), key=lambda place: (abs(xs[place] - value), place))


def _numbers(content: Panel, now: int) -> str:
    curves = [curve for item in content.charts for curve in item.curves]
    head = "".join(f"<th scope=col class=n>{text(name)}</th>" for name in [content.x_name, *(c.name for c in curves)])
    lines = []
    for place, x in enumerate(content.xs):
        cells = "".join(f"<td class=n>{number(curve.values[place])}</td>" for curve in curves)
        mark = " class=now" if place == now else ""
        lines.append(f"<tr{mark} data-x='{x:.6g}'><td class=n>{_tick(x)}</td>{cells}</tr>")
    return (
        f"<div class=scroll tabindex=0><table data-curve><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def chart(item: Chart, content: Panel) -> str:
    """One chart as a figure; the dotted line is the run's own x."""
    across = _place(content.xs, content.x_scale, _LEFT, _WIDTH - _RIGHT)
    values = [value for curve in item.curves for value in curve.values if value == value]
    ticks = _log_ticks(max(values, default=0.0)) if item.scale == "log" else _ticks(values, fitted=item.fitted)
    up = _place([ticks[0], max(values + ticks)], item.scale, _HEIGHT - _BOTTOM, _TOP)
    places = " ".join(f"{across(x):.1f}" for x in content.xs)
    parts = [_grid(ticks, up), _ticks_across(content, across)]
    parts += [_line(kind, curve, content.xs, across, up) for kind, curve in enumerate(item.curves)]
    if content.xs[0] <= content.now <= content.xs[-1]:
        parts.append(_now(across(content.now), content.now))
    parts.append(f"<line class=cursor visibility=hidden y1={_TOP} y2={_HEIGHT - _BOTTOM} />")
    spoken = "; ".join(_spoken(curve, content) for curve in item.curves)
    return (
        f"<figure class=chart><figcaption>{text(item.title)}{_legend(item.curves)}</figcaption>"
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role=img aria-label='{text(f'{item.title}: {spoken}', 600)}' "
        f"data-places='{places}'>{''.join(parts)}</svg></figure>"
    )


def _spoken(curve: Curve, content: Panel) -> str:
    here = curve.values[nearest_place(content.xs, content.now)]
    ends = f"from {number(curve.values[0])} to {number(curve.values[-1])}"
    return f"{curve.name} {ends}, {number(here)} at {content.x_name} {_tick(content.now)}"


def _legend(curves: Sequence[Curve]) -> str:
    if len(curves) < 2:
        return ""
    keys = (
        f"<span><svg viewBox='0 0 26 8' width=26 height=8 aria-hidden=true><path class=s{kind} d='M0 4H26' /></svg>"
        f"{text(curve.name)}</span>"
        for kind, curve in enumerate(curves)
    )
    return f" <div class=legend>{''.join(keys)}</div>"


def _place(values: Sequence[float], scale: Scale, low: float, high: float) -> Callable[[float], float]:
    """Where a value stands between two pixels; a log scale is that of 1 + value."""
    bend = (lambda value: math.log10(1 + max(value, 0.0))) if scale == "log" else (lambda value: float(value))
    first, last = bend(min(values)), bend(max(values))
    return lambda value: low + (high - low) * ((bend(value) - first) / ((last - first) or 1.0))


def _log_ticks(most: float) -> list[float]:
    """0 and powers of ten up to `most`, at most six of them."""
    powers = [10.0**power for power in range(math.ceil(math.log10(max(most, 1.0) + 1)) + 1)]
    step = math.ceil(len(powers) / 5)
    return [0.0, *(power for power in powers[::step] if power <= max(most, 1.0))]


def _ticks(values: Sequence[float], *, fitted: bool = False) -> list[float]:
    """Round numbers, evenly apart, that enclose the values, and 0 unless `fitted`."""
    low, high = (min(values, default=0.0) if fitted else 0.0), max(values, default=0.0)
    if high <= low:
        return [low, low + 1.0]
    rough = (high - low) / 4
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * nice for nice in (1, 2, 2.5, 5, 10) if size * nice >= rough * 0.999)
    if all(float(value).is_integer() for value in values):
        step = math.ceil(step)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * place for place in range(first, last + 1)]


def _grid(ticks: Sequence[float], up: Callable[[float], float]) -> str:
    lines = (
        f"<path class=axis d='M{_LEFT} {up(tick):.1f}H{_WIDTH - _RIGHT}' />"
        f"<text x={_LEFT - 6} y={up(tick) + 4:.1f} text-anchor=end>{_tick(tick)}</text>"
        for tick in ticks
    )
    return "".join(lines)


def _ticks_across(content: Panel, across: Callable[[float], float]) -> str:
    first, last = content.xs[0], content.xs[-1]
    if content.x_scale == "log" or len(content.xs) <= 7:
        wanted: list[float] = list(content.xs)
    else:
        wanted = [first, *(tick for tick in _ticks(content.xs, fitted=True) if first < tick < last), last]
    places: list[float] = []
    for x in wanted:
        if not places or across(x) - across(places[-1]) >= 26:
            places.append(x)
    marks = "".join(
        f"<text x={across(x):.1f} y={_HEIGHT - _BOTTOM + 14} text-anchor=middle>{_tick(x)}</text>" for x in places
    )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return f"{marks}<text x={middle} y={_HEIGHT - 4} text-anchor=middle>{text(content.x_name)}</text>"


def _line(
    kind: int, curve: Curve, xs: Sequence[float], across: Callable[[float], float], up: Callable[[float], float]
) -> str:
    points = [(across(x), up(value)) for x, value in zip(xs, curve.values, strict=True) if value == value]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    if len(points) == 1:
        return f"<circle class=d{kind} cx={points[0][0]:.1f} cy={points[0][1]:.1f} r=3 />"
    return f"<polyline class=s{kind} points='{path}' />" if points else ""


def _now(place: float, value: float) -> str:
    anchor = "start" if place < _WIDTH / 2 else "end"
    beside = place + (4 if anchor == "start" else -4)
    return (
        f"<path class=now-line d='M{place:.1f} {_TOP}V{_HEIGHT - _BOTTOM}' />"
        f"<text class=now-text x={beside:.1f} y={_TOP - 4} text-anchor={anchor}>now {_tick(value)}</text>"
    )


def _tick(value: float) -> str:
    if abs(value) >= 10_000:
        for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= size:
                return f"{value / size:.3g}{name}"
    return f"{value:.4g}"


def bars(title: str, names: Sequence[str], values: Sequence[float]) -> str:
    """Counts as bars on a log scale of 1 + count, each with its number."""
    line, left = 18, 90
    most = math.log10(1 + max(values, default=0.0)) or 1.0
    parts = []
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        length, y = 200 * math.log10(1 + value) / most, place * line
        parts.append(
            f"<text x={left - 6} y={y + 13} text-anchor=end>{text(name)}</text>"
            f"<rect class=bar x={left} y={y + 3} height={line - 6} width={length:.1f} />"
            f"<text x={left + length + 5:.1f} y={y + 13}>{number(value)}</text>"
        )
    spoken = "; ".join(f"{name}: {number(value)}" for name, value in zip(names, values, strict=True))
    height = line * len(names) + 4
    return (
        f"<figure class=chart><figcaption>{text(title)}</figcaption><svg viewBox='0 0 {_WIDTH} {height}' role=img "
        f"aria-label='{text(f'{title}: {spoken}', 600)}'>{''.join(parts)}</svg></figure>"
    )
