"""The whole chain: a crawl → a curated dataset → a self-supervised teacher and its scores."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prefect import flow

from flows.acquire import Acquired, acquire
from flows.config import CurateConfig
from flows.deduplicate import deduplicate
from flows.pretrain import train_and_evaluate
from flows.retrieve import Retrieved, retrieve_and_pack
from storage.errors import StorageError
from storage.layout import Layout
from storage.manifest import Manifest
from tasks.child import ChildFailed
from tasks.copy_graph import RecallTooLow
from tasks.encoders import EncoderUnavailable
from tasks.filters import FilterUnavailable
from tasks.leaks.links import LinkRecallTooLow
from tasks.leaks.self_test import LeakTestFailed
from tasks.preflight import check_inputs
from tasks.publish import Published, publish_run, ui_address, ui_command
from tasks.removal.plan import StillHeld
from tasks.report import funnel, print_funnel
from tasks.stage import PartsFailed
from tasks.web.errors import AcquireError
from tasks.workers import workers

RUN_ERRORS = (
    *(AcquireError, ChildFailed, EncoderUnavailable, FilterUnavailable, PartsFailed, RecallTooLow, StorageError),
    *(LeakTestFailed, LinkRecallTooLow, StillHeld),
    *(ValueError, OSError),
)
"""What a run raises on purpose; the message says what, where and what to do."""


@dataclass(frozen=True)
class CuratedRun:
    """What a run leaves: the dataset's folder, the report, and every stage's manifest by "stage/fingerprint"."""

    dataset: str
    report: str
    chain: Mapping[str, Manifest]
    flow_run_id: str | None


@flow(name="curate-lvd")
def curate_lvd(config: CurateConfig) -> CuratedRun:
    """Curate `config.extract.crawl` into a dataset and, if the config says so, pretrain on it and evaluate."""
    layout = Layout.at(config.root)
    check_inputs(config.collections(), config.plugs(), layout)
    with workers(config.workers):
        retrieved = curate(acquire(config, layout), config, layout)
    ends = [retrieved.dataset, *train_and_evaluate(retrieved.dataset, config, layout)]
    return publish_curated(retrieved, ends, layout)


def curate(acquired: Acquired, config: CurateConfig, layout: Layout) -> Retrieved:
    """Images → a dataset: deduplicated, retrieved, packed."""
    unique = deduplicate(acquired.images, config, layout, acquired.earlier)
    return retrieve_and_pack(unique, acquired, config, layout)


def publish_curated(retrieved: Retrieved, ends: Sequence[Manifest], layout: Layout) -> CuratedRun:
    """Record what the run made, and say where it is."""
    pages = [retrieved.pages] if retrieved.pages else []
    published = publish_run([*ends, *pages], layout)
    _print_end(published, retrieved)
    return CuratedRun(retrieved.dataset.directory, published.report, published.chain, published.flow_run_id)


def _print_end(published: Published, retrieved: Retrieved) -> None:
    dataset, pages = retrieved
    print_funnel(funnel(published.chain))
    address = ui_address()
    run = f"{address}/v2/runs/flow-run/{published.flow_run_id}" if published.flow_run_id else address
    look = f"look      {pages.file('index.html')}   (neighbours, clusters, borderline pairs)\n" if pages else ""
    print(
        f"\ndataset   {dataset.directory}  ({dataset.rows_kept:,} images)\n"
        f"report    {published.report}\n"
        f"{look}"
        f"UI        {run}{ui_command()}\n"
        f"why       .venv/bin/curate-lvd why URL --root {shlex.quote(published.root)}",
        file=sys.stdout,
        flush=True,
    )
