"""The cards say what the dataset holds and are well formed for those who read them: the hub and Croissant's tools."""

import fnmatch
import hashlib
import json
import tarfile
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from storage.filesystem import read_bytes
from storage.manifest import Manifest
from tasks.pack import Pack
from tasks.packing.croissant import MIME_TYPES
from tasks.packing.dataset_card import Card, readme
from tasks.packing.images import Bounded
from tests.tasks.packing import packed, samples, tars

CARD = Card(title="Cats | and dogs", licence="cc-by-4.0", contact="out@a.test", published=date(2026, 1, 2))


def _croissant(dataset: Manifest) -> dict[str, Any]:
    return json.loads(read_bytes(dataset.file("croissant.json")))


def _ids(node: Any) -> set[str]:
    """Every @id that is defined (has a @type) below a node."""
    if isinstance(node, list):
        return set().union(*(_ids(item) for item in node)) if node else set()
    if not isinstance(node, dict):
        return set()
    here = {node["@id"]} if "@id" in node and "@type" in node else set()
    return here.union(*(_ids(value) for key, value in node.items() if key != "@context"))


def _references(node: Any) -> set[str]:
    """Every @id that is only pointed at."""
    if isinstance(node, list):
        return set().union(*(_references(item) for item in node)) if node else set()
    if not isinstance(node, dict):
        return set()
    here = {node["@id"]} if set(node) == {"@id"} else set()
    return here.union(*(_references(value) for key, value in node.items() if key != "@context"))


def test_croissant_has_what_the_specification_requires(tmp_path: Path) -> None:
    document = _croissant(packed(tmp_path, "run", packing=Pack(card=CARD)))
    assert document["@type"] == "sc:Dataset"
    assert document["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert (document["license"], document["datePublished"], document["name"]) == ("cc-by-4.0", "2026-01-02", "lvd")
    assert {"description", "creator", "version"} <= set(document)
    assert _references(document) <= _ids(document)
    assert {node["@type"] for node in document["recordSet"]} == {"cr:RecordSet"}
    for record_set in document["recordSet"]:
        assert record_set["key"]["@id"] in {field["@id"] for field in record_set["field"]}
        for field in record_set["field"]:
            assert field["@type"] == "cr:Field"
            assert field["dataType"].startswith("sc:")
            assert len(field["source"]["extract"]) == 1


def test_croissant_names_every_tar_by_its_checksum(tmp_path: Path) -> None:
    dataset = packed(tmp_path, "run")
    objects = [node for node in _croissant(dataset)["distribution"] if node["@type"] == "cr:FileObject"]
    assert [node["contentUrl"] for node in objects] == [Path(tar).name for tar in tars(dataset)]
    for node in objects:
        data = read_bytes(dataset.file(node["contentUrl"]))
        assert node["sha256"] == hashlib.sha256(data).hexdigest()
        assert node["contentSize"] == f"{len(data)} B"


def test_croissants_file_sets_and_paths_find_every_image_and_field(tmp_path: Path) -> None:
    dataset = packed(tmp_path, "run")
    document = _croissant(dataset)
    sets = {node["@id"]: node for node in document["distribution"] if node["@type"] == "cr:FileSet"}
    names = []
    for path in tars(dataset):
        with tarfile.open(path) as tar:
            names += tar.getnames()
    for node in sets.values():
        assert len([name for name in names if fnmatch.fnmatch(name, node["includes"])]) == 24
        assert len(node["containedIn"]) == len(tars(dataset))
    assert sets["image-files"]["encodingFormat"] == MIME_TYPES["jpg"]
    paths = {
        field["name"]: field["source"]["extract"]["jsonPath"].removeprefix("$.").split(".")
        for record_set in document["recordSet"]
        for field in record_set["field"]
        if "jsonPath" in field["source"]["extract"]
    }
    assert set(paths) >= {"lineage/url", "lineage/sha256", "lineage/original_sha256"}
    for _, members in samples(dataset):
        for name, path in paths.items():
            value = json.loads(members["json"])
            for step in path:
                value = value[step]
            assert value is not None, name


def test_the_readme_begins_with_what_the_hub_reads(tmp_path: Path) -> None:
    dataset = packed(tmp_path, "run", packing=Pack(card=CARD))
    text = read_bytes(dataset.file("README.md")).decode()
    _, header, body = text.split("---\n", 2)
    told = yaml.safe_load(header)
    assert (told["license"], told["pretty_name"], told["size_categories"]) == ("cc-by-4.0", "Cats | and dogs", ["n<1K"])
    assert told["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "*.tar"}]}]
    assert "**24 images** in 5 WebDataset shards of 4 to 5 samples" in body
    assert "| pets | sample | 20 |" in body
    assert "| retrieve | 24 | 20 | not_retrieved 4 |" in body
    assert "Write to out@a.test" in body


def test_a_card_without_contact_says_so(tmp_path: Path) -> None:
    assert "names no contact" in read_bytes(packed(tmp_path, "run").file("README.md")).decode()


def test_the_card_tells_of_bounded_copies(tmp_path: Path) -> None:
    dataset = packed(tmp_path, "run", packing=Pack(images=Bounded(max_side=48, quality=80)))
    text = read_bytes(dataset.file("README.md")).decode()
    assert "Images over 48 pixels are JPEG copies of quality 80; the others are the bytes that the web served" in text
    assert json.loads(read_bytes(dataset.file("dataset.json")))["images"] == {
        "kind": "bounded",
        "max_side": 48,
        "method": "bicubic",
        "quality": 80,
    }


def test_size_categories_are_the_hubs(tmp_path: Path) -> None:
    dataset = json.loads(read_bytes(packed(tmp_path, "run").file("dataset.json")))
    for count, wanted in ((999, "n<1K"), (1000, "1K<n<10K"), (142_109_386, "100M<n<1B"), (1_200_000_000, "n>1B")):
        header = readme(dataset | {"num_images": count}, [], Card()).split("---\n")[1]
        assert yaml.safe_load(header)["size_categories"] == [wanted]
