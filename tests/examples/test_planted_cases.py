"""Every case that the spine asks for is planted, at the smallest size too, and what is served is what it says."""

import io
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from examples.sample_web import SampleWeb
from examples.sample_web.build import plan_web
from examples.sample_web.routes import read_routes
from examples.sample_web.truth import read_truth
from tasks.web.urls import canonical_url

# The list, in its order, and which outcome each case must allow.
CASES = {
    "same_bytes": "hash_dedup:hash_duplicate",
    "recompressed": "self_dedup:copy",
    "resized": "self_dedup:copy",
    "cropped": "self_dedup:copy",
    "colour_shifted": "self_dedup:copy",
    "bordered": "self_dedup:copy",
    "overlaid_text": "self_dedup:copy",
    "mirrored": "self_dedup:copy",
    "blended": "self_dedup:copy",
    "chain": "self_dedup:copy",
    "benchmark_train": "relative_dedup:benchmark_copy",
    "benchmark_test": "relative_dedup:benchmark_copy",
    "benchmark_chain": "relative_dedup:benchmark_copy",
    "face": "kept",
    "too_small": "screen:too_small",
    "extreme_aspect": "screen:extreme_aspect",
    "near_blank": "screen:near_blank",
    "truncated_jpeg": "download:undecodable",
    "html_as_jpeg": "download:not_an_image",
    "empty_body": "download:empty_body",
    "wrong_length": "download:truncated",
    "huge_png": "download:too_many_pixels",
    "animated_gif": "kept",
    "cmyk_jpeg": "kept",
    "png16": "kept",
    "palette_png": "kept",
    "exif_rotated": "kept",
    "webp": "kept",
    "avif": "kept",
    "svg": "download:unsupported_format",
    "http_404": "download:http_404",
    "http_410": "download:http_410",
    "500_then_200": "kept",
    "429_then_200": "kept",
    "http_500": "download:http_500",
    "redirect_to_private": "download:private_address",
    "redirect_loop": "download:redirect_loop",
    "drip": "download:timeout",
    "endless": "download:too_large",
    "data_url": "url_policy:scheme",
    "file_url": "url_policy:scheme",
    "javascript_url": "url_policy:scheme",
    "relative_with_base": "kept",
    "srcset_largest": "kept",
    "picture": "kept",
    "lazy": "kept",
    "noscript": "kept",
    "non_ascii_host": "kept",
    "non_ascii_path": "kept",
    "blocked_domain": "url_policy:blocked_domain",
    "private_host": "url_policy:private_host",
    "noai": "download:noai",
    "tdm_header": "download:tdm_reserved",
    "tdm_well_known": "download:tdm_reserved",
    "robots_disallow": "download:robots_txt",
    "duplicate_url": "kept",
    "plain": "kept",
}
FORMATS = {
    "animated_gif": ("GIF", "P"),
    "cmyk_jpeg": ("JPEG", "CMYK"),
    "gray_jpeg": ("JPEG", "L"),
    "palette_png": ("PNG", "P"),
    "webp": ("WEBP", "RGB"),
    "avif": ("AVIF", "RGB"),
}


@pytest.fixture(scope="module")
def truth(web: SampleWeb) -> pa.Table:
    return read_truth(web.truth)


def bodies_of(web: SampleWeb, truth: pa.Table, case: str) -> list[bytes]:
    routes, blob = read_routes(web.directory / "served")
    urls = [row["url"] for row in truth.to_pylist() if row["case"] == case]
    found = [routes[url.removeprefix("http://")] for url in urls]
    return [bytes(blob[route.offset : route.offset + route.num_bytes]) for route in found]


@pytest.mark.parametrize("case", CASES)
def test_the_case_is_planted_with_the_outcome_it_must_have(case: str, truth: pa.Table) -> None:
    rows = [row for row in truth.to_pylist() if row["case"] == case]
    assert rows
    assert all(CASES[case] in row["allowed"] for row in rows)


