from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssl_train.config import TrainConfig, check_config
from ssl_train.distributed import World
from ssl_train.errors import ConfigError, DataError
from ssl_train.evaluate.features import class_tokens
from ssl_train.evaluate.knn import knn_accuracy
from ssl_train.evaluate.probe import KnnProbe, knn_top1
from ssl_train.metrics import read_metrics
from ssl_train.models import Vit
from ssl_train.trainer import Trainer
from storage.images import encode_jpeg
from storage.samples import SampleWriter

Configure = Callable[..., TrainConfig]
ALONE = World(0, 1, torch.device("cpu"))
TINY = Vit(size="tiny", patch_size=8, image_size=32, layer_scale=0.5)
LABELS = ("bright", "dark", "grey")


def picture(number: int) -> bytes:
    """A picture of one of three brightnesses that overlap: a network is right more often than not, not always."""
    random = np.random.default_rng(number)
    noise = random.normal(90 + 35 * (number % 3), 60, (36, 36, 3))
    return encode_jpeg(np.clip(noise, 0, 255).astype(np.uint8), quality=90)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """24 pictures in three folders, one a label."""
    for number in range(24):
        path = tmp_path / "labelled" / LABELS[number % 3] / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return tmp_path / "labelled"


def top1(probe: KnnProbe) -> float:
    torch.manual_seed(0)
    return knn_top1(TINY.build().eval(), probe.open(), probe, ALONE)[0]


def test_every_fourth_image_of_a_class_is_asked_about_and_the_others_vote(labelled: Path) -> None:
    images = KnnProbe(folder=str(labelled)).open()
    assert [images.labels[images.asked].tolist(), int((~images.asked).sum())] == [[0, 0, 1, 1, 2, 2], 18]
    asked = [Path(place.path).name for place, is_asked in zip(images.places, images.asked, strict=True) if is_asked]
    assert asked == ["09.jpg", "21.jpg", "10.jpg", "22.jpg", "11.jpg", "23.jpg"]


@pytest.mark.parametrize("batch_images", [1, 5, 64])
def test_the_accuracy_is_that_of_the_evaluation_whatever_the_batch(labelled: Path, batch_images: int) -> None:
    probe = KnnProbe(folder=str(labelled), k=5, batch_images=batch_images)
    images = probe.open()
    torch.manual_seed(0)
    features = class_tokens(TINY.build(), [place.path for place in images.places], pixels=32, batch_images=7)
    votes, asks = ~images.asked, images.asked
    expected = knn_accuracy(features[votes], images.labels[votes], features[asks], images.labels[asks], ks=[5])
    assert top1(probe) == expected[5][1]


def test_folders_tars_and_a_split_of_the_same_images_give_the_same(labelled: Path, tmp_path: Path) -> None:
    images = KnnProbe(folder=str(labelled)).open()
    with SampleWriter(str(tmp_path / "labelled-00000.tar")) as writer:
        for place, label in zip(images.places, images.labels.tolist(), strict=True):
            path = Path(place.path)
            writer.add(path.stem, {"cls": str(label).encode(), "jpg": path.read_bytes(), "json": b"{}"})
        writer.add("unlabelled", {"jpg": picture(99)})
    for place, is_asked in zip(images.places, images.asked.tolist(), strict=True):
        path = Path(place.path)
        split = tmp_path / "split" / ("test" if is_asked else "train") / path.parent.name / path.name
        split.parent.mkdir(parents=True, exist_ok=True)
        split.write_bytes(path.read_bytes())
    sets: list[dict[str, Any]] = [
        {"folder": str(labelled)},
        {"folder": str(tmp_path / "split")},
        {"shards": str(tmp_path / "labelled-*.tar")},
        {"shards": (str(tmp_path / "labelled-00000.tar"),)},
    ]
    assert len({top1(KnnProbe(k=5, **where)) for where in sets}) == 1


def test_an_image_that_cannot_be_decoded_is_counted_and_neither_votes_nor_is_asked_about(labelled: Path) -> None:
    probe = KnnProbe(folder=str(labelled), k=5)
    before = top1(probe)
    for label in LABELS:
        (labelled / label / "zz.jpg").write_bytes(b"no picture")  # the ninth of its class: it would vote
    assert knn_top1(TINY.build().eval(), probe.open(), probe, ALONE)[1] == 3
    assert top1(probe) == before


def test_a_look_changes_nothing_of_the_training_and_a_resumed_run_sees_the_same(
    tiny_run: Configure, labelled: Path, tmp_path: Path
) -> None:
    look = (f"metrics.knn={{folder: {labelled}, every_steps: 2, k: 3}}", "metrics.every_steps=3")
    plain, watched = (
        Trainer(tiny_run(f"output_dir={tmp_path / name}", *settings), ALONE)
        for name, settings in (("plain", ()), ("watched", look))
    )
    assert plain.run()
    assert watched.run()
    teachers = [Path(run.config.output_dir) / "teacher.safetensors" for run in (plain, watched)]
    assert teachers[0].read_bytes() == teachers[1].read_bytes()
    stopped = Trainer(tiny_run(*look), ALONE)
    stopped.stop.set()
    assert not stopped.run()
    resumed = Trainer(tiny_run(*look), ALONE)
    assert resumed.run()
    found = [
        {line["step"]: line.get("knn_top1") for line in read_metrics(run.config.output_dir)}
        for run in (watched, resumed)
    ]
    assert found[0] == found[1]
    assert [step for step, accuracy in found[0].items() if accuracy is not None] == [2, 4]
    assert list(found[0]) == [2, 3, 4]


def test_a_set_without_labels_and_a_config_without_a_set_are_said_at_the_start(
    tiny_run: Configure, photographs: str
) -> None:
    with pytest.raises(DataError, match=r"metrics\.knn has no labelled images"):
        Trainer(tiny_run(f"metrics.knn.folder={photographs}"), ALONE)
    with pytest.raises(ConfigError, match=r"metrics\.knn: give either folder or shards"):
        check_config(tiny_run("metrics.knn={}"), 1)
    with pytest.raises(ConfigError, match=r"metrics\.knn\.pixels must be a whole number"):
        check_config(tiny_run(f"metrics.knn={{folder: {photographs}, pixels: 33}}"), 1)
