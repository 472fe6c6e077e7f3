"""The first inspection page: what was set, and a card with numbers and a curve for every other page."""

from collections.abc import Sequence

from tasks.inspection.charts import Panel, chart
from tasks.inspection.html import Frame, PageLink, link_to, number, page, section, table, text
from tasks.inspection.views import BenchmarkView, CopiesView, RunView, SourceView


def index_page(view: RunView, copies: PageLink, benchmarks: Sequence[PageLink], sources: Sequence[PageLink]) -> str:
    """All pages of the run. The links stand in the order of the views."""
    settings = [
        {"setting": name, "value": _shown(value), "what it decides": what} for name, value, what in view.settings
    ]
    parts = [
        "<p>Look before you trust a number. Each page shows images around this run's settings and how the counts "
        "would change with others, from vectors that are there already.</p>",
        section(
            "Copies",
            _cards(
                [_copies_card(view.copies, copies)]
                + [_benchmark_card(one, link) for one, link in zip(view.benchmarks, benchmarks, strict=True)]
            ),
            note="" if benchmarks else "The run has no benchmarks: nothing was compared with any.",
        ),
        section(
            "Curated sources",
            _cards([_source_card(one, link) for one, link in zip(view.sources, sources, strict=True)]),
        ),
        section("Composition", table(view.composition)),
        section("This run's settings", table(settings)),
    ]
    return page("What this run took for alike", parts, Frame(view.run, home=None))


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _cards(cards: Sequence[str]) -> str:
    return f"<div class=cards>{''.join(cards)}</div>"


def _card(link: PageLink, line: str, panel: Panel | None) -> str:
    drawn = chart(panel.charts[0], panel) if panel else ""
    return f"<div class=card><h3>{link_to(link)}</h3><p>{line}</p>{drawn}</div>"


def _copies_card(view: CopiesView, link: PageLink) -> str:
    line = f"{number(view.dropped)} of {number(view.images)} images dropped at similarity &gt; {view.threshold:g}"
    return _card(link, line, view.panels[0] if view.panels else None)


def _benchmark_card(view: BenchmarkView, link: PageLink) -> str:
    dropped = number(view.dropped_direct + view.dropped_through_a_chain)
    line = f"{dropped} pool images dropped for {number(view.touched)} of its {number(view.images)} images"
    return _card(link, line, view.panels[0] if view.panels else None)


def _source_card(view: SourceView, link: PageLink) -> str:
    line = f"{number(view.images)} images, {text(', '.join(view.modes))}"
    return _card(link, line, view.panels[0] if view.panels else None)
