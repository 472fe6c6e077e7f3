"""A further crawl costs only what is new and changes nothing of what a run over all of it would say; what is taken out
is gone, and does not come back."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prefect import flow

from flows.command_line import main
from flows.config import CurateConfig
from flows.curate_lvd import CuratedRun, curate_lvd
from storage.layout import Layout
from storage.manifest import Manifest, load_manifest
from storage.samples import read_samples
from storage.tables import kept, read_table
from tasks.cluster import cluster
from tasks.copy_graph import copy_graph
from tasks.describe import describe
from tasks.earlier import Earlier, earlier_of, load_base
from tasks.embed import embed
from tasks.pack import pack
from tasks.retrieve import retrieve
from tasks.self_dedup import self_dedup
from tests.flows.conftest import Served, write_config

REUSED_BY = ("describe", "embed", "retrieve")
COMPARED = ("describe", "copy_graph", "self_dedup", "relative_dedup", "embed", "cluster", "retrieve")


@dataclass(frozen=True)
class TwoCrawls:
    """Two runs of one root: the second goes on from the first with a crawl of its own."""

    root: Path
    configs: tuple[CurateConfig, CurateConfig]
    runs: tuple[CuratedRun, CuratedRun]
    first: Earlier
    """The first run's stages, as its manifests were when it had ended."""
    second: Earlier

    @property
    def layout(self) -> Layout:
        return Layout.at(str(self.root))


def config_of(served: Served, root: Path, crawl: Sequence[Path], base: str | None) -> CurateConfig:
    # Whitening that is fitted on half a hundred images takes many for copies: only near ones shall be.
    strict = {"self_dedup": {"threshold": 0.8}, "relative_dedup": {"threshold": 0.8}}
    config = served.config(root, pretrain=None, evaluate=None, base=base, **strict)
    files = tuple(str(path) for path in crawl)
    # Queries that are drawn for the pages have 32 neighbours: of a pool this small, one of them is always gone.
    retrieval = config.retrieve.model_copy(update={"inspect_queries": 0})
    extract = config.extract.model_copy(update={"crawl": files})
    return config.model_copy(update={"extract": extract, "retrieve": retrieval})


def crawl_files(served: Served) -> list[Path]:
    return sorted((served.web.directory / "crawl").glob("*.warc.gz"))


@pytest.fixture(scope="module")
def crawls(served: Served, prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> TwoCrawls:
    """One crawl file first, then that one and another."""
    assert prefect_server
    root = tmp_path_factory.mktemp("incremental") / "lvd"
    files = crawl_files(served)
    one = config_of(served, root, files[:1], None)
    two = config_of(served, root, files[:2], "latest")
    runs = curate_lvd(one), curate_lvd(two)
    stages = [earlier_of(load_manifest(run.dataset), Layout.at(str(root))) for run in runs]
    return TwoCrawls(root, (one, two), runs, *stages)


def samples(dataset: str) -> dict[str, dict[str, Any]]:
    """Id and JSON of every sample of a dataset."""
    return {key: json.loads(members["json"]) for tar in tars_of(dataset) for key, members in read_samples(tar)}


def tars_of(dataset: str) -> list[str]:
    return sorted(str(path) for path in Path(dataset).glob("*.tar"))


def promised(manifest: Manifest) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in manifest.files}


def test_the_second_crawl_fetches_only_what_the_first_had_not(crawls: TwoCrawls) -> None:
    first, second = crawls.first, crawls.second
    known = second.stage("url_policy").drops["known_url"]
    assert known > 0, "the crawls must overlap for this test to mean anything"
    before, after = ({row for path in m.paths(".parquet") for row in kept(read_table(path))["id"].to_pylist()}
                     for m in (first.stage("download"), second.stage("download")))  # fmt: skip
    assert not before & after
    assert second.pool.rows_in == first.pool.rows_kept + second.stage("safety").rows_kept
    assert second.stage("describe").facts["reused"] == first.stage("describe").rows_kept


