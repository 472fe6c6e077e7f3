"""The hashes of a shard's members are those of its bytes, however many there are and whoever takes them."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from storage.samples import SampleWriter
from tasks import member_hashes
from tasks.member_hashes import WORTH_COMPILING, MemberHashes


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("num_samples", [0, 3, WORTH_COMPILING])
def test_members_and_shard_have_the_hashes_that_hashlib_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_samples: int, fast: bool
) -> None:
    if not fast:
        monkeypatch.setattr(member_hashes, "_paired", lambda: None)
    random = np.random.default_rng(num_samples)
    samples = [{"jpg": random.bytes(int(random.integers(0, 40_000))), "json": b"{}" * n} for n in range(num_samples)]
    hasher = MemberHashes(num_members=2 * num_samples)
    with SampleWriter(str(tmp_path / "s.tar"), hasher, past_cache=True) as writer:
        for number, sample in enumerate(samples):
            writer.add(str(number), sample)
        writer.finish()
        assert hasher.sha256s == [hashlib.sha256(data).hexdigest() for one in samples for data in one.values()]
        assert not (tmp_path / "s.tar").exists()
    assert writer.entry.sha256 == hashlib.sha256((tmp_path / "s.tar").read_bytes()).hexdigest()
