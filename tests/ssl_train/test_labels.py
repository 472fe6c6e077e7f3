import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ssl_train.config import TrainConfig
from ssl_train.data import tar_labels
from ssl_train.data.labels import ImageLabels, Labels, LabelTexts, numbered
from ssl_train.data.settings import Data
from ssl_train.data.source import read_labels
from ssl_train.distributed import World
from ssl_train.errors import DataError
from ssl_train.trainer import build_batches
from storage.images import encode_jpeg
from storage.samples import SampleWriter

Configure = Callable[..., TrainConfig]
NAMES = ("ant", "bee", "cat")
HUGGING_FACE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def jpeg(number: int) -> bytes:
    """A flat picture whose brightness tells its number."""
    return encode_jpeg(np.full((24, 24, 3), 10 * number, np.uint8), quality=95)


def class_of(number: int) -> int:
    return number * 7 % 3


def folder(tmp_path: Path, count: int = 12) -> Data:
    for number in range(count):
        path = tmp_path / "images" / NAMES[class_of(number)] / "deeper" / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    return Data(folder=str(tmp_path / "images"), labels=Labels())


def tars(tmp_path: Path, members: Callable[[int], dict[str, bytes]], labels: Labels, count: int = 12) -> Data:
    for part in range(3):
        with SampleWriter(str(tmp_path / f"part-{part}.tar")) as writer:
            for number in range(part, count, 3):
                writer.add(f"{number:02d}", {"jpg": jpeg(number), **members(number)})
    return Data(shards=str(tmp_path / "part-*.tar"), labels=labels, index_cache=str(tmp_path / "cache"))


