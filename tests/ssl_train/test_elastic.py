import json
import os
import subprocess
import sys
from pathlib import Path

from ssl_train.metrics import read_metrics
from tests.ssl_train import dies


def test_when_a_process_dies_all_are_started_again_and_go_on_from_the_newest_whole_checkpoint(
    photographs: str, tmp_path: Path
) -> None:
    output, marker = tmp_path / "run", tmp_path / "died"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    settings = (
        f"data.folder={photographs}",
        f"output_dir={output}",
        "num_steps=3",
        "model.image_size=32",
        "augment={global_pixels: 32, local_pixels: 16, num_local: 1}",
        "data.batch_images=4",
        "method.group_images=2",
        "method.dino_head={num_prototypes: 32, hidden_dim: 32, bottleneck_dim: 16}",
        "checkpoint={every_steps: 1, asynchronous: true}",
    )
    done = subprocess.run(
        [*torchrun, dies.__file__, "at-step", "2", str(marker), "debug", *settings],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert marker.exists()
    assert done.stdout.count("starting at step 0/3") == 1, done.stdout
    assert "resuming at step 1/3" in done.stdout or "resuming at step 2/3" in done.stdout, done.stdout
    assert [line["step"] for line in read_metrics(str(output))] == [1, 2, 3]
    assert json.loads((output / "teacher.json").read_text())["step"] == 3
