"""Scenes of made things: a city at night, a circuit board, checked cloth and tartan."""

import math

import numpy as np
from PIL import Image, ImageDraw

from examples.sample_web.canvas import (
    Field,
    Painting,
    gradient,
    grid,
    hsv,
    mix,
    noise,
    paint,
    pick,
    rgb8,
    ridge,
    shade,
    smoothstep,
    to_image,
)


def night_city(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Towers with lit windows against a dark sky; signs, a moon, sometimes water that doubles them."""
    hue = rng.uniform(0.55, 0.85)
    ground = int(height * rng.uniform(0.55, 1.0))
    top, low = hsv(hue, 0.8, rng.uniform(0.02, 0.2)), hsv(hue + rng.normal(0, 0.15), 0.6, rng.uniform(0.15, 0.55))
    whole = to_image(gradient(width, height, [(0, top), (1, low)]))
    draw = ImageDraw.Draw(whole)
    if rng.random() < 0.5:
        x, y, radius = rng.uniform(0, 1) * width, rng.uniform(0.05, 0.4) * height, rng.uniform(0.03, 0.1) * width
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=rgb8(hsv(0.13, 0.15, 0.95)))
    lamps = [
        hsv(h, rng.uniform(0.2, 0.8), 1.0)
        for h in rng.choice([0.09, 0.12, 0.15, 0.5, 0.58, 0.9, 0.35], 3, replace=False)
    ]
    for layer in range(int(rng.integers(1, 4))):
        x = rng.uniform(-0.1, 0.1) * width
        skyline = ridge(rng, 64, bumps=1.5, roughness=0.6)
        while x < width:
            span = rng.uniform(0.05, 0.22) * width
            reach = skyline[int(np.clip(x / width, 0, 1) * 63)] * rng.uniform(0.5, 1.1)
            roof = ground - height * (0.06 + rng.uniform(0.4, 0.9) * reach * (1 - 0.15 * layer))
            _tower(
                rng, whole, (x, roof, x + span, ground), shade(low, rng.uniform(0.15, 0.6)), lamps[int(rng.integers(3))]
            )
            x += span * rng.uniform(0.85, 1.7)
    for _ in range(rng.integers(0, 4)):
        x, y = rng.uniform(0, 0.9) * width, rng.uniform(0.1, 0.8) * ground
        sign = hsv(rng.random(), 0.9, 1.0)
        draw.rectangle(
            (x, y, x + rng.uniform(0.03, 0.2) * width, y + rng.uniform(0.04, 0.25) * height), fill=rgb8(sign)
        )
    if ground < height:
        water = whole.crop((0, max(0, 2 * ground - height), width, ground)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        streak = water.resize((width, max(2, water.height // 12))).resize((width, height - ground))
        whole.paste(Image.blend(streak, Image.new("RGB", streak.size, rgb8(top)), rng.uniform(0.2, 0.6)), (0, ground))
    return whole


def _tower(
    rng: np.random.Generator,
    whole: Image.Image,
    box: tuple[float, float, float, float],
    wall: tuple[float, float, float],
    lamp: tuple[float, float, float],
) -> None:
    """One building: a small random matrix of lit windows, enlarged without smoothing, walls drawn between."""
    left, top, right, bottom = (round(side) for side in box)
    if right - left < 6 or bottom - top < 6:
        return
    pitch = int(rng.integers(5, 11))
    columns, rows = max(1, (right - left) // pitch), max(1, (bottom - top) // pitch)
    lit = (rng.random((rows, columns)) < rng.uniform(0.1, 0.8))[..., None]
    bright = np.asarray(lamp) * rng.uniform(0.5, 1.0, (rows, columns, 1))
    cells = np.where(lit, bright, np.asarray(wall) * 1.6)
    panes = np.repeat(np.repeat(cells, pitch, axis=0), pitch, axis=1)
    frame = (np.arange(rows * pitch) % pitch < 2)[:, None] | (np.arange(columns * pitch) % pitch < 2)[None, :]
    panes[frame] = wall
    tile = Image.fromarray((np.clip(panes, 0, 1) * 255).astype(np.uint8))
    whole.paste(rgb8(wall), (left, top, right, bottom))
    whole.paste(tile, (left, top))


def circuit(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A board: traces that run straight and turn by 45 degrees, pads, chips with legs, round capacitors."""
    hue = pick(rng, 0.36, 0.42, 0.6, 0.0, 0.8, 0.1) + rng.normal(0, 0.02)
    board = hsv(hue, rng.uniform(0.5, 0.95), rng.uniform(0.15, 0.45))
    tint = noise(rng, width, height, cells=2, octaves=3)[..., None]
    whole = to_image((np.asarray(board, np.float32) * (0.6 + 0.8 * tint)).astype(np.float32))
    draw = ImageDraw.Draw(whole)
    trace = rgb8(mix(board, hsv(pick(rng, 0.12, hue), 0.6, 0.95), rng.uniform(0.35, 0.7)))
    pad = rgb8(hsv(pick(rng, 0.12, 0.1, 0.6), rng.uniform(0.1, 0.6), rng.uniform(0.7, 0.95)))
    step, thick = width / rng.uniform(18, 40), int(rng.integers(2, 6))
    for _ in range(rng.integers(8, 26)):
        _bus(rng, draw, (rng.uniform(0, width), rng.uniform(0, height)), step, thick, (trace, pad))
    for _ in range(rng.integers(1, 7)):
        _chip(rng, draw, (width, height))
    for _ in range(rng.integers(0, 9)):
        x, y, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.02, 0.1) * width
        metal = hsv(pick(rng, 0.6, 0.1, 0.0), rng.uniform(0, 0.6), rng.uniform(0.4, 0.95))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=rgb8(shade(metal, 0.5)))
        draw.ellipse((x - radius * 0.8, y - radius * 0.8, x + radius * 0.8, y + radius * 0.8), fill=rgb8(metal))
        draw.pieslice(
            (x - radius * 0.8, y - radius * 0.8, x + radius * 0.8, y + radius * 0.8),
            200,
            340,
            fill=rgb8(shade(metal, 0.3)),
        )
    return whole