def parquet(tmp_path: Path, labels: pa.Array, settings: Labels, *, names: Sequence[str] = (), count: int = 12) -> Data:
    rows = pa.array([{"bytes": jpeg(number), "path": f"{number:02d}.jpg"} for number in range(count)], HUGGING_FACE)
    table = pa.table({"image": rows, "kind": labels})
    if names:
        feature = {"names": list(names), "_type": "ClassLabel"}
        told = {"info": {"features": {"kind": feature, "image": {"_type": "Image"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(told)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=5)
    return Data(parquet=str(tmp_path / "*.parquet"), labels=settings)


SOURCES: dict[str, Callable[[Path], Data]] = {
    "folder": folder,
    "tars with names": lambda path: tars(path, lambda n: {"cls": NAMES[class_of(n)].encode()}, Labels()),
    "tars with numbers": lambda path: tars(path, lambda n: {"cls": f"{class_of(n)}\n".encode()}, Labels()),
    "tars with json": lambda path: tars(
        path,
        lambda n: {"json": json.dumps({"meta": {"kind": NAMES[class_of(n)]}}).encode(), "cls": b"9"},
        Labels(json_key="meta.kind"),
    ),
    "parquet with numbers": lambda path: parquet(
        path, pa.array([class_of(n) for n in range(12)], pa.int64()), Labels(column="kind")
    ),
    "parquet with ClassLabel": lambda path: parquet(
        path, pa.array([class_of(n) for n in range(12)], pa.int64()), Labels(column="kind"), names=NAMES
    ),
    "parquet with names": lambda path: parquet(
        path, pa.array([NAMES[class_of(n)] for n in range(12)]), Labels(column="kind")
    ),
}  # fmt: skip
NUMBERED = {"tars with numbers", "parquet with numbers"}


def opened(data: Data, names: Sequence[str] | None = None) -> tuple[list[str], ImageLabels]:
    images = data.open()
    labels = data.open_labels(images, names)
    assert labels is not None
    return [Path(image.key).stem for image in images.read(range(len(images)))], labels


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_says_the_class_of_every_image(source: str, tmp_path: Path) -> None:
    keys, labels = opened(SOURCES[source](tmp_path))
    assert sorted(keys) == [f"{number:02d}" for number in range(12)]
    assert labels.numbers.tolist() == [class_of(int(key)) for key in keys]
    assert labels.names == (("0", "1", "2") if source in NUMBERED else NAMES)


@pytest.mark.parametrize("source", SOURCES)
def test_a_batchs_labels_are_those_of_its_images(source: str, tmp_path: Path, tiny_run: Configure) -> None:
    data = replace(SOURCES[source](tmp_path), batch_images=6)
    images = data.open()
    plain = build_batches(tiny_run(), World(0, 1, torch.device("cpu")))
    batches = replace(plain, data=data, images=images, labels=data.open_labels(images))
    for step in range(2):
        batch = batches[step]
        assert batch.labels is not None
        assert batch.labels.tolist() == [class_of(int(Path(key).stem)) for key in batch.keys]
        assert batch.to(torch.device("cpu")).finished().labels is not None


def test_the_label_of_an_image_that_gave_way_is_its_stand_ins(tmp_path: Path, tiny_run: Configure) -> None:
    data = folder(tmp_path)
    broken = sorted((tmp_path / "images").rglob("*.jpg"))[0]
    broken.write_bytes(b"no picture")
    images = data.open()
    plain = build_batches(tiny_run(), World(0, 1, torch.device("cpu")))
    batches = replace(plain, data=replace(data, batch_images=12), images=images, labels=data.open_labels(images))
    batch = batches[0]
    assert batch.num_undecodable == 1
    assert batch.labels is not None
    assert batch.labels.tolist() == [class_of(int(Path(key).stem)) for key in batch.keys]


def test_images_without_classes_are_trained_on_as_before(tmp_path: Path, tiny_run: Configure) -> None:
    data = replace(folder(tmp_path), labels=None)
    assert data.open_labels(data.open()) is None
    assert build_batches(tiny_run(), World(0, 1, torch.device("cpu")))[0].labels is None


def test_validation_takes_the_numbers_of_the_training_by_name_and_by_number(tmp_path: Path) -> None:
    training = ("zebra", "cat", "bee", "ant")
    for source in ("folder", "tars with names", "parquet with ClassLabel"):
        (tmp_path / source).mkdir()
        keys, labels = opened(SOURCES[source](tmp_path / source), training)
        assert labels.names == training
        wanted = [{"ant": 3, "bee": 2, "cat": 1}[NAMES[class_of(int(key))]] for key in keys]
        assert labels.numbers.tolist() == wanted  # Parquet's numbers are looked up under its own names
    (tmp_path / "numbers").mkdir()
    keys, labels = opened(SOURCES["tars with numbers"](tmp_path / "numbers"), training)
    assert labels.numbers.tolist() == [class_of(int(key)) for key in keys]


def test_a_file_of_names_decides_their_order(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\n\nant\nbee\n")
    data = folder(tmp_path)
    keys, labels = opened(replace(data, labels=Labels(classes=str(tmp_path / "classes.txt"))))
    assert labels.names == ("cat", "ant", "bee")
    assert labels.numbers.tolist() == [{0: 1, 1: 2, 2: 0}[class_of(int(key))] for key in keys]
    (tmp_path / "classes.txt").write_text("cat\nant\ncat\n")
    with pytest.raises(DataError, match=r"classes\.txt names 'cat' twice"):
        opened(replace(data, labels=Labels(classes=str(tmp_path / "classes.txt"))))


def test_folders_of_digits_are_names_and_numbers_find_them(tmp_path: Path) -> None:
    said = LabelTexts(["10", "2", "1", "2"], "here", are_names=True)
    labels = numbered(said)
    assert labels.names == ("1", "10", "2")
    assert labels.numbers.tolist() == [1, 2, 0, 2]
    assert numbered(LabelTexts(["2", "10"], "there"), labels.names).numbers.tolist() == [2, 1]


def test_an_image_without_a_label_is_named(tmp_path: Path) -> None:
    data = folder(tmp_path)
    (tmp_path / "images" / "stray.jpg").write_bytes(jpeg(1))
    with pytest.raises(DataError, match=r"1 of the 13 images in data\.folder = .* have no label; the first is .*stray"):
        opened(data)
    (tmp_path / "t").mkdir()
    missing = tars(tmp_path / "t", lambda n: {"cls": b"1"} if n != 4 else {}, Labels())
    with pytest.raises(
        DataError, match=r"1 of the 12 images in the 3 tar\(s\).*\(\.cls\) have no label; the first is 04"
    ):
        opened(missing)
    (tmp_path / "p").mkdir()
    column = pa.array([None if n == 3 else -1 if n == 4 else 0 for n in range(12)], pa.int64())
    with pytest.raises(DataError, match=r"2 of the 12 images in the 1 file\(s\) .* the first is 03\.jpg"):
        opened(parquet(tmp_path / "p", column, Labels(column="kind")))


def test_a_class_that_the_training_has_not_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"1 class\(es\) that are not among the 3 known ones: 'cat' \(did you mean 'cats'"
    ):
        opened(folder(tmp_path), ("ant", "bee", "cats"))
    with pytest.raises(DataError, match=r"not among the 2 known ones: '2'"):
        numbered(LabelTexts(["0", "2"], "here"), ("a", "b"))


def test_a_missing_column_and_one_that_holds_no_classes_are_named(tmp_path: Path) -> None:
    data = parquet(tmp_path, pa.array([0.5] * 12), Labels())
    with pytest.raises(DataError, match=r"no column 'label' of classes, only image, kind\. .*data\.labels\.column"):
        opened(data)
    with pytest.raises(DataError, match=r"column 'kind' of .* holds double"):
        opened(replace(data, labels=Labels(column="kind")))
    with pytest.raises(DataError, match="cannot be the number of a class"):
        numbered(LabelTexts(["1700000000"], "here"))


def test_a_json_that_is_none_is_named(tmp_path: Path) -> None:
    data = tars(tmp_path, lambda n: {"json": b"{no json"}, Labels(json_key="kind"))
    with pytest.raises(DataError, match=r"00\.json in .*part-0\.tar holds no label that can be read"):
        opened(data)


def test_tars_are_read_for_labels_once_and_again_when_they_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned = []
    scan = tar_labels.tar_members

    def counted(file: Any, path: str, **options: Any) -> Iterator[Any]:
        scanned.append(Path(path).name)
        return scan(file, path, **options)

    monkeypatch.setattr(tar_labels, "tar_members", counted)
    data = SOURCES["tars with names"](tmp_path)
    first, second = opened(data), opened(data)
    assert first[0] == second[0]
    assert first[1].numbers.tolist() == second[1].numbers.tolist()
    assert sorted(scanned) == [f"part-{part}.tar" for part in range(3)]
    with SampleWriter(str(tmp_path / "part-1.tar")) as writer:
        writer.add("01", {"jpg": jpeg(1), "cls": b"ant"})
    keys, labels = opened(data)
    assert labels.numbers[keys.index("01")] == 0
    assert len(scanned) == 4


def test_samples_of_other_writers_share_their_label_whatever_the_members_order(tmp_path: Path) -> None:
    path = tmp_path / "other.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in (
            ("a/1.cls", b"bee"), ("a/1.left.jpg", b"x"), ("a/1.right.jpg", b"y"), ("b/1.png", b"z"), ("b/1.cls", b"ant")
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    found = [(member.name, label) for member, label in tar_labels.labelled_members(str(path))]
    assert found == [("a/1.left.jpg", "bee"), ("a/1.right.jpg", "bee"), ("b/1.png", "ant")]


PROCESS = """
import sys
import torch.distributed as dist
from ssl_train.data.labels import Labels
from ssl_train.data.source import read_labels
from ssl_train.data.tars import TarImages

store, rank, shards = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=2)
print(read_labels(TarImages(shards), Labels()).numbers.tolist())
dist.destroy_process_group()
"""


def test_processes_share_the_reading_and_know_the_same(tmp_path: Path) -> None:
    data = SOURCES["tars with names"](tmp_path)
    arguments = [[str(tmp_path / "store"), str(rank), str(data.shards)] for rank in range(2)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, "-c", PROCESS, *some], env=environment, stdout=subprocess.PIPE, text=True)
        for some in arguments
    ]
    told = [process.communicate(timeout=100)[0] for process in started]
    alone = read_labels(data.open(), Labels()).numbers.tolist()
    assert told == [f"{alone}\n"] * 2
