"""The doorway that every stage is: find what is done, compute the parts that are not, publish the manifest last."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

from storage.filesystem import exists, file_sizes, join, make_folder
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest, adopt, fingerprint, load_manifest, save_manifest
from tasks.config import StageConfig
from tasks.parts import Outcome, compute_part
from tasks.progress import StageProgress
from tasks.stage_report import report_stage
from tasks.workers import listening, map_parts

__all__ = ["Outcome", "PartsFailed", "Stage", "stage_task"]

P = ParamSpec("P")
R = TypeVar("R")


def stage_task(*, name: str, task_run_name: str | None = None) -> Callable[[Callable[P, R]], "Task[P, R]"]:
    """A Prefect task that records the run and draws the edges; what is reused is decided by the manifests on disk,
    never by Prefect's cache, and results stay where the stage wrote them."""
    return task(name=name, task_run_name=task_run_name, cache_policy=NO_CACHE, persist_result=False)


class PartsFailed(RuntimeError):
    """Some parts of a stage could not be computed; the others are kept and a new run does only these."""


class Stage:
    """One stage's place on disk, its reuse and its publication.

    fingerprint = version + config (what decides) + inputs' fingerprints + `also` (identity of raw files). A folder
    with a manifest is finished; without one, parts that have a receipt are kept and the others computed.
    """

    def __init__(
        self,
        name: str,
        *,
        version: int,
        config: StageConfig,
        inputs: Mapping[str, Manifest],
        layout: Layout,
        also: Mapping[str, Any] | None = None,
        directory: Callable[[str], str] | None = None,
    ) -> None:
        self.name, self.version, self.layout = name, version, layout
        self.config = config.deciding() | ({"also": dict(also)} if also else {})
        self.inputs = {role: manifest.reference for role, manifest in inputs.items()}
        self.fingerprint = fingerprint(name, version, self.config, self.inputs)
        self.directory = directory(self.fingerprint) if directory else layout.stage(name, self.fingerprint)
        self._receipts = layout.receipts(name, self.fingerprint)
        self._started = time.monotonic()
        self._progress = StageProgress(name)

    @property
    def finished(self) -> bool:
        """True when a manifest promises this very result and every file it names is there, whole."""
        if not exists(join(self.directory, "manifest.json")):
            return False
        return _all_there(self.directory, load_manifest(self.directory).files)

    def reuse(self) -> Manifest:
        """The finished manifest, reported as reused."""
        manifest = load_manifest(self.directory)
        self._progress.update(1, 1)
        report_stage(manifest, self.layout, reused=True)
        return manifest

    def path(self, name: str) -> str:
        """Path of a file in the stage's folder."""
        return join(self.directory, name)

    def adopt(self, base: Manifest, name: str, new_name: str | None = None) -> FileEntry:
        """A file of an earlier stage taken over into this one, unchanged: a hard link where it can be, else a copy.

        Part functions, which have no Stage, call `storage.manifest.adopt`. Raises BadManifest for a name that `base`
        does not have.
        """
        base.file(name)  # says what is there when the name is not
        entry = next(entry for entry in base.files if entry.path == name)
        return adopt(entry, base.directory, self.path(new_name or name))

    def map(
        self, function: Callable[..., Outcome], parts: Sequence[Any], *, prefix: str = "part", **plain: Any
    ) -> list[Outcome]:
        """function(part, out, **plain) for every part, on the cluster; `out` is the path prefix of the part's files.

        Parts that a killed run had finished are not computed again. Raises PartsFailed, after all others are done.
        """
        make_folder(self.directory)
        names = [f"{prefix}-{number:05d}" for number in range(len(parts))]
        calls = [
            (function, part, join(self.directory, name), join(self._receipts, f"{name}.json"), plain)
            for part, name in zip(parts, names, strict=True)
        ]
        with listening(self.directory, self._progress.part_news), self._progress.live(len(calls)):
            results, failures = map_parts(compute_part, calls, on_done=self._progress.part_done)
        if failures:
            first = min(failures)
            raise PartsFailed(
                f"stage {self.name}: {len(failures)} of {len(parts)} parts failed; the first: {failures[first]}. "
                "The finished parts are kept; run again to do only the others."
            ) from failures[first]
        return results

    def publish(
        self, outcomes: Sequence[Outcome], *, files: Sequence[FileEntry] = (), facts: Mapping[str, Any] | None = None
    ) -> Manifest:
        """Write the manifest, last, from the parts' outcomes and the stage's other files; report it."""
        drops: Counter[str] = Counter()
        for outcome in outcomes:
            drops.update(outcome.drops)
        manifest = Manifest(
            stage=self.name,
            version=self.version,
            fingerprint=self.fingerprint,
            directory=self.directory,
            config=self.config,
            inputs=self.inputs,
            files=(*(entry for outcome in outcomes for entry in outcome.files), *files),
            rows_in=sum(outcome.rows_in for outcome in outcomes),
            rows_kept=sum(outcome.rows_kept for outcome in outcomes),
            drops=dict(sorted(drops.items())),
            facts=_summed([outcome.facts for outcome in outcomes]) | dict(facts or {}),
            seconds=round(time.monotonic() - self._started, 3),
        )
        save_manifest(manifest)
        self._progress.update(1, 1)  # stages that work on everything at once have no parts to count
        report_stage(manifest, self.layout, reused=False)
        return manifest


def _all_there(directory: str, files: Sequence[FileEntry]) -> bool:
    """True when every file stands in the folder at its promised size: one listing, whatever the number of files."""
    sizes = file_sizes(directory)
    return all(sizes.get(entry.path) == entry.bytes for entry in files)


def _summed(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Facts of parts as one: numbers add up, dicts of numbers add up by key, anything else keeps its first value."""
    total: dict[str, Any] = {}
    for part in facts:
        for name, value in part.items():
            if name not in total:
                total[name] = value
            elif isinstance(value, dict):
                total[name] = dict(sorted((Counter(total[name]) + Counter(value)).items()))
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                total[name] += value
    return total
