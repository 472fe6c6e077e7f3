"""A further crawl's images are compared with the hashes of all crawls before it; what was taken out is nobody's keeper;
and one pass over the images says what two say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
from prefect import flow

from flows import acquire as acquiring
from flows.acquire import Acquired, acquire
from flows.config import CurateConfig
from storage.layout import Layout
from storage.manifest import Manifest
from storage.tables import read_table
from tasks.earlier import Earlier
from tasks.filters import Geometry
from tasks.hash_dedup import HashDedup
from tasks.image_filter import ImageFilter
from tasks.lineage import ancestry
from tasks.removal.ledger import append_entries, entries_of
from tests.flows.conftest import Served

# Found again by its own models, a crawl takes minutes; which filters there are is not what is tested here.
QUICK = ImageFilter(filters=(Geometry(min_content_share=0.5),))


class Acquisition(Earlier):
    """An earlier run that ended with its images: what a dataset made of them would lead back to."""

    acquired: Acquired

    @classmethod
    def of(cls, acquired: Acquired, layout: Layout) -> "Acquisition":
        chain = ancestry([acquired.images, *acquired.history.values()], layout)
        newest_first = dict(reversed(chain.items()))
        stages: dict[str, Manifest] = {}
        for manifest in newest_first.values():
            stages.setdefault(manifest.stage, manifest)
        found = cls(acquired.images, stages, newest_first)
        object.__setattr__(found, "acquired", acquired)
        return found

    @cached_property
    def pool(self) -> Manifest:  # type: ignore[override]
        return self.acquired.images

    @cached_property
    def history(self) -> dict[str, Manifest]:  # type: ignore[override]
        return self.acquired.history


@dataclass(frozen=True)
class Crawls:
    """One root, and the configs of its crawls."""

    layout: Layout
    configs: Sequence[CurateConfig]

    def acquire(self, number: int, before: Acquired | None, monkeypatch: pytest.MonkeyPatch) -> Acquired:
        """The images of one crawl, beside those of the ones before."""
        earlier = Acquisition.of(before, self.layout) if before else None
        monkeypatch.setattr(acquiring, "load_earlier", lambda *_: earlier)

        @flow
        def acquired() -> Acquired:
            return acquire(self.configs[number], self.layout)

        return acquired()


@pytest.fixture(scope="module")
def crawls(served: Served, prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Crawls:
    """Three crawls, each a file of the sample web's."""
    assert prefect_server
    root = tmp_path_factory.mktemp("known") / "lvd"
    base = served.config(root, pretrain=None, evaluate=None)
    files = sorted((served.web.directory / "crawl").glob("*.warc.gz"))
    # Near hashes: what the PCA of a hundred pictures is fitted on, a later one's rounding decides a bit of.
    changes = {"safety": QUICK, "hash_dedup": HashDedup(max_distance=4)}
    configs = [
        base.model_copy(update={**changes, "extract": base.extract.model_copy(update={"crawl": (str(file),)})})
        for file in files
    ]
    return Crawls(Layout.at(str(root)), configs)


def _stages(acquired: Acquired, layout: Layout, name: str) -> list[Manifest]:
    return [one for one in ancestry([acquired.images], layout).values() if one.stage == name]


def _copies(manifest: Manifest) -> dict[str, str]:
    rows = [row for path in manifest.paths(".parquet") for row in read_table(path, ["id", "drop", "other"]).to_pylist()]
    return {row["id"]: row["other"] for row in rows if row["drop"] == "hash_duplicate"}


def _ids(manifest: Manifest) -> set[str]:
    return {name for path in manifest.paths(".parquet") for name in read_table(path, ["id"])["id"].to_pylist()}


def test_a_crawl_is_compared_with_all_before_it_and_what_was_taken_out_counts_no_more(
    crawls: Crawls, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = crawls.layout
    first = crawls.acquire(0, None, monkeypatch)
    second = crawls.acquire(1, first, monkeypatch)
    third = crawls.acquire(2, second, monkeypatch)
    dedups: Mapping[str, Manifest] = {one.reference: one for one in _stages(third, layout, "hash_dedup")}
    newest = next(one for one in dedups.values() if len(one.inputs) == 3)
    assert set(newest.inputs.values()) & set(dedups) == set(dedups) - {newest.reference}  # both crawls before
    assert len({one.file("pca.npy") and Path(one.file("pca.npy")).read_bytes() for one in dedups.values()}) == 1
    (one,) = _stages(first, layout, "hash_dedup")
    middle = next(one for one in dedups.values() if len(one.inputs) == 2)
    across = {copy: keeper for copy, keeper in _copies(middle).items() if keeper in _ids(one)}
    assert across, "the crawls must share pictures for this test to mean anything"
    copy, keeper = min(across.items())
    append_entries(layout, entries_of(ids=[keeper], reason="asked", date="2026-11-22"))
    again = crawls.acquire(1, first, monkeypatch)
    judged = next(one for one in _stages(again, layout, "hash_dedup") if len(one.inputs) == 2)
    assert keeper not in _copies(judged).values()
    others = {other for other, whose in across.items() if whose != keeper}
    assert {name: across[name] for name in others}.items() <= _copies(judged).items()
    assert _copies(judged).get(copy) != keeper


def test_one_pass_over_the_images_ends_in_the_same_verdicts(crawls: Crawls, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for decode_once in (False, True):
        config = crawls.configs[2].model_copy(update={"decode_once": decode_once})
        acquired = Crawls(crawls.layout, [config]).acquire(0, None, monkeypatch)
        (safe,) = _stages(acquired, crawls.layout, "safety")
        assert ("seen" in safe.inputs) == decode_once
        ends.append([read_table(path) for path in safe.paths(".parquet")])
    assert ends[0] == ends[1]
    assert sum(table["drop"].null_count for table in ends[0]) < sum(table.num_rows for table in ends[0])
