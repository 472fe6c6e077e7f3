"""The whole sample web as a plan: every URL with what is served for it, why it is there, and where it must end.

A plan holds recipes, no pixels, and follows from its seed and size alone.
"""

from dataclasses import dataclass
from typing import Literal

from examples.sample_web.canvas import generator
from examples.sample_web.cases import KEPT, PLAIN, SPECIALS, Answer, Special
from examples.sample_web.concepts import CONCEPTS
from examples.sample_web.hosts import CONTENT_HOSTS, FILE_HOSTS, PAGE_HOSTS, url_of
from examples.sample_web.photographs import PHOTOGRAPHS, bears_copies
from examples.sample_web.recipes import Recipe

Markup = Literal["img", "base", "srcset", "picture", "lazy", "lazy_noscript", "noscript", "og_image"]
FULL_SIZE = 2000
ABSENT = "absent"
"""In `allowed`: the URL need not occur at all (a candidate of a srcset that a browser would not choose)."""

_EXTENSIONS = {
    "animated_gif": "gif",
    "avif": "avif",
    "bmp": "bmp",
    "bomb_png": "png",
    "palette_png": "png",
    "png": "png",
    "png16": "png",
    "svg": "svg",
    "tiff": "tif",
    "webp": "webp",
}
_SHAPES = ((4, 3), (3, 2), (1, 1), (3, 4), (16, 9), (2, 3), (5, 4))
_FOLDERS = ("img", "media", "2024/05", "2025/11", "uploads", "pics/large")


@dataclass(frozen=True)
class Resource:
    """One image URL. `group` names pictures that are copies of one another; `tainted` groups touch a benchmark."""

    url: str
    case: str
    concept: str
    allowed: tuple[str, ...]
    recipe: Recipe | None = None
    answer: Answer = PLAIN
    group: str = ""
    tainted: bool = False


@dataclass(frozen=True)
class Figure:
    """One place in a page where one image is named; a srcset or a picture names several files of it.

    `urls` are written as they stand where `verbatim`, else in any form that a browser resolves to the same.
    """

    markup: Markup
    urls: tuple[str, ...]
    concept: str
    verbatim: bool = False


class Planner:
    """Collects resources and figures, and hands out seeds, sizes, concepts and URLs, each one once."""

    def __init__(self, seed: int, num_images: int) -> None:
        self.seed, self.num_images = seed, num_images
        self.resources: list[Resource] = []
        self.figures: list[Figure] = []
        self._rng = generator("plan", seed)
        self._photographs = [str(name) for name in self._rng.permutation(PHOTOGRAPHS)]
        self._turn = 0

    def count(self, full: int, few: int) -> int:
        """How many of a thing that a web of 2,000 images has `full` of."""
        return max(few, round(full * self.num_images / FULL_SIZE))

    def new_seed(self) -> int:
        return int(self._rng.integers(2**62))

    def choose(self, low: int, high: int) -> int:
        """An integer in [low, high)."""
        return int(self._rng.integers(low, high))

    def chance(self, share: float) -> bool:
        return bool(self._rng.random() < share)

    def concept(self) -> str:
        """The concepts in turn, so that all are equally frequent."""
        self._turn += 1
        return CONCEPTS[self._turn % len(CONCEPTS)]

    def size(self, shortest: int = 224, longest: int = 360) -> tuple[int, int]:
        """Width and height; the longer side is drawn from [shortest, longest] pixels."""
        across, down = _SHAPES[self.choose(0, len(_SHAPES))]
        scale = self.choose(shortest, longest + 1) / max(across, down)
        return round(across * scale), round(down * scale)

    def new_recipe(self, *, encoding: str = "jpeg", large: bool = False) -> Recipe:
        """A picture that no other is a copy of: mostly a scene, a photograph while there are any left.

        `large` ones bear to be cropped and made smaller, and have no long narrow shape.
        """
        photographs = [name for name in self._photographs if not large or bears_copies(name)]
        if encoding == "jpeg" and photographs and self.chance(0.06):
            self._photographs.remove(photographs[0])
            return Recipe(f"photo:{photographs[0]}", 0, (400, 400) if large else (320, 320))
        size = self.size(340, 400) if large else self.size()
        while large and min(size) < 220:
            size = self.size(340, 400)
        return Recipe(self.concept(), self.new_seed(), size, encoding=encoding)

    def new_url(self, recipe: Recipe, host: str | None = None, folder: str | None = None) -> str:
        """A URL no other resource has; by default a third lie on hosts that only serve files."""
        if host is None:
            hosts = FILE_HOSTS if self.chance(0.3) else PAGE_HOSTS
            host = hosts[self.choose(0, len(hosts))]
        if folder is None:
            folder = _FOLDERS[self.choose(0, len(_FOLDERS))]
        stem = recipe.subject.replace("photo:", "").replace("_", "-")
        name = f"{stem}-{len(self.resources):05d}.{_EXTENSIONS.get(recipe.encoding, 'jpg')}"
        return url_of(host, f"/{folder}/{name}")

    def add(self, resource: Resource, markup: Markup | None = "img") -> Resource:
        """Plan the resource and, unless markup is None, one figure that names it."""
        self.resources.append(resource)
        if markup is not None:
            self.figures.append(Figure(markup, (resource.url,), resource.concept))
        return resource


