import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.testing import assert_close

from ssl_train.checkpoint import export_teacher, heads_path
from ssl_train.data.labels import Labels
from ssl_train.data.pixels import normalise, to_unit
from ssl_train.distributed import World
from ssl_train.errors import CheckpointError, ConfigError, DataError
from ssl_train.evaluate.classify import (
    Classify,
    Scores,
    classification_scores,
    evaluate,
    main,
    published_head,
    read_classifier,
)
from ssl_train.evaluate.features import central_crop
from ssl_train.methods.supervised import Supervised, SupervisedNetworks
from ssl_train.models import Vit
from ssl_train.models.class_head import ClassHead
from storage.images import decode_rgb, encode_jpeg
from storage.samples import SampleWriter
from tests.ssl_train.planted_classes import NAMES, write_classes

ALONE = World(0, 1, torch.device("cpu"))
TINY = Vit(size="tiny", patch_size=8, image_size=32, mask_token=False, layer_scale=None)
HEAD = ClassHead(num_classes=7, pool="cls_mean", init_std=0.5)
TRAINED = (*NAMES, "one", "two", "three")
"""Classes of the training: more than the validation has, so that five guesses may miss."""


def built() -> SupervisedNetworks:
    torch.manual_seed(0)
    networks = Supervised(class_head=HEAD).build(TINY, num_steps=10)
    networks.class_names = TRAINED
    return networks


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Thirteen pictures of four classes, in folders."""
    folder = Path(write_classes(tmp_path_factory.mktemp("pictures"), 3))
    extra = decode_rgb((folder / NAMES[2] / "000.jpg").read_bytes())[:, ::-1]
    (folder / NAMES[2] / "wide.jpg").write_bytes(encode_jpeg(np.concatenate([extra, extra[:, :9]], 1), quality=92))
    return str(folder)


def scores_of(config: Classify, networks: nn.ModuleDict | None = None) -> Scores:
    modules = (built().teacher if networks is None else networks).eval()
    return classification_scores(modules, config.open(TRAINED), config, ALONE)


@torch.no_grad()
def one_by_one(folder: str) -> tuple[float, float, float]:
    """The slow truth: every image by itself."""
    networks, right, right5, losses = built().teacher.eval(), 0, 0, []
    paths = sorted(Path(folder).glob("*/*.jpg"))
    for path in paths:
        label = TRAINED.index(path.parent.name)
        crop = central_crop(decode_rgb(path.read_bytes()), 32)
        views = networks["backbone"]([crop[None]])[0]
        logits = networks["class_head"](views.cls, views.patches)[0]
        better = sum(float(logits[k]) > float(logits[label]) for k in range(7))
        right, right5 = right + (better == 0), right5 + (better < 5)
        losses.append(float(F.cross_entropy(logits[None], torch.tensor([label]))))
    return 100 * right / len(paths), 100 * right5 / len(paths), float(np.mean(losses))


@pytest.mark.parametrize("batch_images", [1, 5, 64])
def test_scores_are_those_of_the_images_one_by_one_whatever_the_batch(pictures: str, batch_images: int) -> None:
    top1, top5, loss = one_by_one(pictures)
    scores = scores_of(Classify(folder=pictures, batch_images=batch_images))
    assert (scores.top1, scores.top5) == (pytest.approx(top1), pytest.approx(top5))
    assert scores.loss == pytest.approx(loss, rel=1e-4)
    assert (scores.num_images, scores.num_undecodable) == (13, 0)
    assert 0 < scores.top5 < 100


def test_every_source_gives_the_same_scores(pictures: str, tmp_path: Path) -> None:
    with SampleWriter(str(tmp_path / "val.tar")) as writer:
        for path in sorted(Path(pictures).glob("*/*.jpg")):
            writer.add(f"{path.parent.name}-{path.stem}", {"jpg": path.read_bytes(), "cls": path.parent.name.encode()})
    assert scores_of(Classify(shards=str(tmp_path / "val.tar"))) == scores_of(Classify(folder=pictures))


def test_two_shares_of_the_images_add_up_to_all_of_them(pictures: str) -> None:
    """Without a process group a share's sums are its own: 7 images and 6, of which the last one fills up a batch."""
    config = Classify(folder=pictures, batch_images=4)
    found, networks = config.open(TRAINED), built().teacher.eval()
    halves = [classification_scores(networks, found, config, World(rank, 2, torch.device("cpu"))) for rank in range(2)]
    whole = scores_of(config)
    assert [half.num_images for half in halves] == [7, 6]
    for name in ("top1", "top5", "loss"):
        mean = sum(getattr(half, name) * half.num_images for half in halves) / 13
        assert mean == pytest.approx(getattr(whole, name), rel=1e-5)


