"""An earlier run's vectors are taken where id and bytes are the same; that changes what it costs, and not one byte."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from storage.errors import ChecksumMismatch, UnreachableStorage
from storage.images import encode_jpeg
from storage.layout import Layout
from storage.manifest import Manifest
from storage.tables import read_table
from tasks.collect import Collect, Collection, collect
from tasks.describe import Describe, FittedBy, Whiten, describe
from tasks.embed import Embed, embed
from tasks.encoders import Pixels, TorchScript
from tasks.encoding import known as known_vectors
from tasks.encoding import parts as encoded_parts
from tasks.encoding.known import IncompatibleBase, index_vectors, row_keys
from tasks.encoding.parts import WHITENING
from tasks.workers import Workers, workers
from tests.tasks.encoders.pictures import scenes
from tests.tasks.image_stages import downloaded

NUM = 30


def encoded(numbers: range | list[int], quality: int = 90) -> dict[str, bytes]:
    return {f"{number:024x}": encode_jpeg(scenes()[number], quality=quality) for number in numbers}


def earlier(layout: Layout) -> Manifest:
    """30 images in three parts, one of them broken."""
    images = encoded(range(NUM))
    images[f"{7:024x}"] = images[f"{7:024x}"][:700]
    return downloaded(layout, images, parts=3)


def later(layout: Layout) -> Manifest:
    """The same but: two gone, so that all move up; one with other bytes under its id; five new; in other parts."""
    images = encoded([number for number in range(NUM) if number not in (3, 15)])
    images[f"{7:024x}"] = images[f"{7:024x}"][:700]
    images |= encoded([20], quality=70) | encoded(range(40, 45))
    return downloaded(layout, images, parts=4)


def content(manifest: Manifest) -> dict[str, str]:
    """Checksum of every file that the manifest names, as it lies there."""
    found = {}
    for entry in manifest.files:
        found[entry.path] = hashlib.sha256(Path(manifest.directory, entry.path).read_bytes()).hexdigest()
        assert found[entry.path] == entry.sha256
    return found


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each part that is encoded reads."""
    read: list[int] = []
    original = encoded_parts.encode_images

    def spy(table: object, *args: object, **plain: object) -> object:
        read.append(len(table))  # type: ignore[arg-type]
        return original(table, *args, **plain)  # type: ignore[arg-type]

    monkeypatch.setattr(encoded_parts, "encode_images", spy)
    return read