def concept_of(recipe: Recipe) -> str:
    """What a picture shows: a concept, "photograph", or nothing."""
    if recipe.subject.startswith("photo:") or recipe.subject == "portrait":
        return "photograph"
    return recipe.subject if recipe.subject in CONCEPTS else ""


def plan_specials(planner: Planner) -> None:
    """The cases about one URL: formats, bad bytes, bad servers, opt-outs."""
    for special in SPECIALS:
        for number in range(planner.count(special.full, special.few)):
            _plan_special(planner, special, number)


def _plan_special(planner: Planner, special: Special, number: int) -> None:
    size = special.sizes[number % len(special.sizes)] if special.sizes else planner.size()
    subject = "blank" if special.blank else planner.concept()
    recipe = Recipe(subject, planner.new_seed(), size, encoding=special.encoding)
    host = special.hosts[number % len(special.hosts)] if special.hosts else None
    answer = special.answers[number % len(special.answers)]
    url = planner.new_url(recipe, host, special.folder or None)
    planner.add(Resource(url, special.case, concept_of(recipe), special.allowed, recipe, answer))


def plan_faces(planner: Planner) -> None:
    """Scenes with one or more heads pasted on, faces from 24 to 160 pixels tall, and the portrait they come from."""
    heights = (48, 160, 24, 96, 64, 128, 32, 112, 40, 80)
    for number in range(planner.count(40, 6)):
        size = ((480, 360), (400, 400), (360, 480), (460, 350))[number % 4]
        faces: tuple[int, ...] = (heights[number % len(heights)],)
        if number % 5 == 4:
            faces = (faces[0], 56, 36)[: 2 + number % 2]
        recipe = Recipe(planner.concept(), planner.new_seed(), size, faces=faces)
        planner.add(Resource(planner.new_url(recipe), "face", recipe.subject, KEPT, recipe))
    portrait = Recipe("portrait", 0, (400, 400))
    planner.add(Resource(planner.new_url(portrait), "face", "photograph", KEPT, portrait))


def plan_plain(planner: Planner) -> None:
    """Distinct pictures, up to the wanted number of URLs. Raises ValueError if it leaves too few of them."""
    missing = planner.num_images - len(planner.resources)
    if missing < 10:
        raise ValueError(
            f"num_images={planner.num_images} leaves {missing} plain images beside the planted cases; "
            f"ask for at least {planner.num_images + 10 - missing}"
        )
    for _ in range(missing):
        recipe = planner.new_recipe()
        answer = Answer("chunked") if planner.chance(0.05) else PLAIN
        host = CONTENT_HOSTS[planner.choose(0, len(CONTENT_HOSTS))]
        planner.add(Resource(planner.new_url(recipe, host), "plain", concept_of(recipe), KEPT, recipe, answer))
