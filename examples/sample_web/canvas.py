"""What the scenes are painted with: seeded generators, smooth noise, gradients, ridges, soft masks.

A field is float32 [height, width]; a painting is float32 [height, width, 3] in [0, 1]; a box is in pixels.
"""

import colorsys
import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Field = NDArray[np.float32]
Painting = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Colour = tuple[float, float, float]
Points = Sequence[tuple[float, float]]


def generator(*parts: str | int) -> np.random.Generator:
    """An independent random stream named by its parts, the same on every machine and Python version."""
    name = "\x1f".join(str(part) for part in parts)
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "big"))


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """RGB in [0, 1]; the hue is in turns and wraps, saturation and value are clipped."""
    return colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))


def rgb8(colour: Colour) -> tuple[int, int, int]:
    """The same colour as PIL draws it."""
    red, green, blue = (round(255 * min(max(channel, 0.0), 1.0)) for channel in colour)
    return red, green, blue


def shade(colour: Colour, factor: float) -> Colour:
    """The colour under `factor` times the light."""
    return (min(colour[0] * factor, 1.0), min(colour[1] * factor, 1.0), min(colour[2] * factor, 1.0))


def pick(rng: np.random.Generator, *options: float) -> float:
    """One of the options, each as likely; a Python float, so that float32 paintings stay float32."""
    return float(options[int(rng.integers(len(options)))])


def mix(first: Colour, second: Colour, amount: float) -> Colour:
    """`first` at 0, `second` at 1."""
    red, green, blue = (a + (b - a) * amount for a, b in zip(first, second, strict=True))
    return red, green, blue


def grid(width: int, height: int) -> tuple[Field, Field]:
    """Pixel coordinates x [height, width] and y [height, width] over the width, so that 1.0 is one picture width."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return x / width, y / width


def noise(
    rng: np.random.Generator, width: int, height: int, *, cells: float = 4.0, octaves: int = 4, stretch: float = 1.0
) -> Field:
    """Fractal value noise in [0, 1]: `cells` features over the width in the first octave, halving in size after.

    `stretch` > 1 draws features out along x.
    """
    total = np.zeros((1, 1), np.float32)
    for octave in range(octaves):
        across = max(2, round(cells * 2**octave / stretch) + 1)
        down = max(2, round(cells * 2**octave * height / width) + 1)
        if across > width or down > height:
            break
        total = _enlarged(total, across, down) + rng.random((down, across), np.float32) * np.float32(0.5**octave)
    total = _enlarged(total, width, height)
    low, high = float(total.min()), float(total.max())
    return np.asarray((total - low) * np.float32(1 / max(high - low, 1e-6)), np.float32)


def _enlarged(field: Field, width: int, height: int) -> Field:
    return np.asarray(Image.fromarray(field).resize((width, height), Image.Resampling.BICUBIC))


def ridge(rng: np.random.Generator, width: int, *, bumps: float, roughness: float) -> NDArray[np.float32]:
    """A fractal skyline [width] in [0, 1]; `roughness` is the share each finer octave keeps."""
    steps = np.arange(width, dtype=np.float64) / width
    total = np.zeros(width)
    for octave in range(7):
        knots = max(2, round(bumps * 2**octave) + 2)
        total += np.interp(steps, np.linspace(0, 1, knots), rng.random(knots)) * roughness**octave
    return ((total - total.min()) / max(float(np.ptp(total)), 1e-6)).astype(np.float32)


def gradient(width: int, height: int, stops: Sequence[tuple[float, Colour]], *, turns: float = 0.0) -> Painting:
    """Colours blended along a direction (0 turns = top to bottom), stops at positions in [0, 1]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = 2 * math.pi * turns
    along = math.sin(angle) * (x / max(width - 1, 1) - 0.5) + math.cos(angle) * (y / max(height - 1, 1) - 0.5)
    reach = (abs(math.sin(angle)) + abs(math.cos(angle))) / 2
    fine = np.linspace(0, 1, 1024)
    ramp = [np.interp(fine, [stop[0] for stop in stops], [stop[1][channel] for stop in stops]) for channel in range(3)]
    place = np.clip((along / reach + 1) * (len(fine) / 2), 0, len(fine) - 1).astype(np.int32)
    return np.stack(ramp, axis=-1).astype(np.float32).take(place, axis=0)


def paint(painting: Painting, colour: Colour | Painting, mask: Field) -> Painting:
    """`colour` laid over the painting where the mask is 1; a new painting."""
    rows = np.flatnonzero(mask.any(axis=1))
    painted = painting.astype(np.float32)
    if rows.size == 0:
        return painted
    part = slice(int(rows[0]), int(rows[-1]) + 1)  # most masks leave much of the picture alone
    whole = np.broadcast_to(np.asarray(colour, np.float32), painted.shape)
    change = whole[part] - painted[part]
    change *= mask[part].astype(np.float32, copy=False)[..., None]
    painted[part] += change
    return painted


def glow(painting: Painting, centre: tuple[float, float], radius: float, colour: Colour, strength: float) -> Painting:
    """A light at `centre` (in picture widths) that brightens its surroundings."""
    height, width = painting.shape[:2]
    x, y = grid(width, height)
    distance = ((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / radius**2
    light = (strength * np.exp(-distance)).astype(np.float32)[..., None] * np.asarray(colour, np.float32)
    return np.asarray(painting + light, np.float32)


def smoothstep(field: Field, low: float, high: float) -> Field:
    """0 below `low`, 1 above `high`, an S between."""
    t = np.clip((field - np.float32(low)) * np.float32(1 / (high - low)), 0.0, 1.0)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def below(line: NDArray[np.floating], height: int) -> Field:
    """Mask [height, width] of what lies under a skyline given in pixels from the top, one pixel soft."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    return np.asarray(np.clip(rows - line.astype(np.float32)[None, :] + np.float32(0.5), 0.0, 1.0), np.float32)


def polygon(width: int, height: int, points: Points, *, blur: float = 0.0) -> Field:
    """Mask of a filled polygon, optionally soft by a Gaussian of `blur` pixels."""
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in points], fill=255)
    if blur > 0:
        mask = mask.filter(ImageFilter.GaussianBlur(blur))
    return np.asarray(mask, np.float32) / np.float32(255)


def to_image(painting: Painting) -> Image.Image:
    """The painting as an RGB image."""
    return Image.fromarray((np.clip(painting, 0.0, 1.0) * 255 + 0.5).astype(np.uint8))


def to_painting(image: Image.Image) -> Painting:
    """An RGB image as a painting."""
    return np.asarray(image, np.float32) / np.float32(255)
