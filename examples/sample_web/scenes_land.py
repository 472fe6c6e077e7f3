"""Scenes under an open sky: the coast at sunset, the desert, the mountains.

Each painter draws its whole layout (horizon, masses, palette within the concept) from the generator, so that two
pictures of one concept agree in colour and texture and not in composition.
"""

import numpy as np
from PIL import Image, ImageDraw

from examples.sample_web.canvas import (
    Painting,
    below,
    glow,
    gradient,
    grid,
    hsv,
    mix,
    noise,
    paint,
    pick,
    polygon,
    rgb8,
    ridge,
    shade,
    smoothstep,
    to_image,
)


def sunset_coast(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A low sun over the sea; headlands, palms, sails or sea stacks stand against it."""
    horizon = int(height * rng.uniform(0.22, 0.8))
    warm = rng.uniform(-0.03, 0.12)
    high = hsv(
        pick(rng, 0.62, 0.72, 0.8, 0.95, 0.55) + rng.normal(0, 0.02), rng.uniform(0.4, 0.9), rng.uniform(0.15, 0.7)
    )
    low = hsv(warm, rng.uniform(0.6, 0.95), rng.uniform(0.8, 1.0))
    middle = mix(high, low, rng.uniform(0.3, 0.7))
    sky = gradient(width, max(horizon, 2), [(0, high), (rng.uniform(0.3, 0.7), middle), (1, low)])
    sun = (rng.uniform(0.05, 0.95), rng.uniform(0.1, 1.05) * horizon / width)
    sky = glow(sky, sun, rng.uniform(0.1, 0.4), hsv(warm + 0.06, 0.6, 1), rng.uniform(0.3, 0.8))
    clouds = noise(rng, width, sky.shape[0], cells=rng.uniform(3, 9), stretch=rng.uniform(1.5, 5), octaves=5)
    cloudy = rng.uniform(0.4, 0.75)
    tone = mix(high, low, rng.uniform(0, 1)) if rng.random() < 0.5 else shade(high, rng.uniform(0.3, 0.7))
    sky = paint(sky, tone, 0.85 * smoothstep(clouds, cloudy, cloudy + 0.2))
    x, y = grid(width, sky.shape[0])
    disc = np.hypot(x - sun[0], y - sun[1]) - rng.uniform(0.025, 0.11)
    sky = paint(sky, hsv(warm + 0.07, rng.uniform(0.1, 0.6), 1), smoothstep(-disc, 0, 0.006))
    depth = height - sky.shape[0]
    rows = np.linspace(sky.shape[0] - 1, 0, max(depth, 1)).astype(int)
    ripples = noise(rng, width, max(depth, 1), cells=24, stretch=rng.uniform(3, 8), octaves=3)[..., None]
    sea = sky[rows] * rng.uniform(0.45, 0.8) * (0.65 + 0.7 * ripples)
    whole = to_image(np.concatenate([sky, sea])[:height])
    _coast_objects(rng, ImageDraw.Draw(whole), width, height, horizon)
    return whole


def _coast_objects(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int, horizon: int) -> None:
    dark = rgb8(hsv(rng.uniform(0, 1), rng.uniform(0.2, 0.6), rng.uniform(0.03, 0.2)))
    for _ in range(rng.integers(0, 3)):  # a headland from one side
        reach, tall = rng.uniform(0.2, 0.75) * width, rng.uniform(0.1, 0.6) * horizon
        line = ridge(rng, 40, bumps=2, roughness=0.55) * np.linspace(1, 0.05, 40) ** rng.uniform(0.4, 1.5)
        xs = np.linspace(0, reach, 40) if rng.random() < 0.5 else np.linspace(width, width - reach, 40)
        draw.polygon([*zip(xs, horizon - tall * line, strict=True), (xs[-1], horizon), (xs[0], horizon)], fill=dark)
    for _ in range(rng.integers(0, 4)):  # a sail
        size, left = rng.uniform(0.06, 0.4) * height, rng.uniform(0.05, 0.95) * width
        foot = min(horizon + rng.uniform(0.02, 0.3) * height, height)
        draw.polygon([(left, foot - size), (left, foot), (left + size * 0.6, foot)], fill=dark)
        draw.polygon(
            [(left - size * 0.4, foot), (left + size * 0.7, foot), (left + size * 0.4, foot + size * 0.15)], fill=dark
        )
    for _ in range(rng.integers(0, 3)):  # a palm
        root, top = rng.uniform(0, 1) * width, rng.uniform(0.05, 0.6) * height
        lean, frond = rng.uniform(-0.2, 0.2) * width, rng.uniform(0.1, 0.28) * height
        draw.line(
            [(root, height), (root + lean * 0.3, (height + top) / 2), (root + lean, top)],
            fill=dark,
            width=max(3, width // 50),
        )
        for angle in rng.uniform(0, 2 * np.pi, 11):
            tip = (root + lean + frond * np.cos(angle), top + frond * (0.7 * np.sin(angle) + 0.25))
            side = (root + lean + frond * 0.5 * np.cos(angle + 0.35), top + frond * 0.4 * np.sin(angle + 0.35))
            draw.polygon([(root + lean, top), side, tip], fill=dark)
    if rng.random() < 0.5:  # the beach in front
        tilt = rng.uniform(-0.35, 0.35) * height
        near = height * rng.uniform(0.7, 1.0)
        sand = rgb8(hsv(rng.uniform(0.03, 0.12), rng.uniform(0.3, 0.6), rng.uniform(0.25, 0.7)))
        draw.polygon([(0, near - tilt), (width, near + tilt), (width, height), (0, height)], fill=sand)


def desert(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Dunes with lit and shaded slopes, sometimes mesas, pyramids, cacti or a caravan track."""
    top = hsv(pick(rng, 0.56, 0.6, 0.1, 0.02, 0.5) + rng.normal(0, 0.02), rng.uniform(0.15, 0.7), rng.uniform(0.5, 1.0))
    painting = gradient(width, height, [(0, top), (0.7, mix(top, hsv(0.1, 0.3, 1), 0.7)), (1, hsv(0.1, 0.3, 1))])
    hue, first = rng.uniform(0.03, 0.12), rng.uniform(0.05, 0.65)
    if rng.random() < 0.6:
        sun = (rng.uniform(0, 1), rng.uniform(0, first) * height / width)
        painting = glow(painting, sun, rng.uniform(0.06, 0.15), (1, 0.95, 0.8), 0.9)
    painting = _mesas(rng, painting, hue, first * height)
    layers = int(rng.integers(2, 6))
    for layer in range(layers):
        base = height * (first + (1 - first) * (layer / layers) ** rng.uniform(0.7, 1.4))
        relief = rng.uniform(0.08, 0.35) * height
        steps = np.linspace(0, 1, width)
        wave = 0.5 + 0.5 * np.sin(2 * np.pi * (steps * rng.uniform(0.4, 1.8) + rng.random()))
        crest = (base + relief * (0.5 - wave) + 0.01 * height * ridge(rng, width, bumps=3, roughness=0.4)).astype(
            np.float32
        )
        sand = hsv(hue + rng.normal(0, 0.012), rng.uniform(0.35, 0.75), rng.uniform(0.55, 0.98))
        ripple = noise(rng, width, height, cells=rng.uniform(18, 40), stretch=rng.uniform(1, 4), octaves=2)
        painting = paint(painting, sand, below(crest, height))
        painting = painting * (1 - (0.25 * ripple * below(crest, height))[..., None])
        side = crest + np.abs(steps - rng.random()) * rng.uniform(0.2, 1.4) * height * (1 if rng.random() < 0.8 else 0)
        shadow = below(crest, height) * (1 - below(side, height))
        painting = paint(painting, shade(sand, rng.uniform(0.25, 0.6)), shadow * rng.uniform(0.5, 0.95))
    whole = to_image(painting)
    _cacti(rng, ImageDraw.Draw(whole), width, height)
    return whole


def _mesas(rng: np.random.Generator, painting: Painting, hue: float, ground: float) -> Painting:
    height, width = painting.shape[:2]
    for _ in range(rng.integers(0, 4)):
        centre, half, tall = rng.uniform(0, 1) * width, rng.uniform(0.06, 0.25) * width, rng.uniform(0.15, 0.5) * height
        narrow = pick(rng, 0.0, 0.6, 0.8)
        foot = ground + 0.15 * height
        shape = [
            (centre - half, foot),
            (centre - half * narrow, foot - tall),
            (centre + half * narrow, foot - tall),
            (centre + half, foot),
        ]
        rock = hsv(hue - 0.02, rng.uniform(0.4, 0.7), rng.uniform(0.35, 0.75))
        painting = paint(painting, rock, polygon(width, height, shape))
        lit = [(centre, foot), (centre, foot - tall), *shape[2:]]
        painting = paint(painting, shade(rock, rng.uniform(0.5, 1.4)), polygon(width, height, lit))
    return painting


def _cacti(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    for _ in range(rng.integers(0, 4)):
        x, foot, tall = (
            rng.uniform(0.03, 0.97) * width,
            rng.uniform(0.6, 1.02) * height,
            rng.uniform(0.15, 0.6) * height,
        )
        green, thick = rgb8(hsv(rng.uniform(0.25, 0.4), 0.5, rng.uniform(0.15, 0.4))), max(4, int(tall * 0.12))
        draw.line([(x, foot), (x, foot - tall)], fill=green, width=thick)
        for sign in (-1, 1):
            joint, arm = foot - tall * rng.uniform(0.35, 0.6), sign * tall * 0.25
            draw.line(
                [(x, joint), (x + arm, joint), (x + arm, joint - tall * 0.3)], fill=green, width=thick, joint="curve"
            )


def mountains(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Fractal ranges one before the other, with snow, lit from one side; a lake or a meadow at the foot."""
    hue = pick(rng, 0.55, 0.6, 0.65, 0.08, 0.92) + rng.normal(0, 0.02)
    top = hsv(hue, rng.uniform(0.2, 0.75), rng.uniform(0.35, 0.95))
    haze = hsv(hue + rng.normal(0, 0.06), rng.uniform(0.05, 0.35), rng.uniform(0.8, 1.0))
    painting = gradient(width, height, [(0, top), (1, haze)])
    clouds = noise(rng, width, height, cells=rng.uniform(2, 6), stretch=rng.uniform(1, 3), octaves=5)
    painting = paint(painting, (1, 1, 1), rng.uniform(0.2, 0.8) * smoothstep(clouds, 0.55, 0.9))
    rock = hsv(rng.uniform(0.5, 0.75), rng.uniform(0.1, 0.5), rng.uniform(0.2, 0.5))
    layers, first, light = int(rng.integers(2, 5)), rng.uniform(0.02, 0.35), pick(rng, -1.0, 1.0)
    for layer in range(layers):
        near = (layer + 1) / layers
        line = ridge(rng, width, bumps=rng.uniform(0.6, 3), roughness=rng.uniform(0.42, 0.58))
        crest = height * (first + layer * rng.uniform(0.1, 0.25)) + (1 - line) * height * rng.uniform(0.25, 0.7)
        relief = noise(rng, width, height, cells=rng.uniform(3, 12), octaves=5)
        slope = np.gradient(relief, axis=1) * (width * light * 0.25) + np.gradient(crest)[None, :] * (light * 0.35)
        face = np.clip(0.75 + slope, 0.35, 1.35)[..., None]
        rows = np.arange(height, dtype=np.float32)[:, None]
        depth = (rows - crest[None, :]) * np.float32(1 / height) + 0.25 * (relief - 0.5)
        snow = smoothstep(-depth, -rng.uniform(0.05, 0.3), 0.0)
        colour = np.asarray(mix(haze, rock, 0.3 + 0.7 * near), np.float32) * face
        colour = paint(colour, np.minimum(face * np.asarray((0.95, 0.97, 1.0), np.float32), 1), snow)
        painting = paint(painting, colour, below(crest, height))
    return to_image(_foot_of_range(rng, painting))


def _foot_of_range(rng: np.random.Generator, painting: Painting) -> Painting:
    """A lake that mirrors the range, a dark wood, or nothing."""
    height, width = painting.shape[:2]
    kind = rng.choice(["lake", "wood", "meadow", "none"])
    shore = int(height * rng.uniform(0.6, 0.9))
    if kind == "lake":
        rows = np.clip(2 * shore - np.arange(shore, height), 0, shore)
        painting[shore:] = painting[rows] * rng.uniform(0.5, 0.85) * np.asarray((0.85, 0.95, 1.0), np.float32)
    elif kind == "wood":
        teeth = ridge(rng, width, bumps=40, roughness=0.7) * 0.12 + ridge(rng, width, bumps=1.5, roughness=0.3) * 0.25
        trees = below((shore - teeth * height + 0.1 * height).astype(np.float32), height)
        painting = paint(painting, hsv(rng.uniform(0.3, 0.5), 0.5, rng.uniform(0.08, 0.25)), trees)
    elif kind == "meadow":
        slope = shore + np.linspace(-1, 1, width) * rng.uniform(-0.2, 0.2) * height
        grass = noise(rng, width, height, cells=30, octaves=2)
        green = hsv(rng.uniform(0.2, 0.35), rng.uniform(0.4, 0.8), rng.uniform(0.3, 0.7))
        painting = paint(painting, green, below(slope, height) * (0.7 + 0.3 * grass))
    return painting
