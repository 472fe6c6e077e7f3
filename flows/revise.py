"""What is to be taken out leaves: a new version of the dataset without it, then every file that still holds it."""

import posixpath
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from prefect import flow

from flows.acquire import acquired_before
from flows.config import CurateConfig
from flows.curate_lvd import CuratedRun, curate, publish_curated
from storage.errors import BadManifest
from storage.layout import Layout
from storage.manifest import load_manifest
from tasks.earlier import load_base
from tasks.lineage import ancestry
from tasks.removal.ledger import Entry, Ledger, append_entries, load_ledger
from tasks.removal.plan import PurgePlan, plan_purge
from tasks.removal.purge import purge
from tasks.report import write_report
from tasks.workers import workers


class Removed(NamedTuple):
    """The dataset without what was named, and what was done to the files that held it."""

    run: CuratedRun
    plan: PurgePlan


@flow(name="revise-lvd")
def revise_lvd(config: CurateConfig) -> CuratedRun:
    """The dataset that `config.base` names, made again without what the ledger names by now; nothing is fetched.

    What the removed images had kept out (copies of them, neighbours behind them) may come in. Raises BadManifest when
    the config names no base.
    """
    layout = Layout.at(config.root)
    with workers(config.workers):
        retrieved = curate(acquired_before(load_base(_named(config), layout), layout), config, layout)
    return publish_curated(retrieved, [retrieved.dataset], layout)


@flow(name="remove-from-lvd")
def remove_from_lvd(config: CurateConfig, entries: Sequence[Entry]) -> Removed:
    """Write the entries into the ledger, make the dataset again without what they name, and make that unreadable in
    every file below the root. Raises what `revise_lvd` raises, before anything is deleted."""
    layout = Layout.at(config.root)
    load_base(_named(config), layout)  # a wrong base is said before anything is written
    append_entries(layout, entries)
    run = revise_lvd(config)
    with workers(config.workers):
        plan = purge(layout, [load_manifest(run.dataset)], load_ledger(layout))
    # The purge deletes every page with pictures and gives tables that it marked a new name: read again, write again.
    chain = ancestry([load_manifest(run.dataset)], layout)
    write_report(chain, layout, posixpath.dirname(run.report))
    return Removed(replace(run, chain=chain), plan)


def would_be_removed(config: CurateConfig, entries: Sequence[Entry]) -> PurgePlan:
    """What a removal would find below the root, as things are: nothing is written, no new dataset is made."""
    layout = Layout.at(config.root)
    ledger = load_ledger(layout)
    with workers(config.workers):
        return plan_purge(layout, [], Ledger((*ledger.entries, *entries)))


def _named(config: CurateConfig) -> str:
    if config.base is None:
        raise BadManifest("the config names no `base`: name the dataset to revise, or `latest`.")
    return config.base
