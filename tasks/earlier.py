"""What an earlier run of the same root left, for a run that goes on from it: stage by stage, nearest to its dataset.

A dataset made of several crawls has some stages once per crawl. The one that counts is the one that its last run made:
the first that is met on the way back from the dataset.
"""

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from storage.errors import BadManifest
from storage.filesystem import exists, join, read_bytes
from storage.layout import Layout
from storage.manifest import NAME, Manifest
from tasks.config import StageConfig
from tasks.lineage import BASE, load_reference

LATEST = "latest"


@dataclass(frozen=True)
class Earlier:
    """An earlier run: its dataset, and the stages it was made of by name."""

    dataset: Manifest
    stages: Mapping[str, Manifest]
    chain: Mapping[str, Manifest]
    """Every stage of it, by "stage/fingerprint"."""

    def stage(self, name: str) -> Manifest:
        """A stage that every run has. Raises BadManifest when this one does not."""
        if name not in self.stages:
            raise BadManifest(
                f"dataset {self.dataset.directory} was made without a stage {name!r} (it has "
                f"{', '.join(sorted(self.stages))}). Give another `base`, or run without one."
            )
        return self.stages[name]

    @property
    def pool(self) -> Manifest:
        """The images that its descriptors are of."""
        return self._input("describe", "images")

    @property
    def history(self) -> dict[str, Manifest]:
        """Where those images came from: URL policy and download of all their crawls, part by part beside the pool."""
        return {role: self._input("shuffle", role) for role in ("url_policy", "download")}

    def _input(self, stage: str, role: str) -> Manifest:
        return self.chain[self.stage(stage).inputs[role]]


def taken_over(earlier: Earlier | None, name: str, config: StageConfig) -> Manifest | None:
    """The stage `name` of an earlier run, if there is one and it was made with this config: its results can serve."""
    found = earlier.stages.get(name) if earlier is not None else None
    if found is None or {key: value for key, value in found.config.items() if key != "also"} != config.deciding():
        return None
    return found


def load_earlier(base: str | None, urls: Manifest, layout: Layout) -> Earlier | None:
    """The run that `base` names ("pack/<fingerprint>", "<fingerprint>" or "latest"); None without one.

    "latest" is the newest finished run of the root. When the newest was itself made of this very crawl (`urls`), it is
    the run that that one went on from: so an unchanged command finds everything done. Raises BadManifest.
    """
    if base is None:
        return None
    if base != LATEST:
        return load_base(base, layout)
    newest = _newest_dataset(layout)
    if newest is None:
        return None
    earlier = earlier_of(newest, layout)
    if earlier.stages.get("extract") != urls:
        return earlier
    if BASE not in newest.inputs:
        return None
    before = layout.dataset(newest.inputs[BASE].rpartition("/")[2])
    # What it went on from may be gone: purged, for it held what was removed.
    return load_base(newest.inputs[BASE], layout) if exists(join(before, NAME)) else earlier


def load_base(base: str, layout: Layout) -> Earlier:
    """The run that `base` names, whatever crawl it was made of. Raises BadManifest when there is none."""
    dataset = _newest_dataset(layout) if base == LATEST else _dataset(base, layout)
    if dataset is None:
        raise BadManifest(f"no run in {layout.root} has made a dataset yet: there is no {layout.run('latest.json')}.")
    return earlier_of(dataset, layout)


def earlier_of(dataset: Manifest, layout: Layout) -> Earlier:
    """The stages of a dataset's own run: of each name the one with the fewest steps to the dataset."""
    stages: dict[str, Manifest] = {}
    chain = {dataset.reference: dataset}
    waiting = deque([dataset])
    while waiting:
        manifest = waiting.popleft()
        stages.setdefault(manifest.stage, manifest)
        # Of united generations the last comes first: it is the run's own.
        for role, reference in sorted(manifest.inputs.items(), reverse=True):
            if role != BASE and reference not in chain:
                chain[reference] = load_reference(reference, layout)
                waiting.append(chain[reference])
    return Earlier(dataset, stages, chain)


def _dataset(base: str, layout: Layout) -> Manifest:
    stage, _, fingerprint = base.rpartition("/")
    if stage not in ("", "pack"):
        raise BadManifest(f"base {base!r} names a stage {stage!r}. Give a dataset: its folder's name below datasets/.")
    return load_reference(f"pack/{fingerprint}", layout)


def _newest_dataset(layout: Layout) -> Manifest | None:
    path = layout.run("latest.json")
    if not exists(path):
        return None
    ends = json.loads(read_bytes(path))["ends"]
    found = next((reference for reference in ends if reference.startswith("pack/")), None)
    return None if found is None else load_reference(found, layout)
