"""Scenes under an open sky: coast at sunset, desert, mountains, forest, field of flowers.

Each painter draws its whole layout (horizon, masses, palette within the concept) from the generator, so that two
pictures of one concept agree in colour and texture and not in composition.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from examples.sample_web.canvas import (
    Colour,
    Painting,
    below,
    gradient,
    grid,
    hsv,
    mix,
    noise,
    paint,
    polygon,
    rgb8,
    ridge,
    shade,
    smoothstep,
    to_image,
    to_painting,
)


def _glow(painting: Painting, centre: tuple[float, float], radius: float, colour: Colour, strength: float) -> Painting:
    """A light at `centre` (in picture widths) that brightens its surroundings."""
    height, width = painting.shape[:2]
    x, y = grid(width, height)
    distance = ((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / radius**2
    return painting + np.asarray(colour, np.float32) * (strength * np.exp(-distance))[..., None]


def sunset_coast(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A low sun over the sea; headlands, palms, sails or sea stacks stand against it."""
    horizon = int(height * rng.uniform(0.22, 0.8))
    warm = rng.uniform(-0.03, 0.12)
    high = hsv(
        rng.choice([0.62, 0.72, 0.8, 0.95, 0.55]) + rng.normal(0, 0.02), rng.uniform(0.4, 0.9), rng.uniform(0.15, 0.7)
    )
    low = hsv(warm, rng.uniform(0.6, 0.95), rng.uniform(0.8, 1.0))
    middle = mix(high, low, rng.uniform(0.3, 0.7))
    sky = gradient(width, max(horizon, 2), [(0, high), (rng.uniform(0.3, 0.7), middle), (1, low)])
    sun = (rng.uniform(0.05, 0.95), rng.uniform(0.1, 1.05) * horizon / width)
    sky = _glow(sky, sun, rng.uniform(0.1, 0.4), hsv(warm + 0.06, 0.6, 1), rng.uniform(0.3, 0.8))
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
    top = hsv(
        rng.choice([0.56, 0.6, 0.1, 0.02, 0.5]) + rng.normal(0, 0.02), rng.uniform(0.15, 0.7), rng.uniform(0.5, 1.0)
    )
    painting = gradient(width, height, [(0, top), (0.7, mix(top, hsv(0.1, 0.3, 1), 0.7)), (1, hsv(0.1, 0.3, 1))])
    hue, first = rng.uniform(0.03, 0.12), rng.uniform(0.05, 0.65)
    if rng.random() < 0.6:
        sun = (rng.uniform(0, 1), rng.uniform(0, first) * height / width)
        painting = _glow(painting, sun, rng.uniform(0.06, 0.15), (1, 0.95, 0.8), 0.9)
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
        shadow = below(crest, height) * (1 - below(side.astype(np.float32), height))
        painting = paint(painting, shade(sand, rng.uniform(0.25, 0.6)), shadow * rng.uniform(0.5, 0.95))
    whole = to_image(painting)
    _cacti(rng, ImageDraw.Draw(whole), width, height)
    return whole