@pytest.mark.parametrize("case", FORMATS)
def test_each_format_is_served_in_its_format_and_mode(case: str, web: SampleWeb, truth: pa.Table) -> None:
    for data in bodies_of(web, truth, case):
        image = Image.open(io.BytesIO(data))
        assert (image.format, image.mode) == FORMATS[case]


def test_sixteen_bit_pngs_have_sixteen_bits_and_decode(web: SampleWeb, truth: pa.Table) -> None:
    for data in bodies_of(web, truth, "png16"):
        assert data[24] == 16  # IHDR's bit depth
        assert np.asarray(Image.open(io.BytesIO(data))).std() > 1


def test_exif_rotated_files_are_stored_turned_and_say_so(web: SampleWeb, truth: pa.Table) -> None:
    for data in bodies_of(web, truth, "exif_rotated"):
        assert Image.open(io.BytesIO(data)).getexif()[0x0112] in (3, 6, 8)


def test_truncated_files_cannot_be_decoded_whole(web: SampleWeb, truth: pa.Table) -> None:
    for data in bodies_of(web, truth, "truncated_jpeg"):
        with pytest.raises(OSError, match="truncated"):
            Image.open(io.BytesIO(data)).load()


def test_the_huge_png_is_small_and_claims_sixty_thousand_pixels_each_way(web: SampleWeb, truth: pa.Table) -> None:
    for data in bodies_of(web, truth, "huge_png"):
        assert len(data) < 2000
        assert int.from_bytes(data[16:20]) == int.from_bytes(data[20:24]) == 60_000


def test_same_bytes_are_the_same_bytes_and_other_images_are_not(web: SampleWeb, truth: pa.Table) -> None:
    routes, _ = read_routes(web.directory / "served")
    groups: dict[str, set[int]] = {}
    for row in truth.to_pylist():
        if row["case"] == "same_bytes":
            groups.setdefault(row["group"], set()).add(routes[row["url"].removeprefix("http://")].offset)
    for row in truth.to_pylist():
        if row["case"] == "original" and row["group"] in groups:
            assert groups.pop(row["group"]) == {routes[row["url"].removeprefix("http://")].offset}
    assert groups == {}
    plain = [data for case in ("plain", "face", "webp") for data in bodies_of(web, truth, case)]
    assert len(set(plain)) == len(plain)


def test_http_urls_of_the_truth_are_canonical_and_no_port_is_named(truth: pa.Table) -> None:
    urls = [row["url"] for row in truth.to_pylist() if row["case"] not in ("malformed_url", "too_long_url", "odd_port")]
    web_urls = [url for url in urls if url.startswith("http")]
    assert web_urls == [canonical_url(url) for url in web_urls]
    assert not any("sample.test:" in url for url in web_urls)


def test_groups_have_two_members_or_touch_a_benchmark(truth: pa.Table) -> None:
    sizes = Counter(row["group"] for row in truth.to_pylist() if row["group"] and not row["tainted"])
    assert sizes
    assert all(size >= 2 for size in sizes.values())


def test_faces_lie_inside_their_pictures_and_come_in_many_sizes(truth: pa.Table) -> None:
    heights = set()
    for row in truth.to_pylist():
        boxes = json.loads(row["faces"])
        assert len(boxes) == row["num_faces"]
        for left, top, right, bottom in boxes:
            assert 0 <= left < right <= row["width"]
            assert 0 <= top < bottom <= row["height"]
            heights.add(bottom - top)
    assert min(heights) <= 26
    assert max(heights) >= 150


def test_in_a_full_web_one_image_in_seven_is_a_copy_and_most_are_plain() -> None:
    planner, _ = plan_web(0, 2000)
    cases = Counter(resource.case for resource in planner.resources)
    copies = [r for r in planner.resources if r.group and r.case != "original"]
    assert len(planner.resources) == 2000
    assert 0.12 < len(copies) / 2000 < 0.2
    assert cases["plain"] > 1000


def test_a_web_too_small_for_its_cases_is_refused() -> None:
    with pytest.raises(ValueError, match="ask for at least"):
        plan_web(0, 100)
