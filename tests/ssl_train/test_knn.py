import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from ssl_train.errors import DataError
from ssl_train.evaluate import classify, linear
from ssl_train.evaluate.features import read_split
from ssl_train.evaluate.frozen import build_untrained
from ssl_train.evaluate.knn import knn_accuracy, main
from ssl_train.models import Vit
from ssl_train.models.load import describe
from ssl_train.trainer import build_networks
from storage.images import encode_jpeg

TINY = Vit(size="tiny", patch_size=8, image_size=16, layer_scale=1.0)
Write = Callable[[str], None]


@pytest.fixture
def labelled(tmp_path: Path) -> str:
    """Bright and dark pictures, told apart by any network."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for label, level in (("dark", 30), ("bright", 220)):
            folder = tmp_path / "labelled" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(rng.normal(level, 10, (24, 30, 3)), 0, 255).astype(np.uint8)
                (folder / f"{number}.jpg").write_bytes(encode_jpeg(pixels, quality=90))
    return str(tmp_path / "labelled")


def test_accuracy_is_the_published_one(vectors: Any) -> None:
    v = vectors("knn")
    published = {int(k): tops for k, tops in json.loads(v.metadata["top1_top5_percent"]).items()}
    ours = knn_accuracy(
        v["train_features"], v["train_labels"], v["test_features"], v["test_labels"], ks=list(published), block=64
    )
    assert {k: [tops[1], tops[5]] for k, tops in ours.items()} == published


def test_more_neighbours_than_training_images_count_all_of_them() -> None:
    features, labels = torch.randn(6, 4), torch.tensor([0, 1, 0, 1, 0, 1])
    assert list(knn_accuracy(features, labels, features, labels, ks=[2, 20, 200])) == [2, 6]


def test_features_that_differ_in_their_fifth_digit_are_still_told_apart() -> None:
    labels = torch.arange(40) % 2
    features = torch.ones(40, 16) + 1e-5 * torch.randn(40, 16) * 0.1
    features[:, 0] += 1e-5 * labels
    scores = knn_accuracy(features[:20], labels[:20], features[20:], labels[20:], ks=[3])
    assert scores[3][1] == 100


def test_the_untrained_network_is_the_one_that_a_run_starts_from(tiny_run: Any) -> None:
    config = tiny_run("seed=5")
    started = build_networks(config).student["backbone"]
    assert_close(build_untrained(config.model, 5).state_dict(), started.state_dict(), rtol=0, atol=0)


def test_the_command_scores_trained_and_untrained_and_prints_a_table(
    tmp_path: Path, labelled: str, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, output = tmp_path / "teacher.safetensors", tmp_path / "out" / "scores.json"
    save_file(TINY.build().state_dict(), teacher, metadata=describe(TINY, seed=7))
    config = tmp_path / "eval.yaml"
    config.write_text(f"checkpoint: {teacher}\ndataset: {labelled}\noutput: {output}\nks: [3, 10]\n")
    assert main([str(config), "batch_images=5"]) == 0
    scores = json.loads(output.read_text())
    assert (scores["num_train"], scores["num_test"], scores["num_classes"], scores["seed"]) == (12, 6, 2, 7)
    assert scores["trained"]["top1"]["3"] == scores["untrained"]["top1"]["3"] == 100
    assert scores["classes"] == ["bright", "dark"]
    assert "trained top-1" in capsys.readouterr().out


def test_a_checkpoint_of_another_checksum_is_refused_and_nothing_is_written(
    tmp_path: Path, labelled: str, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, output = tmp_path / "teacher.safetensors", tmp_path / "scores.json"
    save_file(TINY.build().state_dict(), teacher, metadata=describe(TINY))
    config = tmp_path / "eval.yaml"
    config.write_text(
        f"checkpoint: {teacher}\ncheckpoint_sha256: '{'0' * 64}'\ndataset: {labelled}\noutput: {output}\n"
    )
    assert main([str(config)]) == 2
    assert "expected 0000" in capsys.readouterr().err
    assert not output.exists()


def test_a_broken_image_is_named_and_nothing_is_scored_without_it(
    tmp_path: Path, labelled: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, teacher = Path(labelled) / "test" / "dark" / "broken.jpg", tmp_path / "teacher.safetensors"
    broken.write_bytes(b"no picture")
    save_file(TINY.build().state_dict(), teacher, metadata=describe(TINY))
    config = tmp_path / "eval.yaml"
    config.write_text(f"checkpoint: {teacher}\ndataset: {labelled}\noutput: {tmp_path / 'scores.json'}\n")
    for command in (main, linear.main):
        assert command([str(config)]) == 2
        assert f"{broken} cannot be decoded: not_an_image" in capsys.readouterr().err
    assert not (tmp_path / "scores.json").exists()


@pytest.mark.parametrize("command", [main, linear.main, classify.main])
def test_the_commands_say_how_they_are_used(
    command: Callable[[Sequence[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["--help"]) == 0
    told = capsys.readouterr().out
    assert "python -m ssl_train.evaluate." in told
    assert "Parquet files" in told if command is classify.main else "batch_images = 64: Images that" in told


def test_a_folder_without_labels_and_a_class_never_trained_on_are_named(tmp_path: Path, labelled: str) -> None:
    with pytest.raises(DataError, match="no images under"):
        read_split(str(tmp_path), "train")
    with pytest.raises(DataError, match="classes that the other split has not: dark"):
        read_split(labelled, "test", ["bright"])
