"""The one command for a machine with a GPU: what it runs, and that one bad job costs the others nothing."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from bench import on_gpu
from bench.on_gpu import JOBS, Job, main, run_all


def test_every_job_is_a_module_that_is_there() -> None:
    for job in JOBS:
        assert find_spec(job.arguments[1]) is not None, job.name
        assert not job.missing(), f"{job.name} would be left out even where all extras are installed"


def test_a_job_that_fails_hangs_or_lacks_a_package_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    (results / "old.json").write_text("{}")
    monkeypatch.setattr(on_gpu, "RESULTS", results)
    write = f"open({str(results / 'new.json')!r}, 'w').write('1'); print('said')"
    jobs = [
        Job("fails", ("-c", "raise SystemExit(3)"), 60),
        Job("hangs", ("-c", "import time; time.sleep(60)"), 1),
        Job("lacks", ("-c", "pass"), 60, ("a_package_that_nobody_has",)),
        Job("works", ("-c", write), 60),
    ]
    ends = run_all(jobs, tmp_path / "out")
    assert ends == {
        "fails": "failed (3)",
        "hangs": "over its limit of 1 s",
        "lacks": "not installed: a_package_that_nobody_has",
        "works": "done",
    }
    assert (tmp_path / "out" / "works.log").read_text() == "said\n"
    assert (tmp_path / "out" / "new.json").read_text() == "1"


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_it_says_so_and_still_lists_the_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "dcnv3"]) == 2
    assert "no GPU" in capsys.readouterr().err
    assert main(["--list"]) == 0
    assert "bench.train_step" in capsys.readouterr().out
