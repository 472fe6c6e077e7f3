"""Scenes of things that grow: a wood, a field of flowers."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from examples.sample_web.canvas import (
    Colour,
    below,
    glow,
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


def forest(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Trunks from far and pale to near and dark, a canopy of leaves, and light from one side."""
    season = pick(rng, 0.3, 0.36, 0.24, 0.1, 0.04, 0.45) + rng.normal(0, 0.015)
    haze = hsv(season + rng.normal(0, 0.05), rng.uniform(0.1, 0.5), rng.uniform(0.6, 1.0))
    deep = hsv(season, rng.uniform(0.4, 0.9), rng.uniform(0.12, 0.4))
    painting = gradient(width, height, [(0, haze), (1, deep)], turns=rng.random())
    light = (rng.uniform(0, 1), rng.uniform(0, 1) * height / width)
    painting = glow(painting, light, rng.uniform(0.15, 0.5), haze, rng.uniform(0.1, 0.7))
    leaves = noise(rng, width, height, cells=rng.uniform(3, 8), octaves=6)
    cover = rng.uniform(0.35, 0.65)
    painting = paint(
        painting, hsv(season + 0.03, 0.8, rng.uniform(0.3, 0.7)), 0.8 * smoothstep(leaves, cover, cover + 0.15)
    )
    ground = height * rng.uniform(0.6, 1.1) + np.linspace(-1, 1, width) * rng.uniform(-0.25, 0.25) * height
    floor = mix(deep, hsv(rng.uniform(0.05, 0.3), 0.6, 0.35), rng.uniform(0.2, 0.8))
    painting = paint(painting, floor, below(ground, height))
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
    lit = pick(rng, -1, 1) * half
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
    sky = hsv(pick(rng, 0.55, 0.6, 0.08, 0.5), rng.uniform(0.1, 0.6), rng.uniform(0.7, 1.0))
    painting = gradient(width, height, [(0, sky), (1, mix(sky, (1, 1, 1), 0.6))])
    line = horizon + ridge(rng, width, bumps=2, roughness=0.5) * rng.uniform(-0.2, 0.2) * height
    green = hsv(rng.uniform(0.2, 0.4), rng.uniform(0.4, 0.8), rng.uniform(0.2, 0.55))
    meadow = noise(rng, width, height, cells=rng.uniform(3, 10), octaves=6)
    grass = np.asarray(green, np.float32) * (0.4 + 1.2 * meadow[..., None])
    painting = paint(painting, grass.astype(np.float32), below(line, height))
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
