"""Linear evaluation: the minimum is scikit-learn's, the grid is each classifier alone, and the command tells both."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.testing import assert_close

from ssl_train.evaluate.features import class_tokens
from ssl_train.evaluate.linear import LinearEvaluation, held_out, main, standardised
from ssl_train.evaluate.linear_features import block_features
from ssl_train.evaluate.linear_heads import Input, train_classifiers
from ssl_train.evaluate.logistic import fit_best_logistic, fit_logistic
from ssl_train.models import Vit
from ssl_train.models.load import describe
from ssl_train.schedules import WarmUpCosine
from storage.images import encode_jpeg

TINY = Vit(size="tiny", patch_size=8, image_size=16, layer_scale=1.0)
WIDTHS = (3, 3, 4)


def clouds(rows: int, dim: int, classes: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Overlapping clouds of points, one a class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % classes
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    return centres[labels] + 1.2 * torch.randn(rows, dim, generator=generator), labels


@pytest.fixture
def labelled(tmp_path: Path) -> str:
    """Bright, grey and dark pictures, told apart by any network."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for label, level in (("dark", 30), ("grey", 120), ("bright", 220)):
            folder = tmp_path / "labelled" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(rng.normal(level, 10, (24, 30, 3)), 0, 255).astype(np.uint8)
                (folder / f"{number}.jpg").write_bytes(encode_jpeg(pixels, quality=90))
    return str(tmp_path / "labelled")


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
def test_the_minimum_is_scikit_learns(c: float) -> None:
    x, y = clouds(120, 6, 4, seed=0)
    theirs = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(x.double().numpy(), y.numpy())
    ours = fit_logistic(x, y, num_classes=4, c=c)
    assert_close(ours.weight, torch.from_numpy(theirs.coef_), rtol=1e-3, atol=1e-4)
    # The bias is free: only its differences count.
    bias = torch.from_numpy(theirs.intercept_)
    assert_close(ours.bias - ours.bias.mean(), bias - bias.mean(), rtol=1e-3, atol=1e-3)


def test_where_it_starts_does_not_matter_and_at_the_minimum_the_gradient_is_zero() -> None:
    x, y = clouds(90, 5, 3, seed=1)
    first = fit_logistic(x, y, num_classes=3, c=0.5)
    again = fit_logistic(x, y, num_classes=3, c=0.5, start=fit_logistic(x, y, num_classes=3, c=50.0))
    assert_close(first.weight, again.weight, rtol=1e-5, atol=1e-6)
    error = first.scores(x).softmax(-1) - F.one_hot(y, 3)
    assert_close(0.5 * error.T @ x.double() + first.weight, torch.zeros(3, 5, dtype=torch.float64), rtol=0, atol=1e-5)


def test_the_penalty_is_chosen_by_held_out_rows_and_fitted_to_all() -> None:
    x, y = clouds(60, 40, 3, seed=2)
    held = held_out(y)
    assert held.sum() == 6
    assert [int((y[held] == label).sum()) for label in range(3)] == [2, 2, 2]
    best, c = fit_best_logistic(x, y, held, num_classes=3, cs=(1e-3, 1.0))
    scores = {
        one: (fit_logistic(x[~held], y[~held], num_classes=3, c=one).scores(x[held]).argmax(-1) == y[held]).sum()
        for one in (1e-3, 1.0)
    }
    assert scores[c] == max(scores.values())
    assert_close(best.weight, fit_logistic(x, y, num_classes=3, c=c).weight)


def test_few_rows_of_a_class_still_leave_one_to_choose_by_and_one_to_learn_from() -> None:
    assert held_out(torch.tensor([0, 0, 1, 0, 2, 2])).tolist() == [False, False, False, True, False, True]


def test_inputs_are_the_last_blocks_and_the_mean_patch_at_will() -> None:
    features = torch.arange(10)
    seen = {
        (blocks, mean): features[Input(blocks, mean).columns(WIDTHS)].tolist()
        for blocks in (1, 2)
        for mean in (False, True)
    }
    assert seen[1, False] == [3, 4, 5]
    assert seen[1, True] == [3, 4, 5, 6, 7, 8, 9]
    assert seen[2, False] == [0, 1, 2, 3, 4, 5]
    assert seen[2, True] == list(range(10))
    with pytest.raises(ValueError, match="3 blocks are asked for, the features hold 2"):
        Input(3, False).columns(WIDTHS)


