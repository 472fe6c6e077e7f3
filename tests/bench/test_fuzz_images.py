"""No bytes get through the image door but as an image or an ImageError; the fuzzer itself sees what breaks."""

import os
import signal
import time

import pytest

from bench import fuzz_images
from bench.fuzz_images import fuzz, mutated, outcome_of, seed_files


def test_three_thousand_mutated_files_break_nothing() -> None:
    findings = fuzz(3000, seed=7, seconds=120.0)
    assert findings.broken == []
    assert findings.outcomes.total() == 3000
    assert findings.outcomes["image"] > 300  # mutations that leave the door something to do
    assert {"truncated", "undecodable", "not_an_image", "too_many_pixels"} <= set(findings.outcomes)


def test_the_seeds_are_images_and_an_inputs_number_says_what_it_is() -> None:
    files = seed_files()
    assert {outcome_of(data) for data in files.values()} == {"image"}
    assert {name.partition("-")[0] for name in files} >= {"JPEG", "PNG", "WEBP", "GIF", "AVIF"}
    pool = list(files.values())
    assert [mutated(pool, number, 3) for number in range(50)] == [mutated(pool, number, 3) for number in range(50)]
    assert len({mutated(pool, number, 3) for number in range(50)}) > 45


class Broken:
    """A door that breaks at one input: raises, dies, or never ends."""

    def __init__(self, how: str) -> None:
        self.how, self.calls = how, 0

    def __call__(self, data: bytes) -> str:
        self.calls += 1
        if self.calls == 5:
            if self.how == "raises":
                raise KeyError("codec")
            if self.how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            while True:
                time.monotonic()
        return "image"


@pytest.mark.parametrize(
    ("how", "said"), [("raises", "KeyError"), ("dies", "exit code -9"), ("hangs", "no answer in 0.5 s")]
)
def test_what_breaks_is_told_by_its_number_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, how: str, said: str
) -> None:
    """In a forked child, which inherits the broken door; it is whole again in the next."""
    door = Broken(how)
    monkeypatch.setattr(fuzz_images, "outcome_of", door)
    monkeypatch.setattr(fuzz_images, "seed_files", lambda: {"a": b"a"})
    monkeypatch.setattr(
        fuzz_images.multiprocessing, "get_context", lambda _: fuzz_images.multiprocessing.context.ForkContext()
    )
    findings = fuzz(8, seconds=0.5)
    assert any(said in finding for finding in findings.broken), findings.broken
    assert findings.broken[0].startswith("input 3:")