class Blurred(nn.Module):
    """A small network: a convolution and the means of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv2d(3, 32, 9, stride=4)
        self.project = nn.Linear(32, 24)

    def forward(self, images: Tensor) -> Tensor:
        return self.project(self.filters(images).relu().mean(dim=(2, 3)))


@pytest.fixture
def network(tmp_path: Path) -> TorchScript:
    torch.manual_seed(0)
    path = tmp_path / "network.pt"
    torch.jit.save(torch.jit.script(Blurred().eval()), str(path))
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    return TorchScript(weights=str(path), sha256=checksum, side=64, batch_images=4)


pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning")


@pytest.mark.parametrize("run_rows", [4, 2_000_000])
def test_with_and_without_a_base_every_byte_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: list[int], run_rows: int
) -> None:
    monkeypatch.setattr(known_vectors, "_RUN_ROWS", run_rows)  # 4: many runs and eight buckets
    found: list[Mapping[str, str]] = []
    for run in ("without", "with"):
        layout = Layout(str(tmp_path / run))
        base = describe.fn(earlier(layout), Describe(), layout)
        counted.clear()
        described = describe.fn(later(layout), Describe(), layout, fitted=base, base=base if run == "with" else None)
        found.append(content(described))
        assert sum(counted) == (6 if run == "with" else 33)  # five are new, one has other bytes
    assert described.facts["reused"] == 27
    assert described.facts["base"] == base.reference
    assert dict(described.drops) == {"truncated": 1}
    assert found[0] == found[1]
    assert {path.name for path in Path(described.directory).iterdir()} == set(found[1]) | {
        "manifest.json",
        "timing.json",
    }


def test_a_networks_vectors_do_not_depend_on_which_others_were_left_to_encode(
    tmp_path: Path, network: TorchScript, counted: list[int]
) -> None:
    found = []
    for run in ("without", "with"):
        layout = Layout(str(tmp_path / run))
        config = Embed(encoder=network)
        base = embed.fn(earlier(layout), config, layout)
        counted.clear()
        found.append(content(embed.fn(later(layout), config, layout, base=base if run == "with" else None)))
    assert sum(counted) == 6
    assert found[0] == found[1]


def test_a_part_that_is_an_earlier_one_whole_is_taken_over_as_a_file(layout: Layout, counted: list[int]) -> None:
    images = encoded(range(NUM))
    base = describe.fn(downloaded(layout, images, parts=3), Describe(whiten=None), layout)
    crawl = {f"{number:024x}": data for number, data in zip(range(40, 50), images.values(), strict=False)}
    counted.clear()
    both = describe.fn(downloaded(layout, images | crawl, parts=4), Describe(whiten=None), layout, base=base)
    assert counted == [10]  # the same bytes under other ids are other images
    for old, new in zip(base.paths(".npy"), both.paths(".npy")[:3], strict=True):
        assert Path(old).samefile(new)
    taken, theirs = ([entry.sha256 for entry in one.files if entry.path.endswith(".npy")][:3] for one in (both, base))
    assert taken == theirs


def test_a_base_changes_no_fingerprint(layout: Layout) -> None:
    base = embed.fn(earlier(layout), Embed(), layout)
    with_base = embed.fn(later(layout), Embed(), layout, base=base)
    assert embed.fn(later(layout), Embed(), layout) == with_base


def test_a_base_that_would_give_other_vectors_is_refused(layout: Layout) -> None:
    images, more = earlier(layout), later(layout)
    base = describe.fn(images, Describe(), layout)
    with pytest.raises(IncompatibleBase, match=r"fits its whitening on its own pool.*Pass fitted"):
        describe.fn(more, Describe(), layout, base=base)
    with pytest.raises(IncompatibleBase, match="its whitening differ"):
        describe.fn(more, Describe(whiten=None), layout, base=base)
    embedded = embed.fn(images, Embed(), layout)
    with pytest.raises(IncompatibleBase, match="encoder differ"):
        embed.fn(more, Embed(encoder=Pixels()), layout, base=embedded)


def test_a_base_of_another_version_is_of_no_use_and_no_hindrance(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = embed.fn(earlier(layout), Embed(), layout)
    expected = content(embed.fn(later(layout), Embed(), layout, name="other"))
    base.version -= 1
    found = embed.fn(later(layout), Embed(), layout, base=base)
    assert found.facts["reused"] == 0
    assert content(found) == expected


def test_benchmarks_described_with_the_same_whitening_are_done_whichever_run_it_comes_from(
    layout: Layout, counted: list[int]
) -> None:
    first = describe.fn(earlier(layout), Describe(), layout)
    second = describe.fn(later(layout), Describe(), layout, fitted=first, base=first)
    benchmark = downloaded(layout, encoded(range(60, 66)))
    done = describe.fn(benchmark, Describe(), layout, name="describe_benchmarks", fitted=first)
    counted.clear()
    again = describe.fn(benchmark, Describe(), layout, name="describe_benchmarks", fitted=second)
    assert again == done
    assert counted == []
    assert set(again.inputs) == {"images"}


def test_a_whitening_from_elsewhere_is_as_good_as_the_run_it_came_from(layout: Layout, tmp_path: Path) -> None:
    base = describe.fn(earlier(layout), Describe(), layout)
    path = tmp_path / "elsewhere.safetensors"
    path.write_bytes(Path(base.file(WHITENING)).read_bytes())
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    few = downloaded(layout, encoded(range(50, 53)))  # too few to fit one
    named = Whiten(fitted_by=FittedBy(path=str(path), sha256=checksum))
    taken = describe.fn(few, Describe(whiten=named), layout)
    assert content(taken) == content(describe.fn(few, Describe(), layout, fitted=base))
    again = describe.fn(few, Describe(), layout, name="third", fitted=taken)  # a whitening is handed on and on
    assert content(again) == content(taken)
    with pytest.raises(ChecksumMismatch):
        describe.fn(few, Describe(whiten=Whiten(fitted_by=FittedBy(path=str(path), sha256="0" * 64))), layout)
    path.write_bytes(b"something else")
    other = FittedBy(path=str(path), sha256=hashlib.sha256(b"something else").hexdigest())
    with pytest.raises(UnreachableStorage, match="no whitening that `describe` wrote"):
        describe.fn(few, Describe(whiten=Whiten(fitted_by=other)), layout)


def test_workers_give_what_one_process_gives(layout: Layout, network: TorchScript, two_processes: Workers) -> None:
    base = embed.fn(earlier(layout), Embed(encoder=network), layout)
    more = later(layout)
    alone = embed.fn(more, Embed(encoder=network), layout, name="alone")
    with workers(two_processes):
        spread = embed.fn(more, Embed(encoder=network), layout, name="spread", base=base)
    assert content(spread) == content(alone)
    assert spread.facts["reused"] == 27  # the broken one among them


def test_the_index_finds_what_a_dictionary_finds(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_vectors, "_RUN_ROWS", 3)
    base = embed.fn(earlier(layout), Embed(), layout)
    places = {}
    for part, path in enumerate(base.paths(".parquet")):
        for row, found in enumerate(read_table(path).to_pylist()):
            places[found["id"], found["sha256"]] = part << 32 | row
    other = embed.fn(later(layout), Embed(), layout)
    stage = encoded_parts.Stage("index", version=1, config=Embed(), inputs={"base": base}, layout=layout)
    known = index_vectors(stage, base)
    assert known.num_buckets > 4
    for path in other.paths(".parquet"):
        table = read_table(path)
        expected = [places.get((row["id"], row["sha256"]), -1) for row in table.to_pylist()]
        assert known.find(table).tolist() == expected


def test_a_row_without_a_checksum_is_never_taken_for_a_known_one(layout: Layout) -> None:
    table = read_table(earlier(layout).paths(".parquet")[0])
    column = table.schema.get_field_index("sha256")
    blank = table.set_column(column, "sha256", [[None] * len(table)])
    assert row_keys(table)[2].all()
    assert not row_keys(blank.cast(table.schema))[2].any()


def test_benchmarks_take_their_vectors_from_an_earlier_run_too(layout: Layout, tmp_path: Path) -> None:
    pool = describe.fn(earlier(layout), Describe(), layout)
    for folder, numbers in (("old", range(50, 54)), ("new", range(54, 57))):
        (tmp_path / folder).mkdir()
        for number in numbers:
            (tmp_path / folder / f"{number}.jpg").write_bytes(encode_jpeg(scenes()[number], quality=90))
    both = [Collection(name=name, path=str(tmp_path / name)) for name in ("old", "new")]
    first = collect.fn("benchmarks", both[:1], Collect(), layout)
    second = collect.fn("benchmarks", both, Collect(), layout)
    described = describe.fn(first, Describe(), layout, name="describe_benchmarks", fitted=pool)
    more = describe.fn(second, Describe(), layout, name="describe_benchmarks", fitted=pool, base=described)
    assert (more.facts["reused"], more.rows_kept) == (4, 7)


def test_an_error_while_encoding_comes_out_and_does_not_hang(
    layout: Layout, network: TorchScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded_parts, "built", lambda config: Failing())
    how = encoded_parts.PartEncoder(network, layout.root, 4, 2)
    with pytest.raises(RuntimeError, match="no more memory"):
        encoded_parts.encode_part(earlier(layout).paths(".parquet")[0], f"{layout.root}/part-00000", how=how)


class Failing:
    """An encoder whose device fails."""

    dim, min_side, batch_images, num_threads, batches_at_a_time = 3, 32, 2, 1, 2

    def prepare(self, image: np.ndarray) -> np.ndarray:
        return image[:8, :8]

    def finish(self, prepared: list[np.ndarray]) -> np.ndarray:
        raise RuntimeError("no more memory on the device")