def test_an_image_that_cannot_be_decoded_is_told_and_does_not_count(pictures: str, tmp_path: Path) -> None:
    for path in Path(pictures).glob("*/*.jpg"):
        place = tmp_path / path.parent.name / path.name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(path.read_bytes())
    before = scores_of(Classify(folder=str(tmp_path)))
    (tmp_path / NAMES[0] / "000a.jpg").write_bytes(b"no picture")
    after = scores_of(Classify(folder=str(tmp_path), batch_images=5))
    assert (after.num_images, after.num_undecodable) == (13, 1)
    assert after.loss == pytest.approx(before.loss, rel=1e-5)
    assert after.top1 == pytest.approx(before.top1)


class Middle(nn.Module):
    """A backbone that looks at nothing but remembers what it was shown."""

    image_size = 20

    def forward(self, crops: Any) -> Any:
        self.seen = crops[0]
        zeros = torch.zeros(len(crops[0]), 8)
        return [type("Views", (), {"cls": zeros, "patches": zeros[:, None]})]


@pytest.mark.parametrize("crop_share", [1.0, 0.5])
def test_the_central_square_is_shown_as_large_as_is_asked_for(tmp_path: Path, crop_share: float) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(_png(picture))
    middle = Middle()
    networks = nn.ModuleDict({"backbone": middle, "class_head": ClassHead(num_classes=2).build(8)})
    side = round(40 * crop_share)
    config = Classify(folder=str(tmp_path), crop_share=crop_share, pixels=side)
    classification_scores(networks, config.open(("a", "b")), config, ALONE)
    square = picture[(40 - side) // 2 : (40 + side) // 2, (60 - side) // 2 : (60 + side) // 2]
    assert_close(middle.seen[0], normalise(to_unit(torch.from_numpy(square.copy()).permute(2, 0, 1))))


def _png(picture: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_look_is_due_at_its_steps_and_at_the_end() -> None:
    config = Classify(folder="x", every_steps=4)
    assert [step for step in range(1, 11) if config.is_due(step, 10)] == [4, 8, 10]


def test_an_unknown_class_and_a_wrong_number_of_sources_are_named(pictures: str) -> None:
    with pytest.raises(DataError, match=r"not among the 2 known ones: 'falling', 'rising'"):
        Classify(folder=pictures).open(NAMES[:2])
    with pytest.raises(ConfigError, match=r"metrics\.classify: give one of folder, shards and parquet, not none"):
        Classify().open(None)
    with pytest.raises(ConfigError, match=r"not \['shards', 'folder'\]"):
        Classify(folder=pictures, shards="a.tar").open(None)


@pytest.fixture
def exported(tmp_path: Path, pictures: str) -> Path:
    """The folder of a run, as the trainer leaves it."""
    export_teacher(str(tmp_path / "teacher.safetensors"), built(), model=TINY, step=7, seed=0, world=ALONE)
    settings = {"metrics": {"classify": {"folder": pictures, "batch_images": 5}}, "num_steps": 7}
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    return tmp_path


def test_the_command_tells_and_writes_the_scores_of_a_run(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(exported)]) == 0
    written = json.loads((exported / "classify.json").read_text())
    expected = scores_of(Classify(folder=written["settings"]["folder"]))
    assert (written["top1"], written["top5"]) == (expected.top1, expected.top5)
    assert (written["num_images"], written["num_classes"], written["step"]) == (13, 7, 7)
    told = capsys.readouterr().out
    assert f"top-1 {expected.top1:.2f} %, top-5 {expected.top5:.2f} %" in told
    assert "13 images of 7 classes, 0 undecodable" in told


def test_settings_of_the_command_go_before_the_runs(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    write_classes(other, 1, first=500)
    scores = evaluate(str(exported / "teacher.safetensors"), [f"folder={other}", "crop_share=1"])
    assert scores["num_images"] == 4
    assert scores["settings"]["crop_share"] == 1


def test_a_classifier_read_back_says_what_it_said(exported: Path) -> None:
    networks = built().teacher
    read = read_classifier(str(exported / "teacher.safetensors"), heads_path(str(exported / "teacher.safetensors")))
    assert read.class_names == TRAINED
    for name, tensor in networks.state_dict().items():
        assert_close(read.networks.state_dict()[name], tensor, rtol=0, atol=0)


def test_what_is_no_classifier_is_named(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = str(exported / "teacher.safetensors")
    with pytest.raises(CheckpointError, match=r"holds no classifier of a known kind"):
        read_classifier(teacher)
    safetensors.torch.save_file({"dino_head.mlp.0.bias": torch.zeros(3)}, exported / "heads-of-dino.safetensors")
    with pytest.raises(CheckpointError, match=r"holds no classifier: it is exported by runs with method\.kind"):
        read_classifier(teacher, str(exported / "heads-of-dino.safetensors"))
    assert main([str(exported), "foldr=x"]) == 2
    assert "unknown key 'foldr' (did you mean 'folder'?)" in capsys.readouterr().err
    assert main([str(exported / "nowhere")]) == 2
    assert main([]) == 2


def test_a_published_checkpoint_is_a_classifier_in_one_file(pictures: str, tmp_path: Path) -> None:
    networks = Supervised(class_head=ClassHead(num_classes=4, init_std=0.5)).build(TINY, num_steps=1).teacher.eval()
    state = {**networks["backbone"].state_dict(), **networks["class_head"].state_dict()}
    torch.save({"model": state}, tmp_path / "published.pth")
    config = Classify(folder=pictures, pixels=32)
    read = read_classifier(str(tmp_path / "published.pth"))
    assert read.class_names is None
    found = config.open(None)
    assert found.labels.names == tuple(sorted(NAMES))
    assert classification_scores(read.networks, found, config, ALONE) == classification_scores(
        networks, found, config, ALONE
    )
    assert evaluate(str(tmp_path / "published.pth"), [f"folder={pictures}", "pixels=32"])["num_classes"] == 4


def test_published_heads_are_known_by_their_names() -> None:
    widened = ClassHead(num_classes=4, pool="mean", widen=1.5)
    own = widened.build(8).state_dict()
    assert published_head({"patch_embed.conv1.weight": torch.zeros(1), **own}, "here")[0] == widened
    assert published_head({f"module.{name}": tensor for name, tensor in own.items()}, "here")[1].keys() == own.keys()
    settings, resnets = published_head({"fc.weight": torch.zeros(10, 8), "fc.bias": torch.ones(10)}, "here")
    assert settings == ClassHead(num_classes=10)
    settings.build(8).load_state_dict(resnets, strict=True)
    with pytest.raises(CheckpointError, match="no classifier of a known kind"):
        published_head({"head.weight": torch.zeros(4, 8), "clip_projector.norm1_q.weight": torch.zeros(8)}, "here")


def test_labels_of_validation_images_may_stand_in_their_json(pictures: str, tmp_path: Path) -> None:
    with SampleWriter(str(tmp_path / "val.tar")) as writer:
        for path in sorted(Path(pictures).glob("*/*.jpg")):
            told = json.dumps({"kind": path.parent.name}).encode()
            writer.add(f"{path.parent.name}-{path.stem}", {"jpg": path.read_bytes(), "json": told})
    config = Classify(shards=str(tmp_path / "val.tar"), labels=Labels(json_key="kind"))
    assert scores_of(config) == scores_of(Classify(folder=pictures))
