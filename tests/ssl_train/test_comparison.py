"""Every method stands in the comparison with every backbone for which it is defined, on the same images and steps."""

from pathlib import Path

import pytest

from ssl_train.config import check_config
from ssl_train.studies.comparison import BACKBONES, BATCH_IMAGES, MASKED, METHODS, NAMES, as_markdown, config_of, pairs

ALL = pairs(list(METHODS), list(BACKBONES))


def test_only_methods_that_hide_patches_leave_a_backbone_out() -> None:
    missing = {(m, b) for m in METHODS for b in BACKBONES} - set(ALL)
    assert missing == {(m, b) for m in MASKED for b in ("resnet", "internimage")}


@pytest.mark.parametrize(("method", "backbone"), ALL)
def test_every_pair_is_a_sound_run_on_the_common_terms(method: str, backbone: str, tmp_path: Path) -> None:
    config = config_of(method, backbone, data=tmp_path, work=tmp_path / "run", steps=7)
    check_config(config, 1)
    assert (config.method.kind, config.model.kind) == (method, backbone)
    assert (config.num_steps, config.data.batch_images, config.augment.global_pixels) == (7, BATCH_IMAGES, 32)


def test_the_table_has_a_line_for_every_run() -> None:
    scores = {"knn": 50.0, "linear": 60.0}
    runs = [{"method": m, "backbone": b, "before": scores, "after": scores, "seconds": 1.0} for m, b in ALL]
    lines = as_markdown(runs, set_name="digits", steps=7).splitlines()
    assert len(lines) == 6 + len(ALL)
    assert all(any(f"| {m} | {NAMES[b]} |" in line for line in lines) for m, b in ALL)
