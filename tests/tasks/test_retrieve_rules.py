"""How sources are counted: the size chooses the mode, only clusters are capped, totals are sums."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.retrieval.rules import Retrieve, SourceRule, UnknownSource, modes_of, nominal_composition


def test_the_size_chooses_sample_above_a_million_images_and_a_rule_overrules_it() -> None:
    counts = {"large": 1_000_001, "limit": 1_000_000, "small": 5, "said": 5}
    rows = modes_of(counts, Retrieve(rules=(SourceRule(source="said", modes=("as_is", "sample"), neighbours=32),)))
    assert [(row.source, row.mode) for row in rows] == [
        ("large", "sample"),
        ("limit", "cluster"),
        ("said", "as_is"),
        ("said", "sample"),
        ("small", "cluster"),
    ]
    assert {row.source: row.neighbours for row in rows} == {"large": 4, "limit": 4, "said": 32, "small": 4}


def test_a_rule_without_a_source_and_two_rules_of_one_are_refused() -> None:
    rule = SourceRule(source="dogs", modes=("cluster",))
    with pytest.raises(UnknownSource, match=r"names dogs, but the curated sources are birds, cars. Correct one"):
        modes_of({"cars": 1, "birds": 2}, Retrieve(rules=(rule,)))
    with pytest.raises(UnknownSource, match="a source twice"):
        modes_of({"dogs": 1}, Retrieve(rules=(rule, rule)))


counted = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 3_000_000), min_size=1)


@given(counted, st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 300)), st.integers(1, 2_000_000))
def test_the_total_is_the_sum_and_a_smaller_cap_never_brings_more(
    counts: dict[str, int], clusters: dict[str, int], cap: int
) -> None:
    *rows, total = nominal_composition(counts, clusters, Retrieve(cap=cap))
    for name in ("retrieved", "nominal_final", "actual", "unique", "collisions", "shared", "final"):
        assert total[name] == sum(row[name] for row in rows)
    assert total["images"] == sum(counts.values())
    for row in rows:
        expected = 4 * row["images"] if row["mode"] == "sample" else 10_000 * clusters.get(row["source"], 0)
        assert row["retrieved"] == expected
        assert row["nominal_final"] == (expected if row["mode"] == "sample" else min(expected, cap))
    smaller = nominal_composition(counts, clusters, Retrieve(cap=max(1, cap // 2)))[-1]
    assert smaller["final"] <= total["final"]
    assert smaller["retrieved"] == total["retrieved"]
