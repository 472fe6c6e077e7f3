"""What is done to a picture that is passed on: text and drawings laid over it, frames, turns, JPEG at low quality.

Pictures are uint8 RGB [height, width, 3]. All places and sizes are shares of the picture, so that an edit means the
same on a picture that was decoded smaller.
"""

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from storage.images import decode_rgb, encode_jpeg

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]
Point = tuple[float, float]
SMOOTH: Final = 4
"""Drawings are made so many times larger and reduced: their edges are smooth. Large ones need it less."""
SMOOTH_PIXELS: Final = 512
LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 .,!?@#&-"
MAX_LETTERS: Final = 16
MIN_TEXT_PIXELS: Final = 6


class Text(NamedTuple):
    """A line of text."""

    content: str
    size: float
    """Share of the picture's shorter side."""
    place: Point
    """Left and top, as shares of the room that is left."""
    colour: Colour
    opacity: float


class Drawing(NamedTuple):
    """A flat drawing, such as people put on pictures."""

    shape: int
    """Number in SHAPES."""
    size: float
    place: Point
    colours: tuple[Colour, Colour]
    opacity: float


class Frame(NamedTuple):
    """A rim of one colour around the picture."""

    share: float
    """Of the longer side."""
    colour: Colour


def draw_text(rng: np.random.Generator) -> Text:
    """Letters, a size of a tenth to three tenths, place, colour and opacity by chance, as SSCD draws them."""
    content = "".join(LETTERS[letter] for letter in rng.integers(len(LETTERS), size=rng.integers(1, MAX_LETTERS + 1)))
    return Text(content, rng.uniform(0.1, 0.3), _place(rng), _colour(rng), rng.uniform(0.1, 1.0))


def draw_drawing(rng: np.random.Generator) -> Drawing:
    """A drawing of a tenth to half the picture's side, hardly transparent, as SSCD draws its emoji."""
    shape, size = int(rng.integers(len(SHAPES))), rng.uniform(0.1, 0.5)
    return Drawing(shape, size, _place(rng), (_colour(rng), _colour(rng)), rng.uniform(0.7, 1.0))


def draw_frame(rng: np.random.Generator) -> Frame:
    """A thin rim: white, black or of any colour."""
    colour = [(255, 255, 255), (0, 0, 0), _colour(rng)][int(rng.integers(3))]
    return Frame(rng.uniform(0.02, 0.12), colour)


def with_text(image: Pixels, text: Text) -> Pixels:
    """The picture with a line of text on it; what does not fit is cut off."""
    height, width = image.shape[:2]
    font = ImageFont.load_default(size=max(MIN_TEXT_PIXELS, round(text.size * min(height, width))))
    left, top, right, bottom = font.getbbox(text.content)
    size = (max(1, min(width, math.ceil(right - left))), max(1, min(height, math.ceil(bottom - top))))
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).text((-left, -top), text.content, font=font, fill=255)
    return _laid_over(image, Image.new("RGB", size, text.colour), mask, text.place, text.opacity)


