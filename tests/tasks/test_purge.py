"""After a removal and a purge nothing below the root but the ledger knows the image; all else is as it was."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from storage.manifest import Manifest, load_manifest
from storage.tables import table_from_rows
from tasks.download import SCHEMA as DOWNLOADED
from tasks.hash_dedup import HashDedup, hash_dedup
from tasks.lineage import ancestry
from tasks.removal.ledger import Entry, append_entries, drop_removed, hash_entry, load_ledger, new_entry
from tasks.removal.plan import StillHeld, plan_purge
from tasks.removal.purge import purge
from tests.helpers import jpeg
from tests.tasks.image_stages import verdicts
from tests.tasks.packing import samples
from tests.tasks.removal_runs import (
    NUM_IMAGES,
    Killed,
    Run,
    assert_whole,
    holders,
    id_of,
    kill,
    manifests,
    middle,
    record,
    run,
    stage_of,
    tree,
    url_of,
    vector_of,
)

TODAY = {"reason": "the owner asked", "date": "2026-11-22"}


def _entry(kind: str, value: str) -> Entry:
    return new_entry(kind, value, **TODAY)


def _remove(before: Run, folder: Path, *entries: Entry) -> Run:
    """Ledger, then the run again from the earlier dataset on."""
    append_entries(before.layout, entries)
    return run(folder, before.dataset, root=Path(before.layout.root).name)


@pytest.mark.parametrize(
    ("entries", "taken"),
    [
        ([_entry("url", url_of(4))], [4]),
        ([_entry("id", id_of(0)), hash_entry(hashlib.sha256(jpeg(11)).hexdigest(), **TODAY)], [0, 11]),
        ([hash_entry(hashlib.md5(jpeg(7), usedforsecurity=False).hexdigest(), **TODAY)], [7]),
        ([_entry("domain", "b.test")], [n for n in range(NUM_IMAGES) if n % 3]),
    ],
)
def test_no_file_knows_a_removed_image_and_the_rest_is_as_it_was(
    tmp_path: Path, entries: Sequence[Entry], taken: Sequence[int]
) -> None:
    before = run(tmp_path)
    old = dict(samples(before.dataset))
    for number in taken:
        assert len(holders(before.layout, middle(jpeg(number)))) == 2  # the download and the dataset
        assert len(holders(before.layout, vector_of(id_of(number)).tobytes())) == 1
    after = _remove(before, tmp_path, *entries)
    purge(after.layout, [after.dataset], load_ledger(after.layout))
    for number in taken:
        assert holders(after.layout, middle(jpeg(number))) == []
        assert holders(after.layout, vector_of(id_of(number)).tobytes()) == []
    gone = {id_of(number) for number in taken}
    assert dict(samples(after.dataset)) == {key: members for key, members in old.items() if key not in gone}
    for number in set(range(NUM_IMAGES)) - set(taken):
        assert len(holders(after.layout, middle(jpeg(number)))) == 2
        assert len(holders(after.layout, vector_of(id_of(number)).tobytes())) == 1
    assert_whole(after.layout)


def test_receipts_and_reports_go_too(tmp_path: Path) -> None:
    before = run(tmp_path)
    after = _remove(before, tmp_path, _entry("url", url_of(4)))
    purge(after.layout, [after.dataset], load_ledger(after.layout))
    assert not list(Path(after.layout.root).glob("runs/*/*.html"))
    assert not Path(before.layout.receipts("download", before.download.fingerprint)).exists()
    assert not Path(before.layout.receipts("pack", before.dataset.fingerprint)).exists()


def test_folders_that_know_images_by_number_alone_go_with_what_they_were_made_of(tmp_path: Path) -> None:
    before = run(tmp_path)
    graphs = Path(before.layout.root) / "stages" / "copy_graph"
    old = set(graphs.iterdir())
    after = _remove(before, tmp_path, _entry("url", url_of(4)))
    assert len(set(graphs.iterdir())) == 2
    purge(after.layout, [after.dataset, _graph_of(after)], load_ledger(after.layout))
    assert len(set(graphs.iterdir())) == 1
    assert not old & set(graphs.iterdir())


def _graph_of(one: Run) -> Manifest:
    return next(m for m in manifests(one.layout) if m.inputs.get("described") == one.described.reference)


def test_a_superseded_folder_without_the_image_stays(tmp_path: Path) -> None:
    before = run(tmp_path)
    first = _remove(before, tmp_path, _entry("url", url_of(4)))
    other = run(tmp_path, seed=5)  # another dataset without the image, that nobody keeps
    purge(first.layout, [first.dataset], load_ledger(first.layout))
    assert Path(other.dataset.path).exists()
    assert not Path(before.dataset.directory).exists()


def test_naming_a_runs_whole_ancestry_keeps_what_naming_its_end_does(tmp_path: Path) -> None:
    before = run(tmp_path)
    after = _remove(before, tmp_path, _entry("url", url_of(4)))
    whole = [m for end in (before.dataset, after.dataset) for m in ancestry([end], after.layout).values()]
    ledger = load_ledger(after.layout)
    assert plan_purge(after.layout, whole, ledger) == plan_purge(after.layout, [after.dataset], ledger)


def test_a_dry_run_says_all_and_touches_nothing(tmp_path: Path) -> None:
    after = _remove(run(tmp_path), tmp_path, _entry("url", url_of(4)))
    before = tree(after.layout)
    plan = plan_purge(after.layout, [after.dataset], load_ledger(after.layout))
    assert tree(after.layout) == before
    assert purge(after.layout, [after.dataset], load_ledger(after.layout)) == plan
    lines = list(plan.lines())
    gone = set(before) - set(tree(after.layout))
    told = [line.split()[-1].removeprefix(f"{after.layout.root}/") for line in lines if line.startswith("delete")]
    renamed = [
        line.split()[-1].removeprefix(f"{after.layout.root}/") for line in lines if line.startswith(("mark", "cut"))
    ]
    assert all(any(name.startswith(path) for path in (*told, *renamed)) for name in gone)
    assert all(any(name.startswith(path) for name in gone) for path in (*told, *renamed))


def test_without_anything_named_there_is_nothing_to_do(tmp_path: Path) -> None:
    one = run(tmp_path)
    append_entries(one.layout, [_entry("url", "http://elsewhere.test/1.jpg")])
    before = tree(one.layout)
    assert list(purge(one.layout, [one.dataset], load_ledger(one.layout)).lines()) == [
        "0 images are named by the ledger"
    ]
    assert tree(one.layout) == before


def test_purging_twice_changes_nothing_more(tmp_path: Path) -> None:
    after = _remove(run(tmp_path), tmp_path, _entry("url", url_of(4)))
    purge(after.layout, [after.dataset], load_ledger(after.layout))
    once = tree(after.layout)
    purge(after.layout, [after.dataset], load_ledger(after.layout))
    assert tree(after.layout) == once


def test_the_same_run_after_a_purge_finds_everything_done(tmp_path: Path) -> None:
    before = run(tmp_path)
    after = _remove(before, tmp_path, _entry("url", url_of(4)))
    purge(after.layout, [after.dataset], load_ledger(after.layout))
    purged = tree(after.layout)
    again = run(tmp_path, before.dataset)
    assert again.dataset.fingerprint == after.dataset.fingerprint
    assert {name: value for name, value in tree(after.layout).items() if "runs/" not in name} == purged


def test_a_stage_that_is_made_anew_passes_the_tombstone_over(tmp_path: Path) -> None:
    after = _remove(run(tmp_path), tmp_path, _entry("url", url_of(4)))
    purge(after.layout, [after.dataset], load_ledger(after.layout))
    download = load_manifest(after.download.directory)
    assert (download.rows_kept, dict(download.drops)) == (NUM_IMAGES - 1, {"removed": 1})
    assert verdicts(download)[id_of(4)] == "removed"
    config = HashDedup(method="phash", min_correlation=0.5)
    anew = hash_dedup.fn(download, config, after.layout)
    assert set(verdicts(anew)) == {id_of(n) for n in range(NUM_IMAGES) if n != 4}


def test_the_image_does_not_come_back_by_its_url_nor_its_host_nor_its_bytes(tmp_path: Path) -> None:
    before = run(tmp_path)
    sha256 = hashlib.sha256(jpeg(8)).hexdigest()
    after = _remove(before, tmp_path, _entry("url", url_of(4)), _entry("domain", "b.test"), hash_entry(sha256, **TODAY))
    purge(after.layout, [after.dataset], load_ledger(after.layout))
    ledger = load_ledger(after.layout)
    crawl = [url_of(4), "http://new.b.test/1.jpg", "http://mirror.test/8.jpg", "http://mirror.test/free.jpg"]

    urls = stage_of(after.layout, "urls", [table_from_rows([record(url, b"?") for url in crawl], DOWNLOADED)])
    allowed = drop_removed.fn(urls, ledger, after.layout, "keep_urls")
    assert list(verdicts(allowed).values()) == ["removed", "removed", None, None]
    bodies = [record(crawl[2], jpeg(8)), record(crawl[3], jpeg(1000))]
    fetched = stage_of(after.layout, "fetched", [table_from_rows(bodies, DOWNLOADED)])
    images = drop_removed.fn(fetched, ledger, after.layout, "keep_images")
    assert list(verdicts(images).values()) == ["removed", None]


def test_a_run_that_did_not_know_the_ledger_is_not_purged(tmp_path: Path) -> None:
    before = run(tmp_path)
    after = _remove(before, tmp_path, _entry("url", url_of(4)))
    before_it = tree(after.layout)
    with pytest.raises(StillHeld, match="Run the flow again"):
        purge(after.layout, [before.dataset], load_ledger(after.layout))
    assert tree(after.layout) == before_it


def test_files_outside_the_root_are_told_and_left_alone(tmp_path: Path) -> None:
    before = run(tmp_path)
    bird = tmp_path / "birds" / "0.jpg"
    sha256 = hashlib.sha256(bird.read_bytes()).hexdigest()
    after = _remove(before, tmp_path, hash_entry(sha256, **TODAY))
    plan = purge(after.layout, [after.dataset], load_ledger(after.layout))
    assert plan.outside == (str(bird),)
    assert hashlib.sha256(bird.read_bytes()).hexdigest() == sha256
    assert holders(after.layout, middle(bird.read_bytes())) == []


def test_a_link_that_leads_out_of_the_root_stops_everything(tmp_path: Path) -> None:
    before = run(tmp_path)
    after = _remove(before, tmp_path, _entry("url", url_of(4)))
    folder, elsewhere = Path(before.dataset.directory), tmp_path / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere, target_is_directory=True)
    before_it = tree(after.layout)
    with pytest.raises(ValueError, match="nothing was touched"):
        purge(after.layout, [after.dataset], load_ledger(after.layout))
    assert tree(after.layout) == before_it
    assert json.loads((elsewhere / "manifest.json").read_text())["stage"] == "pack"


def test_killed_anywhere_and_run_again_it_ends_in_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _remove(run(tmp_path, root="whole"), tmp_path, _entry("url", url_of(4)))
    purge(whole.layout, [whole.dataset], load_ledger(whole.layout))
    kill_at = 0
    one = _remove(run(tmp_path, root="one"), tmp_path, _entry("url", url_of(4)))
    ended = False
    while not ended:
        with monkeypatch.context() as patch:
            kill(patch, kill_at)
            try:
                purge(one.layout, [one.dataset], load_ledger(one.layout))
                ended = True
            except Killed:
                kill_at += 1
    assert kill_at >= 8  # each attempt got further than the one before, or did again what it had done
    assert holders(one.layout, middle(jpeg(4))) == []
    assert tree(one.layout) == tree(whole.layout)


def test_weights_that_were_trained_on_it_are_named_and_left_alone(tmp_path: Path) -> None:
    before = run(tmp_path)
    teacher = Path(before.layout.stage("pretrain", "f" * 64)) / "checkpoints" / "teacher.safetensors"
    teacher.parent.mkdir(parents=True)
    teacher.write_bytes(b"weights of a training that has not finished")
    after = _remove(before, tmp_path, _entry("url", url_of(0)))
    plan = purge(after.layout, [after.dataset], load_ledger(after.layout))
    assert teacher.exists()
    assert any("NOT touched" in line and "pretrain" in line for line in plan.lines())
