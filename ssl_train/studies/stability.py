"""How stable runs are: accuracy over steps, the gradients of every layer, and where they spike, side by side.

python -m ssl_train.studies.stability [NAME=]RUN [[NAME=]RUN ...] --out stability.html|stability.svg

Reads the metrics.jsonl of runs (finished or not) and draws them. For curves as in the paper, let the runs write
metrics.every_steps=1, metrics.layer_gradients=true and metrics.knn (every few steps), and compare one with
model.frozen_stem=true to one without. Source: MoCo v3 (arXiv 2104.02057), section 4 and figures 1 to 5.
"""

import argparse
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from ssl_train.errors import ConfigError, TrainError
from ssl_train.metrics import read_metrics
from ssl_train.studies.charts import Mark, Point, line_chart, page, table

WINDOW = 31
"""Points around a point whose median is what is usual there."""
ENOUGH = 8
"""Points below which nothing is said of spikes."""
FACTOR = 3.0
"""What is so many times the usual is a spike, if the curve is smooth otherwise."""
DEVIATIONS = 6.0
"""Where it is not: by how many robust standard deviations (of its logarithm) it must stand out."""
NORMAL = 1.4826
"""Standard deviation of a normal distribution whose median absolute deviation is 1."""
LISTED_SPIKES, MARKED_SPIKES = 20, 12
_PART = "grad_norm_backbone_"
_WHOLE = "backbone"


class Spike(NamedTuple):
    """A place where a curve leaves what is usual around it; of neighbouring points the highest."""

    step: float
    value: float
    usual: float

    @property
    def ratio(self) -> float:
        """How many times the usual it is."""
        return self.value / self.usual


class Run(NamedTuple):
    """What a run's metrics say of its stability, by step."""

    name: str
    accuracy: list[Point]
    """k-NN top-1 in percent."""
    loss: list[Point]
    gradients: dict[str, list[Point]]
    """Gradient norms before clipping, of each part of the backbone, the first layers first."""

    def spikes(self) -> dict[str, list[Spike]]:
        """Of every part."""
        return {part: find_spikes(points) for part, points in self.gradients.items()}


def find_spikes(points: Sequence[Point]) -> list[Spike]:
    """The spikes of a curve of positive numbers, in the order of steps.

    A point is one if it is FACTOR times the median of the WINDOW points around it, and stands out of their logarithms
    by DEVIATIONS robust standard deviations: neither a slope nor noise is a spike. Numbers that are not finite are
    spikes without end; points that follow each other are one. A curve that begins high and falls has not leapt: its
    first points are no spike. Of fewer than ENOUGH points nothing is said.
    """
    usable = [value for _, value in points if math.isfinite(value) and value > 0]
    if len(usable) < ENOUGH:
        return []
    spikes, last, has_been_usual = list[Spike](), -2, False
    for place, (step, value) in enumerate(points):
        usual, limit = _usual(points, place)
        if math.isfinite(value) and (value <= limit or not has_been_usual):
            has_been_usual |= value <= limit
            continue
        spike = Spike(step, value if math.isfinite(value) else math.inf, usual)
        if place != last + 1:
            spikes.append(spike)
        elif spike.ratio > spikes[-1].ratio:
            spikes[-1] = spike
        last = place
    return spikes


