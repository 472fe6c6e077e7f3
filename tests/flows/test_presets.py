"""The preset lvd142m gives the paper's Table 15, row by row, from the paper's own counts and the stage's own rules."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.config import CurateConfig
from flows.presets import UnknownPreset, preset_names, with_preset
from tasks.retrieval.rules import nominal_composition
from tasks.retrieve import Retrieve

# DINOv2 (arXiv 2304.07193), Table 15: source, images, mode, retrieved, final.
TABLE_15 = [
    ("imagenet-22k", 14_197_086, "as_is", 14_197_086, 14_197_086),
    ("imagenet-22k", 14_197_086, "sample", 56_788_344, 56_788_344),
    ("imagenet-1k", 1_281_167, "sample", 40_997_344, 40_997_344),
    ("caltech-101", 3_030, "cluster", 2_630_000, 1_000_000),
    ("cub-200-2011", 5_994, "cluster", 1_300_000, 1_000_000),
    ("dtd", 1_880, "cluster", 1_580_000, 1_000_000),
    ("fgvc-aircraft", 3_334, "cluster", 1_170_000, 1_000_000),
    ("flowers-102", 1_020, "cluster", 1_060_000, 1_000_000),
    ("food-101", 75_750, "cluster", 21_670_000, 1_000_000),
    ("oxford-iiit-pet", 3_680, "cluster", 2_750_000, 1_000_000),
    ("stanford-cars", 8_144, "cluster", 7_220_000, 1_000_000),
    ("sun397", 19_850, "cluster", 18_950_000, 1_000_000),
    ("pascal-voc-2007", 2_501, "cluster", 1_010_000, 1_000_000),
    ("ade20k", 20_210, "cluster", 20_720_000, 1_000_000),
    ("cityscapes", 2_975, "cluster", 1_390_000, 1_000_000),
    ("pascal-voc-2012-seg", 1_464, "cluster", 10_140_000, 1_000_000),
    ("mapillary-sls", 1_434_262, "as_is", 1_434_262, 1_434_262),
    ("kitti", 23_158, "cluster", 3_700_000, 1_000_000),
    ("nyu-depth-v2", 24_231, "cluster", 10_850_000, 1_000_000),
    ("sun-rgb-d", 4_829, "cluster", 4_870_000, 1_000_000),
    ("google-landmarks-v2", 1_580_470, "as_is", 1_580_470, 1_580_470),
    ("google-landmarks-v2", 1_580_470, "sample", 6_321_880, 6_321_880),
    ("amstertime-new", 1_231, "cluster", 960_000, 960_000),
    ("amstertime-old", 1_231, "cluster", 830_000, 830_000),
    ("met", 397_121, "cluster", 62_860_000, 1_000_000),
    ("revisiting-oxford", 4_993, "cluster", 3_680_000, 1_000_000),
    ("revisiting-paris", 6_322, "cluster", 3_660_000, 1_000_000),
]
TOTAL = 142_109_386
CLUSTERS_OF_10_000 = {  # how many clusters counted: the paper's figures are all multiples of 10,000
    source: retrieved // 10_000 for source, _, mode, retrieved, _ in TABLE_15 if mode == "cluster"
}


def config_with(names: list[str], **more: Any) -> dict[str, Any]:
    """What a user writes: paths, and nothing of the rules."""
    sources = [{"name": name, "path": f"/data/{name}"} for name in names]
    return {"root": "/runs/lvd", "extract": {"crawl": ["/crawl/*.warc.gz"]}, "sources": sources, **more}


def retrieve_of(content: dict[str, Any]) -> Retrieve:
    """The retrieval of the config, validated as a run's is."""
    fields = {"download": {"contact": "someone@example.org"}}
    return CurateConfig.model_validate(with_preset("lvd142m", content | fields)).retrieve


def test_every_row_of_table_15_and_its_total_come_out() -> None:
    images = {source: count for source, count, *_ in TABLE_15}
    *rows, total = nominal_composition(images, CLUSTERS_OF_10_000, retrieve_of(config_with(list(images))))
    found = {(row["source"], row["mode"]): row for row in rows}
    assert len(rows) == len(TABLE_15)
    for source, count, mode, retrieved, final in TABLE_15:
        row = found[source, mode]
        assert (row["images"], row["retrieved"], row["nominal_final"]) == (count, retrieved, final)
    assert total["nominal_final"] == total["final"] == TOTAL
    assert sum(final for *_, final in TABLE_15) == TOTAL


def test_without_explicit_rules_the_size_of_a_source_chooses_as_the_paper_says() -> None:
    """> 1 M images: sample, else cluster. Only k = 32 and the sources taken as they are need saying."""
    images = {source: count for source, count, *_ in TABLE_15}
    rows = nominal_composition(images, CLUSTERS_OF_10_000, Retrieve())[:-1]
    chosen = {row["source"]: row["mode"] for row in rows}
    for source, _, mode, *_ in TABLE_15:
        if mode != "as_is":
            assert chosen[source] == mode


def test_a_user_of_some_of_the_sources_gets_their_rules_alone() -> None:
    rules = retrieve_of(config_with(["dtd", "imagenet-1k", "my-own"])).rules
    assert {rule.source: rule.modes for rule in rules} == {"dtd": ("cluster",), "imagenet-1k": ("sample",)}


def test_what_the_user_sets_stands() -> None:
    own = {"cap": 5, "rules": [{"source": "dtd", "modes": ["as_is"]}]}
    config = with_preset("lvd142m", config_with(["dtd", "met"], retrieve=own, cluster={"seed": 4}, self_dedup=None))
    assert config["cluster"] == {"num_clusters": 100_000, "seed": 4}
    assert config["self_dedup"] == {"threshold": 0.6}
    assert (config["retrieve"]["cap"], config["retrieve"]["per_cluster"]) == (5, 10_000)
    assert config["retrieve"]["rules"] == [
        {"source": "dtd", "modes": ["as_is"]},
        {"source": "met", "modes": ["cluster"]},
    ]


def test_a_preset_that_is_not_there_names_those_that_are() -> None:
    assert preset_names() == ["lvd142m"]
    with pytest.raises(UnknownPreset, match="no preset 'lvd'; there are lvd142m"):
        with_preset("lvd", {})


def test_every_preset_is_yaml_that_leaves_the_users_paths_to_the_user() -> None:
    folder = Path(__file__).parents[2] / "flows" / "presets"
    for name in preset_names():
        content = yaml.safe_load((folder / f"{name}.yaml").read_text())
        assert not content.keys() & {"root", "sources", "benchmarks", "extract"}
