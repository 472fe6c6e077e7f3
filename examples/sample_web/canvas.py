"""What the scenes are painted with: seeded generators, smooth noise, gradients, ridges, soft masks.

A field is float32 [height, width]; a painting is float32 [height, width, 3] in [0, 1]; a box is in pixels.
"""

import colorsys
import hashlib
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
    total: Field = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        across = max(2, round(cells * 2**octave / stretch) + 1)
        down = max(2, round(cells * 2**octave * height / width) + 1)
        if across > width or down > height:
            break
        coarse = Image.fromarray(rng.random((down, across), np.float32))
        total += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) * 0.5**octave
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


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
    angle = 2 * np.pi * turns
    along = np.sin(angle) * (x / max(width - 1, 1) - 0.5) + np.cos(angle) * (y / max(height - 1, 1) - 0.5)
    reach = (abs(np.sin(angle)) + abs(np.cos(angle))) / 2
    place = (along / reach + 1) / 2
    positions = [stop[0] for stop in stops]
    channels = [np.interp(place, positions, [stop[1][channel] for stop in stops]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def paint(painting: Painting, colour: Colour | Painting, mask: Field) -> Painting:
    """`colour` laid over the painting where the mask is 1."""
    return painting + (np.asarray(colour, np.float32) - painting) * mask[..., None]


def smoothstep(field: Field, low: float, high: float) -> Field:
    """0 below `low`, 1 above `high`, an S between."""
    t = np.clip((field - low) / (high - low), 0.0, 1.0).astype(np.float32)
    return t * t * (3 - 2 * t)


def below(line: NDArray[np.float32], height: int) -> Field:
    """Mask [height, width] of what lies under a skyline given in pixels from the top, one pixel soft."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    return np.clip(rows - line[None, :] + 0.5, 0.0, 1.0).astype(np.float32)


def polygon(width: int, height: int, points: Points, *, blur: float = 0.0) -> Field:
    """Mask of a filled polygon, optionally soft by a Gaussian of `blur` pixels."""
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in points], fill=255)
    if blur > 0:
        mask = mask.filter(ImageFilter.GaussianBlur(blur))
    return np.asarray(mask, np.float32) / 255


def to_image(painting: Painting) -> Image.Image:
    """The painting as an RGB image."""
    return Image.fromarray((np.clip(painting, 0.0, 1.0) * 255 + 0.5).astype(np.uint8))


def to_painting(image: Image.Image) -> Painting:
    """An RGB image as a painting."""
    return np.asarray(image, np.float32) / 255