def with_drawing(image: Pixels, drawing: Drawing) -> Pixels:
    """The picture with a drawing on it."""
    side = max(2, round(drawing.size * min(image.shape[:2])))
    smooth = min(SMOOTH, max(1, SMOOTH_PIXELS // side))
    large = side * smooth
    layer, mask = Image.new("RGB", (large, large), drawing.colours[0]), Image.new("L", (large, large))
    SHAPES[drawing.shape](Pen(ImageDraw.Draw(layer), ImageDraw.Draw(mask), large, drawing.colours[1]))
    layer, mask = layer.reduce(smooth), mask.reduce(smooth)
    return _laid_over(image, layer, mask, drawing.place, drawing.opacity)


def with_frame(image: Pixels, frame: Frame) -> Pixels:
    """The picture inside a rim."""
    rim = max(1, round(frame.share * max(image.shape[:2])))
    height, width = image.shape[:2]
    framed = np.empty((height + 2 * rim, width + 2 * rim, 3), np.uint8)
    framed[:] = frame.colour
    framed[rim:-rim, rim:-rim] = image
    return framed


def turned(image: Pixels, degrees: float) -> Pixels:
    """Turned counter-clockwise, grown to hold all of the picture; corners are black."""
    quarters, rest = divmod(degrees, 90)
    if rest == 0:
        return np.rot90(image, int(quarters))
    return np.array(Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR, expand=True))


def turned_size(height: int, width: int, degrees: float) -> tuple[int, int]:
    """Height and width of what `turned` gives, but for rounding."""
    quarters, rest = divmod(degrees, 90)
    if rest == 0:
        return (width, height) if int(quarters) % 2 else (height, width)
    sine, cosine = abs(math.sin(math.radians(degrees))), abs(math.cos(math.radians(degrees)))
    return math.ceil(width * sine + height * cosine), math.ceil(width * cosine + height * sine)


def stored(image: Pixels, quality: int) -> Pixels:
    """Stored as JPEG at a quality of 1 to 100, and read again."""
    return decode_rgb(encode_jpeg(image, quality=quality))


class Pen(NamedTuple):
    """Draws what is filled with the drawing's first colour, and marks on it of the second."""

    layer: ImageDraw.ImageDraw
    mask: ImageDraw.ImageDraw
    side: int
    second: Colour

    def fill(self, *corners: Point) -> None:
        """A polygon; corners as shares of the side."""
        self.mask.polygon([(x * self.side, y * self.side) for x, y in corners], fill=255)

    def disc(self, x: float, y: float, radius: float, *, mark: bool = False) -> None:
        """A disc, filled or as a mark."""
        box = [value * self.side for value in (x - radius, y - radius, x + radius, y + radius)]
        if mark:
            self.layer.ellipse(box, fill=self.second)
        else:
            self.mask.ellipse(box, fill=255)

    def arc(self, x: float, y: float, radius: float, degrees: tuple[float, float]) -> None:
        """A mark along a circle, clockwise from the right."""
        box = [value * self.side for value in (x - radius, y - radius, x + radius, y + radius)]
        self.layer.arc(box, *degrees, fill=self.second, width=max(1, self.side // 14))


def _face(pen: Pen, mouth: tuple[float, float, float]) -> None:
    pen.disc(0.5, 0.5, 0.49)
    pen.disc(0.33, 0.38, 0.07, mark=True)
    pen.disc(0.67, 0.38, 0.07, mark=True)
    pen.arc(0.5, mouth[0], 0.25, (mouth[1], mouth[2]))


def _glad(pen: Pen) -> None:
    _face(pen, (0.52, 20, 160))


def _sad(pen: Pen) -> None:
    _face(pen, (0.92, 220, 320))


def _heart(pen: Pen) -> None:
    pen.disc(0.27, 0.3, 0.25)
    pen.disc(0.73, 0.3, 0.25)
    pen.fill((0.06, 0.44), (0.94, 0.44), (0.5, 0.98))
    pen.fill((0.27, 0.2), (0.73, 0.2), (0.73, 0.5), (0.27, 0.5))


def _star(pen: Pen) -> None:
    corners = []
    for corner in range(10):
        radius, angle = (0.5, 0.2)[corner % 2], math.pi * (corner / 5 - 0.5)
        corners.append((0.5 + radius * math.cos(angle), 0.5 + radius * math.sin(angle)))
    pen.fill(*corners)


def _arrow(pen: Pen) -> None:
    pen.fill((0.0, 0.36), (0.55, 0.36), (0.55, 0.1), (1.0, 0.5), (0.55, 0.9), (0.55, 0.64), (0.0, 0.64))


def _tick(pen: Pen) -> None:
    pen.fill((0.02, 0.55), (0.16, 0.4), (0.38, 0.62), (0.84, 0.12), (0.98, 0.26), (0.38, 0.92))


def _bubble(pen: Pen) -> None:
    pen.fill((0.0, 0.08), (1.0, 0.08), (1.0, 0.7), (0.45, 0.7), (0.2, 0.98), (0.22, 0.7), (0.0, 0.7))
    for x in (0.25, 0.5, 0.75):
        pen.disc(x, 0.39, 0.07, mark=True)


def _sign(pen: Pen) -> None:
    pen.disc(0.5, 0.5, 0.49)
    pen.layer.rectangle([value * pen.side for value in (0.2, 0.42, 0.8, 0.58)], fill=pen.second)


def _drop(pen: Pen) -> None:
    pen.disc(0.5, 0.66, 0.33)
    pen.fill((0.5, 0.0), (0.8, 0.52), (0.2, 0.52))


def _cross(pen: Pen) -> None:
    pen.fill((0.1, 0.0), (1.0, 0.9), (0.9, 1.0), (0.0, 0.1))
    pen.fill((0.9, 0.0), (1.0, 0.1), (0.1, 1.0), (0.0, 0.9))


SHAPES: Final[tuple[Callable[[Pen], None], ...]] = (
    _glad, _sad, _heart, _star, _arrow, _tick, _bubble, _sign, _drop, _cross,
)  # fmt: skip


def _laid_over(image: Pixels, layer: Image.Image, mask: Image.Image, place: Point, opacity: float) -> Pixels:
    """`layer` on the picture where `mask` says so, its corner at a share of the room that is left for it."""
    changed = Image.fromarray(image)
    left = round(place[0] * max(0, changed.width - layer.width))
    top = round(place[1] * max(0, changed.height - layer.height))
    changed.paste(layer, (left, top), mask.point(lambda value: value * opacity))
    return np.array(changed)


def _place(rng: np.random.Generator) -> Point:
    return rng.random(), rng.random()


def _colour(rng: np.random.Generator) -> Colour:
    red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
    return red, green, blue