def _usual(points: Sequence[Point], place: int) -> tuple[float, float]:
    """The median around a point, without it, and what lies above it no more by chance."""
    first = min(max(0, place - WINDOW // 2), max(0, len(points) - WINDOW))
    around = [
        math.log(value)
        for other, (_, value) in enumerate(points[first : first + WINDOW], start=first)
        if other != place and math.isfinite(value) and value > 0
    ]
    if not around:
        return math.nan, math.inf
    middle = median(around)
    spread = NORMAL * median(abs(value - middle) for value in around)
    return math.exp(middle), math.exp(middle + max(math.log(FACTOR), DEVIATIONS * spread))


def deepest_dip(accuracy: Sequence[Point]) -> float:
    """By how many points an accuracy has fallen below its best so far, at most; 0 for one that only grows."""
    best, deepest = -math.inf, 0.0
    for _, value in accuracy:
        best = max(best, value)
        deepest = max(deepest, best - value)
    return deepest


def read_run(folder: Path, name: str) -> Run:
    """A run's curves. Raises ConfigError for a folder without metrics."""
    lines = read_metrics(str(folder))
    if not lines:
        raise ConfigError(f"no metrics.jsonl with a whole line in {folder}: give the output_dir of a run")
    parts = sorted({name for line in lines for name in line if name.startswith(_PART)}, key=_depth)
    chosen = parts or ["grad_norm_backbone"]

    def curve(key: str) -> list[Point]:
        return [(line["step"], math.nan if line[key] is None else line[key]) for line in lines if key in line]

    return Run(
        name,
        curve("knn_top1"),
        curve("loss"),
        {part.removeprefix(_PART) if parts else _WHOLE: curve(part) for part in chosen},
    )


def _depth(name: str) -> tuple[int, list[int], str]:
    """The order of parts by depth: the stem, the embeddings, then numbers."""
    part = name.removeprefix(_PART)
    order = {"stem": 0, "embeddings": 1}
    return order.get(part, 2), [int(digits) for digits in re.findall(r"\d+", part)], part


def charts(runs: Sequence[Run]) -> list[str]:
    """Accuracy and loss of all runs together, then the gradients of each on its own."""
    together = [
        line_chart(
            {run.name: run.accuracy for run in runs},
            title="Nearest-neighbour accuracy of the teacher",
            x_label="step",
            y_label="k-NN top-1, %",
        ),
        line_chart({run.name: run.loss for run in runs}, title="Loss", x_label="step", y_label="loss"),
    ]
    return together + [_gradient_chart(run) for run in runs]


def _gradient_chart(run: Run) -> str:
    spikes = sorted((spike for found in run.spikes().values() for spike in found), key=lambda spike: -spike.ratio)
    worst = list({spike.step: spike for spike in reversed(spikes[:MARKED_SPIKES])}.values())
    return line_chart(
        run.gradients,
        title=f"{run.name}: gradient norms by layer; vertical lines are spikes",
        x_label="step",
        y_label="gradient norm",
        marks=[Mark(_times(spike), spike.step, "x") for spike in worst],
        y_scale="log",
    )


def as_page(runs: Sequence[Run]) -> str:
    """The whole study as one HTML page."""
    return page("Stability", [_summary(runs), *charts(runs), _spikes_table(runs)])


def as_svg(runs: Sequence[Run]) -> str:
    """The charts of the study below each other as one picture."""
    placed, top, width = [], 0, 0
    for chart in charts(runs):
        size = re.match(r'<svg [^>]*?width="(\d+)" height="(\d+)"', chart)
        if size is None:
            raise ValueError("a chart begins with <svg ... width=... height=...>")
        placed.append(chart.replace("<svg ", f'<svg y="{top}" ', 1))
        top, width = top + int(size[2]), max(width, int(size[1]))
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" width="{width}" height="{top}">'
    return "\n".join([opening, *placed, "</svg>"]) + "\n"


def _summary(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        found = run.spikes()
        values = [value for _, value in run.accuracy if math.isfinite(value)]
        rows.append(
            [
                run.name,
                f"{values[-1]:.2f} %" if values else "not measured",
                f"{max(values):.2f} %" if values else "not measured",
                f"{deepest_dip(run.accuracy):.2f}" if values else "not measured",
                str(sum(map(len, found.values()))),
                ", ".join(f"{part} {len(spikes)}" for part, spikes in found.items() if spikes) or "none",
            ]
        )
    return table(["run", "k-NN at last", "at best", "deepest dip, points", "spikes", "in which layers"], rows)


def _spikes_table(runs: Sequence[Run]) -> str:
    rows = [
        [run.name, part, f"{spike.step:g}", f"{spike.value:.3g}", f"{spike.usual:.3g}", _times(spike)]
        for run in runs
        for part, spikes in run.spikes().items()
        for spike in sorted(sorted(spikes, key=lambda spike: -spike.ratio)[:LISTED_SPIKES])
    ]
    if not rows:
        return "<p>No gradient spikes were found.</p>"
    return table(["run", "layer", "step", "gradient norm", "usual there", "times"], rows)


def _times(spike: Spike) -> str:
    return f"{spike.ratio:.1f} times" if math.isfinite(spike.ratio) else "not finite"


def read_runs(arguments: Iterable[str]) -> list[Run]:
    """The runs of [NAME=]FOLDER; without a name, the folder's. Raises ConfigError for two of one name."""
    runs: Mapping[str, Run] = {}
    for argument in arguments:
        name, equals, folder = argument.partition("=")
        path = Path(folder if equals else argument)
        run = read_run(path, name if equals else path.resolve().name)
        if run.name in runs:
            raise ConfigError(f"two runs are called {run.name}: tell them apart as NAME=FOLDER")
        runs = {**runs, run.name: run}
    return list(runs.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ssl_train.studies.stability", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("runs", nargs="+", metavar="[NAME=]RUN", help="output_dir of a run")
    parser.add_argument("--out", type=Path, required=True, help="what to write: .html or .svg")
    options = parser.parse_args(arguments)
    drawers = {".html": as_page, ".svg": as_svg}
    if options.out.suffix not in drawers:
        parser.error(f"--out is .html or .svg, not {options.out.name}")
    try:
        runs = read_runs(options.runs)
    except TrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(drawers[options.out.suffix](runs), encoding="utf-8")
    for run in runs:
        count = sum(map(len, run.spikes().values()))
        print(f"{run.name}: {count} gradient spikes, deepest dip {deepest_dip(run.accuracy):.2f} points of k-NN top-1")
    print(f"written: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
