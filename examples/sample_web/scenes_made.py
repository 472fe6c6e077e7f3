"""Scenes of made and small things: city at night, circuit board, checked and tartan cloth, bubbles, sea floor, galaxy.

As with the landscapes, layout and palette come from the generator; colour and texture tell the concept.
"""

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
    hue = rng.choice([0.36, 0.42, 0.6, 0.0, 0.8, 0.1]) + rng.normal(0, 0.02)
    board = hsv(hue, rng.uniform(0.5, 0.95), rng.uniform(0.15, 0.45))
    tint = noise(rng, width, height, cells=2, octaves=3)[..., None]
    whole = to_image((np.asarray(board, np.float32) * (0.6 + 0.8 * tint)).astype(np.float32))
    draw = ImageDraw.Draw(whole)
    trace = rgb8(mix(board, hsv(rng.choice([0.12, hue]), 0.6, 0.95), rng.uniform(0.35, 0.7)))
    pad = rgb8(hsv(rng.choice([0.12, 0.1, 0.6]), rng.uniform(0.1, 0.6), rng.uniform(0.7, 0.95)))
    step, thick = width / rng.uniform(18, 40), int(rng.integers(2, 6))
    for _ in range(rng.integers(8, 26)):
        _bus(rng, draw, (rng.uniform(0, width), rng.uniform(0, height)), step, thick, (trace, pad))
    for _ in range(rng.integers(1, 7)):
        _chip(rng, draw, (width, height))
    for _ in range(rng.integers(0, 9)):
        x, y, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.02, 0.1) * width
        metal = hsv(rng.choice([0.6, 0.1, 0.0]), rng.uniform(0, 0.6), rng.uniform(0.4, 0.95))
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
        heading += int(rng.choice([-1, 1]))
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
    body = rgb8(hsv(rng.random(), rng.uniform(0, 0.3), rng.choice([0.08, 0.12, 0.18, 0.75])))
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
    angle, lean = rng.uniform(0, np.pi), rng.uniform(-0.5, 0.5)
    u = np.cos(angle) * x + np.sin(angle) * y
    v = -np.sin(angle) * x + np.cos(angle) * y
    view = 1 + lean * (y - 0.5) + rng.uniform(-0.5, 0.5) * (x - 0.5)
    bulge = noise(rng, width, height, cells=rng.uniform(1.5, 4), octaves=2)
    u, v = u * view + folds * bulge, v * view + folds * np.roll(bulge, width // 3, axis=1)
    turn = rng.uniform(0, 2 * np.pi)
    slope = np.cos(turn) * np.gradient(bulge, axis=1) + np.sin(turn) * np.gradient(bulge, axis=0)
    light = np.clip(0.8 + rng.uniform(12, 35) * slope * width / 300, 0.2, 1.35)
    return u.astype(np.float32), v.astype(np.float32), light.astype(np.float32)


def checkered(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Cloth in squares of two strong colours, folded and lit, with a patch, a hem or buttons on it."""
    u, v, light = _cloth(rng, width, height, folds=rng.uniform(0.05, 0.3))
    count = rng.uniform(5, 16)
    squares = (np.floor(u * count) + np.floor(v * count)) % 2
    hue = rng.random()
    dark = hsv(hue, rng.uniform(0.5, 1), rng.uniform(0.05, 0.6))
    pale = hsv(hue + rng.choice([0.0, 0.5, 0.1]), rng.uniform(0, 0.4), rng.uniform(0.8, 1))
    painting = paint(np.broadcast_to(np.float32(dark), (height, width, 3)), pale, squares.astype(np.float32))
    accent = hsv(hue + rng.uniform(0.2, 0.8), rng.uniform(0.5, 1), rng.uniform(0.4, 1))
    x, y = grid(width, height)
    for _ in range(rng.integers(1, 4)):
        centre, radius = rng.uniform(0, 1, 2) * (1, height / width), rng.uniform(0.06, 0.28)
        across, down = np.abs(x - centre[0]), np.abs(y - centre[1])
        shape = rng.choice(["round", "diamond", "square"])
        reach = {"round": np.hypot(across, down), "diamond": across + down, "square": np.maximum(across, down)}[shape]
        painting = paint(painting, accent, smoothstep(-reach, -radius, -radius + 0.006))
        painting = paint(painting, pale, smoothstep(-np.abs(reach - radius * 0.75), -0.012, -0.008))
    return to_image((painting * light[..., None]).astype(np.float32))


def tartan(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Woven wool: one sequence of coloured bands, mirrored, run both ways and crossed in a twill."""
    u, v, light = _cloth(rng, width, height, folds=rng.uniform(0.02, 0.15))
    ground = hsv(
        rng.choice([0.0, 0.35, 0.62, 0.1, 0.5]) + rng.normal(0, 0.02), rng.uniform(0.6, 0.9), rng.uniform(0.2, 0.6)
    )
    other = hsv(rng.random(), rng.uniform(0.5, 0.9), rng.uniform(0.1, 0.5))
    thread = hsv(rng.choice([0.14, 0.0, 0.55, 0.3]), rng.uniform(0, 0.9), rng.uniform(0.75, 1))
    bands = [ground, other, ground, thread, other, ground, thread]
    edges = np.cumsum(rng.uniform([3, 2, 1, 0.3, 1, 1, 0.3], [8, 6, 4, 0.8, 4, 3, 0.8]))
    repeats = rng.uniform(1.0, 3.5)

    def dye(along: Field) -> Painting:
        folded = np.abs((along * repeats) % 2 - 1) * edges[-1]
        return np.asarray(bands, np.float32)[np.minimum(np.searchsorted(edges, folded), len(bands) - 1)]

    fine = 90
    over = ((np.floor(u * fine) + np.floor(v * fine)) % 4 < 2).astype(np.float32) * 0.5 + 0.25
    painting = paint(dye(u), dye(v), over)
    return to_image((painting * light[..., None] * (0.9 + 0.2 * over[..., None])).astype(np.float32))


def bubbles(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Soap bubbles of many sizes, rims iridescent, floating before a plain blend of colours."""
    hue = rng.random()
    ends = [
        hsv(hue + shift, rng.uniform(0.3, 0.8), value)
        for shift, value in ((0, rng.uniform(0.5, 1)), (rng.uniform(0.05, 0.5), rng.uniform(0.1, 0.6)))
    ]
    painting = gradient(width, height, [(0, ends[0]), (1, ends[1])], turns=rng.random())
    count = int(rng.integers(6, 34))
    radii = np.sort(rng.uniform(0.15, 1, count) ** 2.5)[::-1] * rng.uniform(0.18, 0.4) * width
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
        bed = mix(deep, hsv(rng.choice([0.1, 0.95, 0.05, 0.45]), 0.6, rng.uniform(0.2, 0.8)), 0.3 + 0.2 * layer)
        painting = paint(
            painting,
            (np.asarray(bed, np.float32) * (0.6 + 0.7 * grain)).astype(np.float32),
            below(line.astype(np.float32), height),
        )
    whole = to_image(painting)
    draw = ImageDraw.Draw(whole)
    for _ in range(rng.integers(0, 6)):
        _coral(rng, draw, (width, height))
    schools = rng.integers(1, 4)
    for _ in range(schools):
        middle, size = rng.uniform(0, 1, 2) * (width, height), rng.uniform(0.025, 0.16) * width
        colour, heading = (
            hsv(rng.choice([0.08, 0.14, 0.0, 0.6, 0.9]), rng.uniform(0.3, 1), rng.uniform(0.5, 1)),
            rng.choice([-1, 1]),
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
    colour = rgb8(hsv(rng.choice([0.95, 0.02, 0.08, 0.3, 0.78]), rng.uniform(0.5, 0.9), rng.uniform(0.3, 0.9)))
    for lean in rng.normal(0, 0.35, rng.integers(4, 12)):
        bend = rng.normal(0, 0.2)
        points = [(root + tall * (lean * t + bend * t * t), height - tall * t) for t in np.linspace(0, 1, 8)]
        draw.line(points, fill=colour, width=max(3, int(tall * 0.06)), joint="curve")


def _fish(
    draw: ImageDraw.ImageDraw,
    centre: tuple[float, float],
    size: float,
    heading: int,
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
    x, y = grid(width, height)
    painting = np.broadcast_to(
        np.float32(hsv(rng.uniform(0.6, 0.85), 0.7, rng.uniform(0.02, 0.12))), (height, width, 3)
    )
    for _ in range(rng.integers(1, 4)):
        gas = noise(rng, width, height, cells=rng.uniform(1.2, 4), octaves=6)
        painting = paint(
            painting,
            hsv(rng.random(), rng.uniform(0.5, 0.9), rng.uniform(0.3, 0.9)),
            0.7 * smoothstep(gas, rng.uniform(0.35, 0.6), 1.0),
        )
    centre, tilt, flat = rng.uniform(0.1, 0.9, 2) * (1, height / width), rng.uniform(0, np.pi), rng.uniform(0.25, 0.95)
    dx, dy = x - centre[0], y - centre[1]
    along, across = np.cos(tilt) * dx + np.sin(tilt) * dy, (-np.sin(tilt) * dx + np.cos(tilt) * dy) / flat
    radius, angle = np.hypot(along, across) + 1e-4, np.arctan2(across, along)
    arms, wind, reach = int(rng.integers(2, 5)), rng.choice([-1, 1]) * rng.uniform(2, 5), rng.uniform(0.12, 0.4)
    spiral = (0.5 + 0.5 * np.cos(arms * (angle + wind * np.log(radius)))) ** rng.uniform(1, 3) * np.exp(
        -((radius / reach) ** 2)
    )
    dust = 0.5 + noise(rng, width, height, cells=12, octaves=4)
    glow = hsv(rng.random(), rng.uniform(0.2, 0.7), 1)
    painting = (
        painting
        + (spiral * dust)[..., None] * np.float32(glow)
        + np.exp(-((radius / (reach * 0.25)) ** 2))[..., None] * np.float32((1, 0.95, 0.85))
    )
    stars = rng.random((height, width)) > 1 - rng.uniform(0.001, 0.006)
    painting = painting + (stars * rng.uniform(0.3, 1, (height, width)))[..., None]
    whole = to_image(painting.astype(np.float32))
    draw = ImageDraw.Draw(whole)
    for _ in range(rng.integers(2, 14)):
        px, py, size = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.003, 0.011) * width
        draw.line([(px - size * 4, py), (px + size * 4, py)], fill=(160, 170, 200))
        draw.line([(px, py - size * 4), (px, py + size * 4)], fill=(160, 170, 200))
        draw.ellipse((px - size, py - size, px + size, py + size), fill=(255, 250, 240))
    return _planet(rng, whole) if rng.random() < 0.5 else whole


def _planet(rng: np.random.Generator, whole: Image.Image) -> Image.Image:
    width, height = whole.size
    x, y = grid(width, height)
    radius, centre = rng.uniform(0.06, 0.35), rng.uniform(0, 1, 2) * (1, height / width)
    dx, dy = (x - centre[0]) / radius, (y - centre[1]) / radius
    inside = smoothstep(-np.hypot(dx, dy), -1.0, -1.0 + 0.01 / radius)
    turn = rng.uniform(0, 2 * np.pi)
    light = np.clip(0.15 + 0.9 * (np.cos(turn) * dx + np.sin(turn) * dy) + 0.3, 0.03, 1.1)
    bands = noise(rng, width, height, cells=rng.uniform(4, 10), stretch=rng.uniform(1, 4), octaves=4)
    first, second = hsv(rng.random(), rng.uniform(0.3, 0.8), 0.9), hsv(rng.random(), rng.uniform(0.2, 0.7), 0.6)
    ball = paint(np.broadcast_to(np.float32(first), (height, width, 3)), second, bands) * light[..., None]
    return to_image(paint(np.asarray(whole, np.float32) / 255, ball.astype(np.float32), inside))
