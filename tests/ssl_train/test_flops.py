"""The operations of a step are those of the table that the project's targets were reckoned from."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ssl_train.config import TrainConfig, load_recipe
from ssl_train.flops import image_flops, measure_peak_flops
from ssl_train.models import Vit

# Published geometry, derived figures (facts/training.md, table 3.1): recipe and changes; forward of one global crop,
# student's executed forward, teacher's forward, in GFLOP; the whole step's TFLOP per image.
TABLE = {
    "S/16 short": ("vitl16_short", ("model.size=small", "model.drop_path=0.1"), 9.1, 28, 18, 0.115),
    "B/16 short": ("vitl16_short", ("model.size=base",), 34.9, 85, 70, 0.338),
    "L/16 short": ("vitl16_short", (), 122.8, 299, 246, 1.155),
    "L/14 long": ("vitl14_long", ("model.ffn=mlp",), 161.9, 342, 324, 1.389),
    "g/14 long": ("vitg14", (), 598.3, 1266, 1198, 5.036),
}
# As published for the small networks: two figures.
ROUNDED = 0.5


@pytest.mark.parametrize("setup", TABLE)
def test_a_step_costs_what_the_table_says(setup: str) -> None:
    recipe, changes, one_crop, student, teacher, total = TABLE[setup]
    config = load_recipe(recipe, changes)
    flops = image_flops(config)
    forward = config.model.forward_flops(config.augment.global_pixels) / 1e9
    assert forward == pytest.approx(one_crop, rel=0.02)
    assert flops.student / 3e9 == pytest.approx(student, rel=0.02, abs=ROUNDED)
    assert flops.teacher / 1e9 == pytest.approx(teacher, rel=0.02, abs=ROUNDED)
    assert flops.total / 1e12 == pytest.approx(total, rel=0.02)


@pytest.mark.parametrize(("recipe", "student"), [("vits14_distilled", 42), ("vitb14_distilled", 162)])
def test_distillation_costs_the_student_and_the_forward_pass_of_the_larger_teacher(recipe: str, student: float) -> None:
    config = load_recipe(recipe)
    giant = load_recipe("vitg14").model
    flops = image_flops(config, giant)
    assert flops.student / 3e9 == pytest.approx(student, rel=0.02)
    assert flops.teacher / 1e9 == pytest.approx(1198, rel=0.02)


@pytest.mark.parametrize("model", [Vit(size="tiny", patch_size=8), Vit(size="tiny", ffn="swiglu", num_registers=4)])
def test_the_cost_of_a_config_is_what_torch_counts_in_the_network_it_builds(model: Vit) -> None:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # the one whose products are seen on a CPU
        model.build().tokens(torch.zeros(1, 3, 112, 112))
    assert model.forward_flops(112) == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_drop_path_saves_its_share_of_the_blocks_and_no_head_is_free() -> None:
    def flops(*changes: str) -> TrainConfig:
        return load_recipe("vitl16_short", ["augment.num_local=0", *changes])

    none, half = (image_flops(flops(f"model.drop_path={drop}")) for drop in (0.0, 0.5))
    assert half.student / none.student == pytest.approx(0.5, abs=0.01)
    assert half.teacher == none.teacher
    assert image_flops(flops("method.dino_head.num_prototypes=131072")).heads > none.heads


def test_the_peak_of_a_device_is_a_speed_that_it_reaches() -> None:
    assert 1e8 < measure_peak_flops(torch.device("cpu"), "fp32") < 1e14
