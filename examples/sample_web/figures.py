"""Planned ways of naming an image in a page, beside the plain <img src>, and URLs that are never fetched."""

from dataclasses import replace
from urllib.parse import urlsplit

from examples.sample_web.cases import KEPT, NEVER_FETCHED
from examples.sample_web.copies import COPY
from examples.sample_web.hosts import CDN, IDN_HOST, STATIC, ascii_name, url_of
from examples.sample_web.plan import ABSENT, Figure, Markup, Planner, Resource, concept_of
from examples.sample_web.recipes import Recipe

BASE_FOLDER = "media/originals"
"""Where images lie that pages with <base href> name by their file name alone."""
BASE_HREF = f"http://{CDN}/{BASE_FOLDER}/"
PLACEHOLDER = url_of(STATIC, "/blank.gif")

_ONE_EACH: tuple[tuple[str, Markup, int, int], ...] = (
    ("lazy", "lazy", 12, 1),
    ("lazy_with_noscript", "lazy_noscript", 8, 1),
    ("noscript", "noscript", 8, 1),
    ("og_image", "og_image", 4, 1),
)
_SRCSET_SCALES = (240, 320, 400)  # pixels wide


def plan_markup(planner: Planner) -> None:
    """Images named by <base> and a relative URL, lazily, in <noscript>, by og:image, in a srcset, in a <picture>."""
    for _ in range(planner.count(12, 2)):
        recipe = planner.new_recipe()
        url = planner.new_url(recipe, CDN, BASE_FOLDER)
        planner.add(Resource(url, "relative_with_base", concept_of(recipe), KEPT, recipe), "base")
    for case, markup, full, few in _ONE_EACH:
        for _ in range(planner.count(full, few)):
            recipe = planner.new_recipe()
            planner.add(Resource(planner.new_url(recipe), case, concept_of(recipe), KEPT, recipe), markup)
    dot = Recipe("blank", planner.new_seed(), (1, 1), encoding="animated_gif")
    planner.add(Resource(PLACEHOLDER, "placeholder", "", ("screen:too_small",), dot), None)
    for _ in range(planner.count(8, 1)):
        _plan_srcset(planner)
        _plan_picture(planner)


def _plan_srcset(planner: Planner) -> None:
    """The same scene at three widths: src names the smallest, a browser takes the largest, the middle one is idle."""
    scene = Recipe(planner.concept(), planner.new_seed(), (_SRCSET_SCALES[-1], 300))
    group, urls = f"srcset-{len(planner.resources):05d}", []
    for width in _SRCSET_SCALES:
        steps = () if width == _SRCSET_SCALES[-1] else (("resize", width),)
        recipe = replace(scene, steps=steps)
        idle = (ABSENT,) if width == _SRCSET_SCALES[1] else ()
        url = planner.new_url(recipe, folder="responsive")
        urls.append(url)
        case = "srcset_largest" if not steps else "srcset_smaller"
        planner.add(Resource(url, case, scene.subject, (*COPY, *idle), recipe, group=group), None)
    planner.figures.append(Figure("srcset", tuple(urls), scene.subject))


def _plan_picture(planner: Planner) -> None:
    """One picture as AVIF, WebP and JPEG."""
    scene = planner.new_recipe(large=True)
    scene = replace(scene, subject=planner.concept(), seed=planner.new_seed(), size=(360, 270))
    group, urls = f"picture-{len(planner.resources):05d}", []
    for form in ("avif", "webp", "jpeg"):
        recipe = replace(scene, encoding=form)
        urls.append(planner.new_url(recipe, folder="responsive"))
        case = "picture" if form != "jpeg" else "picture_fallback"
        planner.add(Resource(urls[-1], case, scene.subject, COPY, recipe, group=group), None)
    planner.figures.append(Figure("picture", tuple(urls), scene.subject))


def plan_spellings(planner: Planner) -> None:
    """One image each that pages name in several spellings, all of one canonical URL; and pages that write Unicode."""
    for number in range(planner.count(12, 4)):
        recipe = planner.new_recipe()
        resource = planner.add(
            Resource(planner.new_url(recipe, folder="img"), "duplicate_url", concept_of(recipe), KEPT, recipe)
        )
        planner.figures += [
            Figure("img", (spelling,), resource.concept, verbatim=True)
            for spelling in _spellings(resource.url)[number % 3 :: 2]
        ]


def _spellings(url: str) -> list[str]:
    """Other ways to write a URL that every browser takes for the same."""
    host, path = urlsplit(url).netloc, urlsplit(url).path
    return [
        f"{url}#figure-2",
        f"http://{host}:80{path}",
        f"HTTP://{host.upper()}{path}",
        f"http://{host}/css/..{path}",
        f"http://{host}/./a/b/../..{path}",
        f"  http://{host}{path}\n",
    ]


def plan_never_fetched(planner: Planner) -> None:
    """URLs that the policy must refuse. Their `url` is written as in the page; the truth names them as the run does."""
    for case, url, outcome in NEVER_FETCHED:
        planner.resources.append(Resource(url, case, "", (outcome,)))
        planner.figures.append(Figure("img", (url,), "", verbatim=True))


def idn_page_host() -> str:
    """The host with a non-ASCII name that also shows pages."""
    return ascii_name(IDN_HOST)