def _bus(
    rng: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    start: tuple[float, float],
    step: float,
    thick: int,
    colours: tuple[tuple[int, int, int], tuple[int, int, int]],
) -> None:
    """One to six parallel traces that take the same three or four turns."""
    lanes, heading = int(rng.integers(1, 7)), int(rng.integers(8))
    path = [np.asarray(start)]
    for _ in range(rng.integers(2, 5)):
        angle = heading * np.pi / 4
        path.append(path[-1] + step * rng.uniform(2, 12) * np.asarray((np.cos(angle), np.sin(angle))))
        heading += int(pick(rng, -1, 1))
    for lane in range(lanes):
        offset = np.asarray((0.6, 0.8)) * lane * thick * 2.2
        points = [tuple(float(v) for v in point + offset) for point in path]
        draw.line([(p[0], p[1]) for p in points], fill=colours[0], width=thick)
        for x, y in (points[0], points[-1]):
            draw.ellipse((x - thick, y - thick, x + thick, y + thick), fill=colours[1])


def _chip(rng: np.random.Generator, draw: ImageDraw.ImageDraw, size: tuple[int, int]) -> None:
    width, height = size
    x, y = rng.uniform(-0.05, 0.9) * width, rng.uniform(-0.05, 0.9) * height
    right, bottom = x + rng.uniform(0.08, 0.45) * width, y + rng.uniform(0.08, 0.45) * width
    leg = width / 40
    for along in np.arange(x, right - leg / 2, leg):
        draw.rectangle((along, y - leg * 0.7, along + leg * 0.45, bottom + leg * 0.7), fill=(200, 200, 195))
    body = rgb8(hsv(rng.random(), rng.uniform(0, 0.3), pick(rng, 0.08, 0.12, 0.18, 0.75)))
    draw.rectangle((x, y, right, bottom), fill=body)
    draw.ellipse((x + leg * 0.4, y + leg * 0.4, x + leg * 1.1, y + leg * 1.1), fill=(120, 120, 120))
    for line in range(int(rng.integers(0, 4))):
        top = y + (bottom - y) * (0.3 + 0.18 * line)
        draw.rectangle(
            (x + leg, top, x + leg + (right - x) * rng.uniform(0.2, 0.7), top + leg * 0.25), fill=(170, 170, 170)
        )


