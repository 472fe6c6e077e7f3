"""The comparison with the truth, on made-up runs, right and wrong in one place each."""

import pyarrow as pa
import pytest

from examples.sample_web.check import Report, compare, render

ALLOWED_COPY = ["kept", "hash_dedup:hash_duplicate", "self_dedup:copy"]


def planted(url: str, case: str, allowed: list[str], *, group: str = "", references: int = 1) -> dict[str, object]:
    tainted = case.startswith("benchmark")
    return {
        "url": url, "case": case, "group": group, "tainted": tainted, "allowed": allowed, "references": references,
    }  # fmt: skip


TRUTH = pa.Table.from_pylist(
    [
        planted("u/plain", "plain", ["kept"]),
        planted("u/twice", "duplicate_url", ["kept"], references=3),
        planted("u/gone", "http_404", ["download:http_404"]),
        planted("u/a", "original", ALLOWED_COPY, group="g"),
        planted("u/b", "cropped", [*ALLOWED_COPY, "absent"], group="g"),
        planted("u/t", "benchmark_test", ["relative_dedup:benchmark_copy", "self_dedup:copy"], group="t"),
    ]
)
RIGHT = {
    "u/plain": ["kept:"],
    "u/twice": ["kept:", "url_policy:duplicate_url", "url_policy:duplicate_url"],
    "u/gone": ["download:http_404"],
    "u/a": ["kept:"],
    "u/b": ["self_dedup:copy"],
    "u/t": ["relative_dedup:benchmark_copy"],
}


def judge(changes: dict[str, list[str]]) -> Report:
    outcomes = [
        {"url": url, "stage": outcome.split(":")[0], "reason": outcome.split(":")[1]}
        for url, found in {**RIGHT, **changes}.items()
        for outcome in found
    ]
    schema = pa.schema([("url", pa.string()), ("stage", pa.string()), ("reason", pa.string())])
    return compare(TRUTH, pa.Table.from_pylist(outcomes, schema=schema))


def test_a_right_run_passes_and_is_counted_by_case() -> None:
    report = judge({})
    assert report.passed
    assert {count.case: count.right for count in report.cases} == {
        "plain": 1, "duplicate_url": 1, "http_404": 1, "original": 1, "cropped": 1, "benchmark_test": 1,
    }  # fmt: skip
    assert "6 of 6 URLs right" in render(report)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("u/plain", ["self_dedup:copy"]),
        ("u/plain", []),
        ("u/plain", ["kept:", "url_policy:duplicate_url"]),  # named once, so it cannot have a duplicate
        ("u/plain", ["kept:", "screen:too_small"]),
        ("u/twice", ["url_policy:duplicate_url", "url_policy:duplicate_url"]),
        ("u/gone", ["kept:"]),
        ("u/gone", ["download:http_410"]),
        ("u/t", ["kept:"]),
    ],
)
def test_an_outcome_that_is_not_allowed_is_listed(url: str, found: list[str]) -> None:
    report = judge({url: found})
    assert not report.passed
    assert [wrong.url for wrong in report.wrong] == [url]
    assert url in render(report)
    assert "WRONG" in render(report)


def test_two_survivors_of_a_group_break_it_though_each_is_allowed() -> None:
    report = judge({"u/b": ["kept:"]})
    assert report.wrong == ()
    assert [(group.group, group.must_keep, group.kept) for group in report.broken_groups] == [("g", 1, ("u/a", "u/b"))]
    assert "2 kept, must be 1" in render(report)


def test_no_survivor_of_an_untainted_group_breaks_it() -> None:
    report = judge({"u/a": ["self_dedup:copy"]})
    assert [(group.group, group.kept) for group in report.broken_groups] == [("g", ())]


def test_a_survivor_of_a_benchmarks_group_breaks_it() -> None:
    assert [group.group for group in judge({"u/t": ["kept:"]}).broken_groups] == ["t"]


def test_only_what_may_be_absent_may_be_absent() -> None:
    assert judge({"u/b": []}).passed
    assert not judge({"u/a": []}).passed


def test_an_outcome_of_a_url_that_was_not_planted_fails_the_run() -> None:
    report = judge({"u/else": ["kept:"]})
    assert report.unknown == (("u/else", "kept"),)
    assert not report.passed
    assert "u/else" in render(report)


def test_long_lists_of_errors_are_cut_and_say_so() -> None:
    report = judge({f"u/unknown/{number}": ["kept:"] for number in range(9)})
    assert "... and 4 more" in render(report, most=5)
