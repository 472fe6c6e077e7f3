"""A stage shows the same few pictures of each verdict, whatever the order of its rows, and never reads them all."""

import base64
from pathlib import Path
from typing import Any

import pytest

import tasks.contact_sheet
from storage.images import probe
from storage.layout import Layout
from storage.manifest import Manifest
from tasks.contact_sheet import contact_sheet
from tests.helpers import jpeg
from tests.tasks.vector_stages import image_row, made_stage


def rows_of(layout: Layout, count: int, broken: str | None = None) -> list[dict[str, Any]]:
    """Images of which every third was dropped as a copy, and every fifth as blurry; those dropped as `broken` have no
    bytes."""
    Path(layout.root).mkdir(parents=True, exist_ok=True)
    Path(layout.resolve("images.bin")).write_bytes(b"".join(jpeg(number, 120) for number in range(12)))
    sizes = [len(jpeg(number, 120)) for number in range(12)]
    starts = [sum(sizes[:number]) for number in range(12)]
    rows = []
    for number in range(count):
        drop = "copy" if number % 3 == 0 else "blurry" if number % 5 == 0 else None
        place = {"image_offset": starts[number % 12], "image_bytes": sizes[number % 12], "image_file": "images.bin"}
        place |= {"image_file": "gone.tar"} if broken and drop == broken else {}
        rows.append(image_row(number, drop=drop, detail="why" if drop else None, value=0.25, **place))
    return rows


def shown(manifest: Manifest, layout: Layout) -> dict[str, list[str]]:
    return {kind: [picture.title for picture in found] for kind, found in contact_sheet(manifest, layout).items()}


def test_each_verdict_has_its_pictures_and_the_order_of_the_rows_does_not_matter(layout: Layout) -> None:
    rows = rows_of(layout, 200)
    one = made_stage(layout, "a", [rows[:70], rows[70:]])
    other = made_stage(layout, "b", [rows[::-1]])
    assert {kind: len(titles) for kind, titles in shown(one, layout).items()} == {"blurry": 8, "copy": 8, "kept": 8}
    assert shown(one, layout) == shown(other, layout)


def test_pictures_are_small_and_say_why(layout: Layout) -> None:
    sheet = contact_sheet(made_stage(layout, "a", [rows_of(layout, 9)]), layout)
    for kind, pictures in sheet.items():
        for picture in pictures:
            info = probe(base64.b64decode(picture.data_uri.removeprefix("data:image/jpeg;base64,")))
            assert max(info.width, info.height) == 88
            assert picture.caption == ("0.25" if kind == "kept" else "why 0.25")


def test_images_that_cannot_be_read_are_left_out_after_a_few_tries(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = made_stage(layout, "a", [rows_of(layout, 3000, broken="copy")])
    asked: list[str] = []
    picture_of = tasks.contact_sheet.picture_of
    monkeypatch.setattr(
        tasks.contact_sheet, "picture_of", lambda row, where: asked.append(row["id"]) or picture_of(row, where)
    )
    assert shown(manifest, layout).keys() == {"blurry", "kept"}
    assert len(asked) == 8 + 8 + 32


def test_stages_without_images_have_no_pictures(layout: Layout) -> None:
    assert contact_sheet(made_stage(layout, "a", [[]]), layout) == {}
    rows = [image_row(number, image_file=None) for number in range(4)]
    assert contact_sheet(made_stage(layout, "b", [rows]), layout) == {}