def _cloth(rng: np.random.Generator, width: int, height: int, *, folds: float) -> tuple[Field, Field, Field]:
    """Coordinates u, v over a turned, folded piece of cloth, in picture widths, and the light on it."""
    x, y = grid(width, height)
    angle, lean = rng.uniform(0, math.pi), rng.uniform(-0.5, 0.5)
    u = math.cos(angle) * x + math.sin(angle) * y
    v = -math.sin(angle) * x + math.cos(angle) * y
    view = 1 + lean * (y - 0.5) + rng.uniform(-0.5, 0.5) * (x - 0.5)
    bulge = noise(rng, width, height, cells=rng.uniform(1.5, 4), octaves=2)
    u, v = u * view + folds * bulge, v * view + folds * bulge[:, ::-1]
    turn, relief = rng.uniform(0, 2 * math.pi), rng.uniform(12, 35) * width / 300
    slope = math.cos(turn) * np.gradient(bulge, axis=1) + math.sin(turn) * np.gradient(bulge, axis=0)
    return u, v, np.asarray(np.clip(0.8 + relief * slope, 0.2, 1.35), np.float32)


def checkered(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Cloth in squares of two strong colours, folded and lit, with a patch, a hem or buttons on it."""
    u, v, light = _cloth(rng, width, height, folds=rng.uniform(0.05, 0.3))
    count = rng.uniform(5, 16)
    squares = (np.floor(u * count) + np.floor(v * count)) % 2
    hue = rng.random()
    dark = hsv(hue, rng.uniform(0.5, 1), rng.uniform(0.05, 0.6))
    pale = hsv(hue + pick(rng, 0.0, 0.5, 0.1), rng.uniform(0, 0.4), rng.uniform(0.8, 1))
    painting = np.where(squares[..., None] == 1, np.asarray(pale, np.float32), np.asarray(dark, np.float32))
    accent = hsv(hue + rng.uniform(0.2, 0.8), rng.uniform(0.5, 1), rng.uniform(0.4, 1))
    x, y = grid(width, height)
    for _ in range(rng.integers(1, 4)):
        across, down = np.abs(x - rng.uniform(0, 1)), np.abs(y - rng.uniform(0, height / width))
        shape, radius = int(rng.integers(3)), rng.uniform(0.06, 0.28)
        reach = (np.hypot, np.add, np.maximum)[shape](across, down)  # a round patch, a diamond, a square
        painting = paint(painting, accent, smoothstep(-reach, -radius, -radius + 0.006))
        painting = paint(painting, pale, smoothstep(-np.abs(reach - radius * 0.75), -0.012, -0.008))
    return to_image(painting * light[..., None])


def tartan(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Woven wool: one sequence of coloured bands, mirrored, run both ways and crossed in a twill."""
    u, v, light = _cloth(rng, width, height, folds=rng.uniform(0.02, 0.15))
    ground = hsv(
        pick(rng, 0.0, 0.35, 0.62, 0.1, 0.5) + rng.normal(0, 0.02), rng.uniform(0.6, 0.9), rng.uniform(0.2, 0.6)
    )
    other = hsv(rng.random(), rng.uniform(0.5, 0.9), rng.uniform(0.1, 0.5))
    thread = hsv(pick(rng, 0.14, 0.0, 0.55, 0.3), rng.uniform(0, 0.9), rng.uniform(0.75, 1))
    bands = [ground, other, ground, thread, other, ground, thread]
    edges = np.cumsum(rng.uniform([3, 2, 1, 0.3, 1, 1, 0.3], [8, 6, 4, 0.8, 4, 3, 0.8])).astype(np.float32)
    repeats = rng.uniform(1.0, 3.5)

    def dye(along: Field) -> Painting:
        folded = np.abs((along * repeats) % 2 - 1) * float(edges[-1])
        place = np.minimum(np.searchsorted(edges, folded.ravel()), len(bands) - 1).reshape(folded.shape)
        return np.asarray(np.asarray(bands, np.float32)[place], np.float32)

    fine = 90
    over = ((np.floor(u * fine) + np.floor(v * fine)) % 4 < 2).astype(np.float32) * 0.5 + 0.25
    painting = paint(dye(u), dye(v), over)
    return to_image((painting * light[..., None] * (0.9 + 0.2 * over[..., None])).astype(np.float32))