@pytest.fixture(scope="module")
def whole(crawls: TwoCrawls) -> Mapping[str, Manifest]:
    """The stages of the second run once more from nothing, with the first run's whitening and centroids."""
    first, second, layout = crawls.first, crawls.second, crawls.layout
    config = crawls.configs[1]
    aside = crawls.root / "aside"
    for name in COMPARED:
        for folder in (Path(second.stage(name).directory), crawls.root / "receipts" / name):
            target = aside / folder.relative_to(crawls.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            if folder.exists():
                shutil.move(folder, target)

    @flow
    def from_nothing() -> dict[str, Manifest]:
        described = describe(second.pool, config.describe, layout, fitted=first.stage("describe"))
        graph = copy_graph(described, config.copy_graph, layout)
        unique = self_dedup(described, graph, config.self_dedup, layout)
        made = {"describe": described, "copy_graph": graph, "self_dedup": unique}
        made["relative_dedup"] = clean = _against_benchmarks(described, unique, graph, config, layout)
        made["embed"] = embedded = embed(clean, config.embed, layout)
        made["cluster"] = clustered = cluster(embedded, config.cluster, layout, base=first.stage("cluster"))
        queries = second.stage("embed_sources")
        made["retrieve"] = retrieve(embedded, clustered, queries, config.retrieve, layout)
        return made

    return from_nothing()


def _against_benchmarks(
    described: Manifest, unique: Manifest, graph: Manifest, config: CurateConfig, layout: Layout
) -> Manifest:
    from flows.deduplicate import leaks_of

    return leaks_of(described, unique, graph, config, layout).clean


@pytest.mark.parametrize("stage", COMPARED)
def test_what_a_run_goes_on_from_changes_its_cost_and_no_result(
    crawls: TwoCrawls, whole: Mapping[str, Manifest], stage: str
) -> None:
    incremental = crawls.second.stage(stage)
    assert incremental.fingerprint == whole[stage].fingerprint
    assert incremental.drops == whole[stage].drops
    files = {name: sha256 for name, sha256 in promised(whole[stage]).items() if name.startswith(("part-", "edges-"))}
    assert files, "a stage without files to compare would pass whatever it did"
    assert {name: promised(incremental).get(name) for name in files} == files
    if stage in REUSED_BY:
        assert incremental.facts["reused"] > 0
        assert not whole[stage].facts.get("reused")


def test_the_dataset_is_the_set_that_a_run_over_all_of_it_packs(crawls: TwoCrawls) -> None:
    second, config, layout = crawls.second, crawls.configs[1], crawls.layout

    @flow
    def packed_anew() -> Manifest:
        composition = second.stage("retrieve").facts["composition"]
        return pack(second.stage("shuffle"), composition=composition, config=config.pack, layout=layout)

    assert samples(second.dataset.directory) == samples(packed_anew().directory)


def test_the_same_command_again_finds_everything_done(crawls: TwoCrawls, whole: Mapping[str, Manifest]) -> None:
    assert whole
    again = curate_lvd(crawls.configs[1])
    assert again.dataset == crawls.second.dataset.directory


def test_a_removed_image_leaves_every_file_and_a_later_crawl_does_not_bring_it_back(
    crawls: TwoCrawls, served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = samples(crawls.second.dataset.directory)
    victim = next(key for key, row in held.items() if row["url"].startswith("http"))
    tar = next(
        tar for tar in Path(crawls.second.dataset.directory).glob("*.tar") if victim in dict(read_samples(str(tar)))
    )
    data = next(iter(data for name, data in dict(read_samples(str(tar)))[victim].items() if name != "json"))
    needle = data[len(data) // 2 : len(data) // 2 + 48]
    url = held[victim]["url"]
    file = write_config(crawls.configs[1], tmp_path / "run.yaml")
    shutil.rmtree(crawls.root / "aside", ignore_errors=True)
    named = ["remove", str(file), "--url", url, "--reason", "the owner asked"]
    assert main([*named, "--dry-run"]) == 0
    assert "delete folder" in capsys.readouterr().out
    assert Path(crawls.second.dataset.directory).exists()
    assert main(named) == 0
    assert "1 images are named by the ledger" in capsys.readouterr().out
    assert sorted(crawls.root.glob("runs/*/report.html"))  # of the run that is left
    left = [
        path
        for path in crawls.root.rglob("*")
        if path.is_file() and "ledger" not in path.parts and needle in path.read_bytes()
    ]
    assert left == []
    now = samples(load_base("latest", crawls.layout).dataset.directory)
    assert victim not in now
    assert len(set(held) & set(now)) >= len(held) - 5  # what hung on it may change, the rest stands
    assert main(["why", url, "--root", str(crawls.root)]) == 0
    assert "removed" in capsys.readouterr().out
    # A further crawl names it again, beside new ones.
    third = curate_lvd(config_of(served, crawls.root, crawl_files(served), "latest"))
    assert victim not in samples(third.dataset)
    allowed = earlier_of(load_manifest(third.dataset), crawls.layout).stage("url_policy")
    verdicts = [
        row for path in allowed.paths(".parquet") for row in read_table(path).to_pylist() if row["id"] == victim
    ]
    assert {row["drop"] for row in verdicts} <= {"removed", "duplicate_url"}
