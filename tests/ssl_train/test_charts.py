"""What a chart must show can be read from its text: it is well-formed XML with lines, names and marks in it."""

import math
import re
from xml.etree import ElementTree

import pytest

from ssl_train.studies.charts import (
    DARK,
    HEIGHT,
    LEFT,
    LIGHT,
    MAX_POINTS,
    RIGHT,
    WIDTH,
    Mark,
    line_chart,
    number_text,
    page,
    table,
)

SVG = "{http://www.w3.org/2000/svg}"


def drawn(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def paths(svg: str, kind: str) -> list[str]:
    """What is drawn of a kind; the legend's samples are lines too, and come last."""
    return [path.attrib["d"] for path in drawn(svg).iter(f"{SVG}path") if kind in path.attrib["class"].split()]


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)]


def texts(svg: str) -> list[str]:
    return [text.text or "" for text in drawn(svg).iter(f"{SVG}text")]


def chart(series: dict[str, list[tuple[float, float]]], **more: object) -> str:
    return line_chart(series, title="A & B", x_label="step", y_label="nats", **more)  # type: ignore[arg-type]


def test_a_line_goes_through_its_points_higher_values_higher_up() -> None:
    svg = chart({"run": [(0, 1.0), (5, 3.0), (10, 2.0)]})
    (x0, y0), (x1, y1), (x2, y2) = points(paths(svg, "chart-line")[0])
    assert (x0, x1, x2) == (LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT)
    assert y1 < y2 < y0
    assert (y0 - y2) == pytest.approx(y2 - y1, abs=0.11)


def test_a_chart_names_itself_its_axes_and_every_line_even_with_signs_of_markup_in_names() -> None:
    svg = chart({"a < b": [(0, 1.0), (1, 2.0)], "c": [(0, 1.0)]}, marks=[("log(K)", 4.2), Mark("end", 1, "x")])
    root = drawn(svg)
    assert root.attrib["role"] == "img"
    assert (root[0].tag, root[0].text, root[1].tag) == (f"{SVG}title", "A & B", f"{SVG}desc")
    told = root[1].text or ""
    assert "a < b: nats 1 at 0, 2 at 1." in told
    assert "A line marks log(K) (y = 4.2)." in told
    assert {"A & B", "step", "nats", "a < b", "c", "log(K)", "end"} <= set(texts(svg))


def test_what_is_no_number_breaks_the_line_and_a_lone_point_is_a_dot() -> None:
    svg = chart({"run": [(0, 1.0), (1, 2.0), (2, math.nan), (3, math.inf), (4, 1.5)]})
    line = paths(svg, "chart-line")[0]
    before, dot = line.split("M")[1:]
    assert len(points(before)) == 2
    assert len(points(dot)) == 2
    assert len(set(points(dot))) == 1


def test_a_log_scale_has_decades_equally_far_apart_and_leaves_out_what_is_not_above_zero() -> None:
    svg = chart({"run": [(0, 1.0), (1, 10.0), (2, 100.0), (3, 0.0)]}, y_scale="log", marks=[("zero", 0.0)])
    heights = [y for _, y in points(paths(svg, "chart-line")[0])]
    assert len(heights) == 3
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.11)
    assert {"1", "10", "100"} <= set(texts(svg))
    assert not paths(svg, "chart-mark")


def test_many_points_are_thinned_and_no_spike_is_lost() -> None:
    many = [(float(step), 1000.0 if step == 77_777 else math.sin(step)) for step in range(100_000)]
    found = points(paths(chart({"run": many}), "chart-line")[0])
    assert len(found) <= MAX_POINTS + 2
    assert min(y for _, y in found) < HEIGHT / 5
    assert (found[0][0], found[-1][0]) == (LEFT, WIDTH - RIGHT)


@pytest.mark.parametrize("series", [{}, {"run": []}, {"run": [(0, math.nan)]}])
def test_a_chart_without_points_says_so(series: dict[str, list[tuple[float, float]]]) -> None:
    assert "nothing to draw yet" in texts(chart(series))


@pytest.mark.parametrize(("low", "high"), [(5.0, 5.0), (0.0, 0.0), (-1e-5, 2e-5), (-3e9, 7e12)])
def test_any_range_has_an_axis_with_some_ticks(low: float, high: float) -> None:
    svg = chart({"run": [(0, low), (1, high)]})
    ticks = [text for text in drawn(svg).iter(f"{SVG}text") if text.attrib.get("text-anchor") == "end"]
    assert 3 <= len(ticks) <= 9
    assert len({tick.text for tick in ticks}) == len(ticks)


def test_more_lines_than_colours_still_differ_from_their_neighbours_and_the_legend_wraps() -> None:
    svg = chart({f"a run with a long name {number}": [(0, number), (1, 2)] for number in range(10)})
    lines = [p for p in drawn(svg).iter(f"{SVG}path") if "chart-line" in p.attrib["class"]]
    looks = [(line.attrib["class"], line.attrib["stroke-dasharray"]) for line in lines]
    assert len(set(looks[:8])) == 8
    assert looks[:10] == looks[10:]
    height = float(drawn(svg).attrib["height"])
    legend = [text for text in drawn(svg).iter(f"{SVG}text") if text.attrib["class"] == "chart-name"]
    assert len(legend) == 10
    assert all(HEIGHT < float(text.attrib["y"]) <= height for text in legend)
    assert all(float(text.attrib["x"]) + 6 * len(text.text or "") < WIDTH for text in legend)


def luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_line_stands_out_from_light_and_from_dark_paper() -> None:
    assert len(set(LIGHT)) == len(LIGHT) == len(set(DARK)) == len(DARK)
    assert min(contrast(colour, "#ffffff") for colour in LIGHT) > 4
    assert min(contrast(colour, "#161616") for colour in DARK) > 4


def test_a_page_is_one_file_without_scripts_and_in_both_tones() -> None:
    text = page("Runs <1>", [chart({"run": [(0, 1), (1, 2)]}), table(["run", "verdict"], [["both", "a < b"]])])
    assert "<title>Runs &lt;1&gt;</title>" in text
    assert "<td>a &lt; b</td>" in text
    assert "prefers-color-scheme:dark" in text
    assert not re.search(r"<script|src=|href=|@import|url\(", text)


@pytest.mark.parametrize(
    ("value", "step", "text"),
    [(12500, 2500, "12,500"), (0.25, 0.05, "0.25"), (3, 0, "3"), (2e-5, 1e-5, "2e-05"), (0, 0.5, "0.0")],
)
def test_numbers_have_the_places_that_tell_them_apart(value: float, step: float, text: str) -> None:
    assert number_text(value, step) == text