def _mesas(rng: np.random.Generator, painting: Painting, hue: float, ground: float) -> Painting:
    height, width = painting.shape[:2]
    for _ in range(rng.integers(0, 4)):
        centre, half, tall = rng.uniform(0, 1) * width, rng.uniform(0.06, 0.25) * width, rng.uniform(0.15, 0.5) * height
        narrow = rng.choice([0.0, 0.6, 0.8])
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
    hue = rng.choice([0.55, 0.6, 0.65, 0.08, 0.92]) + rng.normal(0, 0.02)
    top = hsv(hue, rng.uniform(0.2, 0.75), rng.uniform(0.35, 0.95))
    haze = hsv(hue + rng.normal(0, 0.06), rng.uniform(0.05, 0.35), rng.uniform(0.8, 1.0))
    painting = gradient(width, height, [(0, top), (1, haze)])
    clouds = noise(rng, width, height, cells=rng.uniform(2, 6), stretch=rng.uniform(1, 3), octaves=5)
    painting = paint(painting, (1, 1, 1), rng.uniform(0.2, 0.8) * smoothstep(clouds, 0.55, 0.9))
    rock = hsv(rng.uniform(0.5, 0.75), rng.uniform(0.1, 0.5), rng.uniform(0.2, 0.5))
    layers, first, light = int(rng.integers(2, 5)), rng.uniform(0.02, 0.35), rng.choice([-1.0, 1.0])
    for layer in range(layers):
        near = (layer + 1) / layers
        line = ridge(rng, width, bumps=rng.uniform(0.6, 3), roughness=rng.uniform(0.42, 0.58))
        crest = height * (first + layer * rng.uniform(0.1, 0.25)) + (1 - line) * height * rng.uniform(0.25, 0.7)
        mask = below(crest.astype(np.float32), height)
        relief = noise(rng, width, height, cells=6, octaves=5)
        slope = (
            np.gradient(np.roll(relief, 0), axis=1) * width * light * 0.25 + np.gradient(crest)[None, :] * light * 0.35
        )
        face = np.clip(0.75 + slope, 0.35, 1.35)[..., None]
        colour = np.asarray(mix(haze, rock, 0.3 + 0.7 * near), np.float32) * face
        depth = (np.arange(height)[:, None] - crest[None, :]) / height + 0.25 * (relief - 0.5)
        snow = smoothstep(-depth.astype(np.float32), -rng.uniform(0.05, 0.3), 0.0)
        colour = paint(colour, np.clip(face * np.asarray((0.95, 0.97, 1.0)), 0, 1).astype(np.float32), snow)
        painting = paint(painting, np.broadcast_to(colour, painting.shape).astype(np.float32), mask)
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
        painting = paint(painting, green, below(slope.astype(np.float32), height) * (0.7 + 0.3 * grass))
    return painting