def test_each_classifier_of_the_grid_is_what_torchs_sgd_makes_of_it_alone() -> None:
    x, y = clouds(40, 10, 3, seed=3)
    inputs, rates, steps = (Input(1, False), Input(2, True)), (0.05, 0.5), 12
    heads = train_classifiers(
        x.unsqueeze(0),
        y,
        widths=WIDTHS,
        inputs=inputs,
        learning_rates=rates,
        num_classes=3,
        num_steps=steps,
        batch_rows=16,
        seed=7,
        device=torch.device("cpu"),
    )
    for place, given in enumerate(inputs):
        for number, rate in enumerate(rates):
            generator = torch.Generator().manual_seed(7)
            seen = [x[:, one.columns(WIDTHS)] for one in inputs]
            start = [torch.randn(3, part.shape[1], generator=generator) * 0.01 for part in seen][place]
            linear = torch.nn.Linear(seen[place].shape[1], 3)
            with torch.no_grad():
                linear.weight.copy_(start)
                linear.bias.zero_()
            sgd = torch.optim.SGD(linear.parameters(), lr=rate, momentum=0.9)
            schedule = WarmUpCosine(rate, 0.0, steps)
            for step in range(steps):
                rows = torch.randint(40, (16,), generator=generator)
                torch.randint(1, (16,), generator=generator)
                sgd.param_groups[0]["lr"] = schedule(step)
                sgd.zero_grad()
                F.cross_entropy(linear(seen[place][rows]), y[rows]).backward()
                sgd.step()
            assert heads[place].given == given
            assert_close(heads[place].weight[number], linear.weight.detach(), rtol=1e-4, atol=1e-5)
            assert_close(heads[place].bias[number], linear.bias.detach(), rtol=1e-4, atol=1e-5)


def test_standardised_columns_have_mean_zero_and_deviation_one_and_constants_say_nothing() -> None:
    train, test = torch.randn(30, 3) * 1e-5 + 7, torch.randn(5, 3) + 7
    train[:, 2], test[:, 2] = 4.0, 9.0
    ours, other = standardised(train, test)
    assert_close(ours.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-9)
    assert_close(ours.std(0, correction=0)[:2], torch.ones(2, dtype=torch.float64))
    assert not other[:, 2].any()


def test_features_are_the_last_class_token_and_the_mean_of_the_last_patches(labelled: str) -> None:
    torch.manual_seed(0)
    network = TINY.build()
    paths = sorted(str(path) for path in Path(labelled).glob("train/*/*.jpg"))[:5]
    rows = block_features(network, paths, num_blocks=2, pixels=16, batch_images=3)
    assert rows.widths == (128, 128, 128)
    assert rows.features.shape == (1, 5, 384)
    assert_close(rows.features[0, :, 128:256], class_tokens(network, paths, pixels=16, batch_images=5))
    views = block_features(network, paths, num_blocks=1, pixels=16, batch_images=5, views=3)
    assert views.features.shape == (3, 5, 256)
    assert (views.features[0] != views.features[1]).any()
    again = block_features(network, paths, num_blocks=1, pixels=16, batch_images=5, views=3)
    assert_close(views.features, again.features, rtol=0, atol=0)


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_the_command_scores_trained_and_untrained_and_prints_a_table(
    tmp_path: Path, labelled: str, capsys: pytest.CaptureFixture[str], solver: str
) -> None:
    teacher, output = tmp_path / "teacher.safetensors", tmp_path / "out" / "scores.json"
    torch.manual_seed(0)
    save_file(TINY.build().state_dict(), teacher, metadata=describe(TINY, seed=7))
    config = tmp_path / "eval.yaml"
    config.write_text(f"checkpoint: {teacher}\ndataset: {labelled}\noutput: {output}\nsolver: {solver}\n")
    assert main([str(config), "num_steps=60", "views=2", "num_blocks=[1, 2]"]) == 0
    scores = json.loads(output.read_text())
    assert (scores["num_train"], scores["num_test"], scores["num_classes"], scores["seed"]) == (24, 9, 3, 7)
    for name in ("trained", "untrained"):
        assert scores[name]["top1"] > 60  # chosen by three held-out pictures
        assert scores[name]["top1_best"] == 100
    if solver == "sgd":
        assert scores["trained"]["num_classifiers"] == 2 * 2 * len(
            LinearEvaluation(checkpoint="", dataset="", output="").learning_rates
        )
    assert "best on test" in capsys.readouterr().out


def test_a_mistake_is_explained_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    config = tmp_path / "eval.yaml"
    config.write_text(f"checkpoint: x\ndataset: {tmp_path}\noutput: {tmp_path}/scores.json\n")
    assert main([str(config)]) == 2
    assert "no images under" in capsys.readouterr().err
    assert main([str(config), "solver=newton"]) == 2
    assert "solver" in capsys.readouterr().err
    assert not (tmp_path / "scores.json").exists()
