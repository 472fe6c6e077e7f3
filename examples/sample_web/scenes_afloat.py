"""Scenes without a ground: soap bubbles, the sea under water, deep space."""

import math

import numpy as np
from PIL import Image, ImageDraw

from examples.sample_web.canvas import (
    Field,
    Painting,
    below,
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
    to_painting,
)


def bubbles(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Soap bubbles of many sizes, rims iridescent, floating before a cloudy blend of colours."""
    hue = rng.random()
    ends = [
        hsv(hue + shift, rng.uniform(0.3, 0.8), value)
        for shift, value in ((0, rng.uniform(0.5, 1)), (rng.uniform(0.05, 0.5), rng.uniform(0.1, 0.6)))
    ]
    painting = gradient(width, height, [(0, ends[0]), (1, ends[1])], turns=rng.random())
    painting *= 0.55 + 0.9 * noise(rng, width, height, cells=rng.uniform(2, 6), octaves=3)[..., None]
    count = int(rng.integers(14, 40))
    radii = np.sort(rng.uniform(0.3, 1, count) ** 2.5)[::-1] * rng.uniform(0.2, 0.4) * width
    middle = rng.uniform(0.15, 0.85, 2) * (width, height)
    for radius in np.maximum(radii, 5):
        x, y = (
            rng.normal(middle, (0.35 * width, 0.35 * height))
            if rng.random() < 0.6
            else rng.uniform(0, 1, 2) * (width, height)
        )
        _bubble(rng, painting, float(x), float(y), float(radius))
    return to_image(painting)


def _bubble(rng: np.random.Generator, painting: Painting, x: float, y: float, radius: float) -> None:
    """Paints in place, only on the bubble's own box."""
    height, width = painting.shape[:2]
    left, right = max(0, int(x - radius)), min(width, int(x + radius) + 2)
    top, bottom = max(0, int(y - radius)), min(height, int(y + radius) + 2)
    if left >= right or top >= bottom:
        return
    rows, columns = np.mgrid[top:bottom, left:right].astype(np.float32)
    dx, dy = (columns - x) / radius, (rows - y) / radius
    distance = np.hypot(dx, dy)
    inside = smoothstep(-distance, -1.0, -1.0 + 2.5 / radius)
    rim = inside * distance**6
    film = rng.random() + 0.25 * dx + 0.35 * dy
    colours = 0.6 + 0.4 * np.cos(2 * np.pi * (film[..., None] + np.asarray((0, 0.33, 0.67))))
    body = hsv(rng.random(), 0.5, rng.uniform(0.2, 1))
    spot = np.exp(-((dx + 0.4) ** 2 + (dy + 0.45) ** 2) / 0.03) * inside
    patch = painting[top:bottom, left:right]
    patch = paint(patch, body, inside * np.float32(rng.uniform(0.1, 0.55)))
    patch = paint(patch, colours.astype(np.float32), rim * np.float32(0.9))
    painting[top:bottom, left:right] = paint(patch, (1, 1, 1), (0.9 * spot).astype(np.float32))


def underwater(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Blue to green water with rays from above, a bed of coral and weed, and fish, few and large or in schools."""
    hue = rng.uniform(0.42, 0.62)
    top, deep = (
        hsv(hue, rng.uniform(0.3, 0.8), rng.uniform(0.5, 1)),
        hsv(hue + 0.05, rng.uniform(0.7, 1), rng.uniform(0.1, 0.4)),
    )
    painting = gradient(width, height, [(0, top), (1, deep)], turns=rng.normal(0, 0.12))
    x, y = grid(width, height)
    source, spread = rng.uniform(-0.3, 1.3), rng.uniform(6, 20)
    fan = np.arctan2(x - source, y + rng.uniform(0.1, 0.5))
    rays = np.clip(np.sin(fan * spread + rng.random() * 6) * np.sin(fan * spread * 1.7), 0, 1) * np.clip(
        1 - y * rng.uniform(0.7, 2), 0, 1
    )
    painting = painting + (rng.uniform(0.1, 0.5) * rays)[..., None].astype(np.float32)
    for layer in range(int(rng.integers(0, 4))):
        line = height * (1.05 - ridge(rng, width, bumps=rng.uniform(1, 4), roughness=0.6) * rng.uniform(0.15, 0.7))
        grain = noise(rng, width, height, cells=20, octaves=2)[..., None]
        bed = mix(deep, hsv(pick(rng, 0.1, 0.95, 0.05, 0.45), 0.6, rng.uniform(0.2, 0.8)), 0.3 + 0.2 * layer)
        painting = paint(
            painting,
            (np.asarray(bed, np.float32) * (0.6 + 0.7 * grain)).astype(np.float32),
            below(line, height),
        )
    whole = to_image(painting)
    draw = ImageDraw.Draw(whole)
    for _ in range(rng.integers(0, 6)):
        _coral(rng, draw, (width, height))
    schools = rng.integers(1, 4)
    for _ in range(schools):
        middle, size = rng.uniform(0, 1, 2) * (width, height), rng.uniform(0.025, 0.16) * width
        colour, heading = (
            hsv(pick(rng, 0.08, 0.14, 0.0, 0.6, 0.9), rng.uniform(0.3, 1), rng.uniform(0.5, 1)),
            pick(rng, -1, 1),
        )
        for _ in range(int(np.clip(rng.uniform(0.3, 1) * 0.12 * width / size * 8, 1, 30))):
            place = rng.normal(middle, (0.18 * width, 0.12 * height))
            _fish(
                draw,
                (float(place[0]), float(place[1])),
                size * rng.uniform(0.8, 1.2),
                heading,
                shade(colour, rng.uniform(0.7, 1.2)),
            )
    return whole


def _coral(rng: np.random.Generator, draw: ImageDraw.ImageDraw, size: tuple[int, int]) -> None:
    width, height = size
    root, tall = rng.uniform(0, 1) * width, rng.uniform(0.15, 0.6) * height
    colour = rgb8(hsv(pick(rng, 0.95, 0.02, 0.08, 0.3, 0.78), rng.uniform(0.5, 0.9), rng.uniform(0.3, 0.9)))
    for lean in rng.normal(0, 0.35, rng.integers(4, 12)):
        bend = rng.normal(0, 0.2)
        points = [(root + tall * (lean * t + bend * t * t), height - tall * t) for t in np.linspace(0, 1, 8)]
        draw.line(points, fill=colour, width=max(3, int(tall * 0.06)), joint="curve")


def _fish(
    draw: ImageDraw.ImageDraw,
    centre: tuple[float, float],
    size: float,
    heading: float,
    colour: tuple[float, float, float],
) -> None:
    x, y = centre
    draw.ellipse((x - size, y - size * 0.45, x + size, y + size * 0.45), fill=rgb8(colour))
    tail = x - heading * size
    draw.polygon(
        [
            (tail + heading * size * 0.2, y),
            (tail - heading * size * 0.6, y - size * 0.5),
            (tail - heading * size * 0.6, y + size * 0.5),
        ],
        fill=rgb8(shade(colour, 0.7)),
    )
    draw.rectangle((x - size * 0.15, y - size * 0.42, x + size * 0.1, y + size * 0.42), fill=rgb8(shade(colour, 0.55)))
    eye = x + heading * size * 0.65
    draw.ellipse((eye - size * 0.09, y - size * 0.2, eye + size * 0.09, y - size * 0.02), fill=(10, 10, 10))


def galaxy(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Deep space: a tilted spiral, clouds of gas, stars, now and then a planet in front."""
    dark = np.asarray(hsv(rng.uniform(0.6, 0.85), 0.7, rng.uniform(0.02, 0.12)), np.float32)
    painting: Painting = np.broadcast_to(dark, (height, width, 3))
    for _ in range(rng.integers(1, 4)):
        gas = noise(rng, width, height, cells=rng.uniform(1.2, 4), octaves=6)
        tint = hsv(rng.random(), rng.uniform(0.5, 0.9), rng.uniform(0.3, 0.9))
        painting = paint(painting, tint, 0.7 * smoothstep(gas, rng.uniform(0.35, 0.6), 1.0))
    reach = rng.uniform(0.12, 0.4)
    radius, spiral = _spiral(rng, width, height, reach)
    spiral *= 0.5 + noise(rng, width, height, cells=12, octaves=4)
    painting += spiral[..., None] * np.asarray(hsv(rng.random(), rng.uniform(0.2, 0.7), 1), np.float32)
    core = np.exp(-((radius / (reach * 0.25)) ** 2))
    painting += core[..., None] * np.asarray((1, 0.95, 0.85), np.float32)
    stars = rng.random((height, width), np.float32) > 1 - rng.uniform(0.001, 0.006)
    painting[stars] += rng.uniform(0.3, 1, (int(stars.sum()), 1)).astype(np.float32)
    whole = to_image(painting)
    draw = ImageDraw.Draw(whole)
    for _ in range(rng.integers(2, 14)):
        px, py, size = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.003, 0.011) * width
        draw.line([(px - size * 4, py), (px + size * 4, py)], fill=(160, 170, 200))
        draw.line([(px, py - size * 4), (px, py + size * 4)], fill=(160, 170, 200))
        draw.ellipse((px - size, py - size, px + size, py + size), fill=(255, 250, 240))
    return _planet(rng, whole) if rng.random() < 0.5 else whole


def _spiral(rng: np.random.Generator, width: int, height: int, reach: float) -> tuple[Field, Field]:
    """Distance from the centre in picture widths, and the brightness of logarithmic arms that fade over `reach`."""
    x, y = grid(width, height)
    tilt, flat = rng.uniform(0, math.pi), rng.uniform(0.25, 0.95)
    x -= rng.uniform(0.1, 0.9)
    y -= rng.uniform(0.1, 0.9) * height / width
    along = math.cos(tilt) * x + math.sin(tilt) * y
    across = (-math.sin(tilt) * x + math.cos(tilt) * y) / flat
    radius = np.hypot(along, across) + np.float32(1e-4)
    arms, wind = int(rng.integers(2, 5)), pick(rng, -1, 1) * rng.uniform(2, 5)
    waves = 0.5 + 0.5 * np.cos(arms * (np.arctan2(across, along) + wind * np.log(radius)))
    return radius, np.asarray(waves ** rng.uniform(1, 3) * np.exp(-((radius / reach) ** 2)), np.float32)


def _planet(rng: np.random.Generator, whole: Image.Image) -> Image.Image:
    width, height = whole.size
    x, y = grid(width, height)
    radius = rng.uniform(0.06, 0.35)
    dx, dy = (x - rng.uniform(0, 1)) / radius, (y - rng.uniform(0, height / width)) / radius
    inside = smoothstep(-np.hypot(dx, dy), -1.0, -1.0 + 0.01 / radius)
    turn = rng.uniform(0, 2 * math.pi)
    light = np.clip(0.45 + 0.9 * (math.cos(turn) * dx + math.sin(turn) * dy), 0.03, 1.1)
    bands = noise(rng, width, height, cells=rng.uniform(4, 10), stretch=rng.uniform(1, 4), octaves=4)
    first, second = hsv(rng.random(), rng.uniform(0.3, 0.8), 0.9), hsv(rng.random(), rng.uniform(0.2, 0.7), 0.6)
    ball: Painting = np.broadcast_to(np.asarray(first, np.float32), (height, width, 3))
    ball = paint(ball, second, bands) * light.astype(np.float32)[..., None]
    return to_image(paint(to_painting(whole), ball, inside))