def forest(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Trunks from far and pale to near and dark, a canopy of leaves, and light from one side."""
    season = rng.choice([0.3, 0.36, 0.24, 0.1, 0.04, 0.45]) + rng.normal(0, 0.015)
    haze = hsv(season + rng.normal(0, 0.05), rng.uniform(0.1, 0.5), rng.uniform(0.6, 1.0))
    deep = hsv(season, rng.uniform(0.4, 0.9), rng.uniform(0.12, 0.4))
    painting = gradient(width, height, [(0, haze), (1, deep)], turns=rng.random())
    light = (rng.uniform(0, 1), rng.uniform(0, 1) * height / width)
    painting = _glow(painting, light, rng.uniform(0.15, 0.5), haze, rng.uniform(0.1, 0.7))
    leaves = noise(rng, width, height, cells=rng.uniform(3, 8), octaves=6)
    cover = rng.uniform(0.35, 0.65)
    painting = paint(
        painting, hsv(season + 0.03, 0.8, rng.uniform(0.3, 0.7)), 0.8 * smoothstep(leaves, cover, cover + 0.15)
    )
    ground = height * rng.uniform(0.6, 1.1) + np.linspace(-1, 1, width) * rng.uniform(-0.25, 0.25) * height
    floor = mix(deep, hsv(rng.uniform(0.05, 0.3), 0.6, 0.35), rng.uniform(0.2, 0.8))
    painting = paint(painting, floor, below(ground.astype(np.float32), height))
    whole = to_image(painting)
    draw = ImageDraw.Draw(whole)
    bark = hsv(rng.uniform(0.02, 0.12), rng.uniform(0.1, 0.5), rng.uniform(0.06, 0.3))
    for near in np.sort(rng.uniform(0, 1, rng.integers(4, 22))) ** 1.5:
        _trunk(rng, draw, (width, height), float(near), mix(haze, bark, 0.25 + 0.75 * float(near)))
    spots = rng.integers(150, 500)
    middles = rng.normal(
        (rng.uniform(0, width), rng.uniform(0, 0.5 * height)), (0.35 * width, 0.3 * height), (spots, 2)
    )
    for (x, y), size, tone in zip(
        middles, rng.uniform(0.008, 0.03, spots) * width, rng.uniform(0.5, 1.5, spots), strict=True
    ):
        leaf = rgb8(shade(hsv(season + rng.normal(0, 0.03), 0.75, 0.5), tone))
        draw.ellipse((x - size, y - size * 0.6, x + size, y + size * 0.6), fill=leaf)
    return whole


def _trunk(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, size: tuple[int, int], near: float, colour: Colour
) -> None:
    width, height = size
    x, half = rng.uniform(-0.05, 1.05) * width, (0.006 + 0.07 * near * rng.uniform(0.5, 1.3)) * width
    lean, foot = rng.normal(0, 0.05) * width, height * (0.65 + 0.45 * near)
    draw.polygon(
        [(x - half, foot), (x + lean - half * 0.6, 0), (x + lean + half * 0.6, 0), (x + half, foot)], fill=rgb8(colour)
    )
    lit = rng.choice([-1, 1]) * half
    draw.polygon(
        [(x + lit, foot), (x + lean + lit * 0.6, 0), (x + lean, 0), (x + lit * 0.2, foot)],
        fill=rgb8(shade(colour, 1.5)),
    )
    for _ in range(rng.integers(0, 4)):
        y, reach = rng.uniform(0.05, 0.5) * height, rng.uniform(-0.25, 0.25) * width
        draw.line(
            [(x, y), (x + reach, y - abs(reach) * rng.uniform(0.1, 0.8))],
            fill=rgb8(colour),
            width=max(2, int(half * 0.5)),
        )


def flower_field(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Blossoms that grow towards the viewer, in drifts of one to three colours, under more or less sky."""
    horizon = height * rng.uniform(-0.2, 0.6)
    sky = hsv(rng.choice([0.55, 0.6, 0.08, 0.5]), rng.uniform(0.1, 0.6), rng.uniform(0.7, 1.0))
    painting = gradient(width, height, [(0, sky), (1, mix(sky, (1, 1, 1), 0.6))])
    line = horizon + ridge(rng, width, bumps=2, roughness=0.5) * rng.uniform(-0.2, 0.2) * height
    green = hsv(rng.uniform(0.2, 0.4), rng.uniform(0.4, 0.8), rng.uniform(0.2, 0.55))
    meadow = noise(rng, width, height, cells=rng.uniform(3, 10), octaves=6)
    grass = np.asarray(green, np.float32) * (0.4 + 1.2 * meadow[..., None])
    painting = paint(painting, grass.astype(np.float32), below(line.astype(np.float32), height))
    whole = to_image(painting)
    draw = ImageDraw.Draw(whole)
    hues = rng.choice([0.0, 0.07, 0.13, 0.6, 0.75, 0.83, 0.92], rng.integers(1, 4), replace=False)
    drifts = rng.uniform(0, 1, (len(hues) + 2, 2))
    depths = np.sort(rng.uniform(0.02, 1, rng.integers(90, 220)))
    for depth in depths:
        drift = int(rng.integers(len(drifts)))
        x = (drifts[drift, 0] + rng.normal(0, 0.22)) * width
        y = max(horizon, 0) + (height - max(horizon, 0)) * depth
        hue = float(hues[drift % len(hues)]) + rng.normal(0, 0.012)
        _blossom(rng, draw, (x, y), (0.008 + 0.035 * depth) * width, hue)
    for _ in range(rng.integers(0, 4)):
        place = (rng.uniform(0, 1) * width, rng.uniform(0.2, 1) * height)
        radius = rng.uniform(0.08, 0.25) * width
        draw.line(
            [place, (place[0] + rng.normal(0, 0.1) * width, height * 1.2)],
            fill=rgb8(shade(green, 0.6)),
            width=max(3, width // 70),
        )
        _blossom(rng, draw, place, radius, float(rng.choice(hues)) + rng.normal(0, 0.02))
    if rng.random() < 0.3:  # the far part out of focus
        soft = to_painting(whole.filter(ImageFilter.GaussianBlur(width / 120)))
        x, y = grid(width, height)
        whole = to_image(paint(to_painting(whole), soft, smoothstep(-y, -0.5 * height / width, -0.2 * height / width)))
    return whole


def _blossom(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, hue: float
) -> None:
    petals, turn, squash = int(rng.integers(5, 9)), rng.uniform(0, 2 * np.pi), rng.uniform(0.55, 1.0)
    colour = hsv(hue, rng.uniform(0.5, 0.95), rng.uniform(0.7, 1.0))
    petal = radius * rng.uniform(0.4, 0.55)
    for index in range(petals):
        angle = turn + 2 * np.pi * index / petals
        x = centre[0] + 0.62 * radius * np.cos(angle)
        y = centre[1] + 0.62 * radius * squash * np.sin(angle)
        draw.ellipse(
            (x - petal, y - petal * squash, x + petal, y + petal * squash), fill=rgb8(shade(colour, 0.8 + 0.05 * index))
        )
    heart = radius * 0.3
    tone = rgb8(hsv(rng.uniform(0.08, 0.16), 0.9, rng.uniform(0.4, 1.0)))
    draw.ellipse(
        (centre[0] - heart, centre[1] - heart * squash, centre[0] + heart, centre[1] + heart * squash), fill=tone
    )
