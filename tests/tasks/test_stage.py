"""A stage is reused when nothing changed, resumes where it was cut, and never loses what is done."""

from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest

from storage.errors import BadManifest
from storage.filesystem import write_bytes
from storage.layout import Layout
from storage.manifest import Manifest
from storage.tables import write_table
from tasks.config import StageConfig
from tasks.stage import Outcome, PartsFailed, Stage
from tasks.workers import Workers, workers


class Doubling(StageConfig):
    """Test config."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"speed"})
    factor: int = 2
    speed: int = 1


def double_part(part: int, out: str, *, factor: int, counter: str, fail_at: int = -1) -> Outcome:
    write_bytes(f"{counter}/{Path(out).name}-{len(list(Path(counter).glob('*')))}", b"")
    if part == fail_at:
        raise ValueError(f"cannot double {part}")
    entry = write_table(f"{out}.parquet", pa.table({"value": [part * factor]}))
    return Outcome(2, 1, {"odd": 1}, [entry], {"sum": part * factor})


def run(
    layout: Layout, counter: Path, *, parts: int = 4, fail_at: int = -1, config: Doubling | None = None
) -> Manifest:
    counter.mkdir(exist_ok=True)
    config = config or Doubling()
    stage = Stage("doubling", version=1, config=config, inputs={}, layout=layout)
    if stage.finished:
        return stage.reuse()
    outcomes = stage.map(double_part, list(range(parts)), factor=config.factor, counter=str(counter), fail_at=fail_at)
    return stage.publish(outcomes)


def calls(counter: Path) -> int:
    return len(list(counter.iterdir()))


def test_rows_in_are_rows_kept_plus_drops(layout: Layout, tmp_path: Path) -> None:
    manifest = run(layout, tmp_path / "calls")
    assert (manifest.rows_in, manifest.rows_kept, dict(manifest.drops)) == (8, 4, {"odd": 4})
    assert manifest.facts["sum"] == 12


def test_an_unchanged_stage_is_reused_and_a_changed_one_stands_beside_it(layout: Layout, tmp_path: Path) -> None:
    first = run(layout, tmp_path / "calls")
    assert run(layout, tmp_path / "calls") == first
    assert calls(tmp_path / "calls") == 4
    second = run(layout, tmp_path / "calls", config=Doubling(factor=3))
    assert second.directory != first.directory
    assert calls(tmp_path / "calls") == 8


def test_what_only_changes_speed_changes_no_fingerprint(layout: Layout, tmp_path: Path) -> None:
    first = run(layout, tmp_path / "calls")
    assert run(layout, tmp_path / "calls", config=Doubling(speed=9)).fingerprint == first.fingerprint


def test_a_failed_part_keeps_the_others_and_only_it_is_done_again(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(PartsFailed, match=r"1 of 4 parts failed.*part-00002.*cannot double 2.*run again"):
        run(layout, tmp_path / "calls", fail_at=2)
    assert calls(tmp_path / "calls") == 4
    manifest = run(layout, tmp_path / "calls")
    assert calls(tmp_path / "calls") == 5
    assert manifest.rows_in == 8


def test_a_lost_file_is_made_again_and_nothing_else(layout: Layout, tmp_path: Path) -> None:
    first = run(layout, tmp_path / "calls")
    Path(first.paths(".parquet")[1]).unlink()
    assert run(layout, tmp_path / "calls").files == first.files
    assert calls(tmp_path / "calls") == 5


def test_a_cut_file_is_made_again(layout: Layout, tmp_path: Path) -> None:
    first = run(layout, tmp_path / "calls")
    Path(first.paths(".parquet")[1]).write_bytes(b"PAR1")
    assert run(layout, tmp_path / "calls").files == first.files


def test_a_cluster_gives_what_one_process_gives_and_counts_its_failures(
    layout: Layout, tmp_path: Path, two_processes: Workers
) -> None:
    alone = run(layout, tmp_path / "calls")
    with workers(two_processes.model_copy(update={"window": 3})):
        other = Layout(str(tmp_path / "cluster"))
        with pytest.raises(PartsFailed, match="cannot double 3"):
            run(other, tmp_path / "calls2", parts=9, fail_at=3)
        assert calls(tmp_path / "calls2") >= 9
        spread = run(other, tmp_path / "calls2", parts=4)
    assert spread.files == alone.files


def test_unknown_keys_and_changes_of_a_config_are_refused() -> None:
    with pytest.raises(ValueError, match="colour"):
        Doubling(colour="red")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="frozen"):
        Doubling().factor = 3  # type: ignore[misc]


def test_a_scheduler_that_does_not_answer_is_named() -> None:
    with pytest.raises(ConnectionError, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:9'"):
        with workers(Workers(address="tcp://127.0.0.1:9", connect_seconds=1)):
            pass


def test_a_file_taken_over_is_the_earlier_one_under_its_new_name(layout: Layout, tmp_path: Path) -> None:
    earlier = run(layout, tmp_path / "calls")
    later = Stage("doubling", version=2, config=Doubling(), inputs={}, layout=layout)
    entry = later.adopt(earlier, "part-00001.parquet", "part-00007.parquet")
    known = next(known for known in earlier.files if known.path == "part-00001.parquet")
    assert (entry.path, entry.sha256, entry.rows) == ("part-00007.parquet", known.sha256, known.rows)
    assert Path(later.path("part-00007.parquet")).read_bytes() == Path(earlier.file(known.path)).read_bytes()
    with pytest.raises(BadManifest, match=r"part-00099\.parquet"):
        later.adopt(earlier, "part-00099.parquet")
