"""Compares a run's outcomes with the sample web's truth: every planted case must end where it must.

Pure: two tables in, a report out. `truth` is `truth.parquet`; `outcomes` has the columns url, stage and reason: one row
for every row that a stage dropped, and one with stage "kept" (and reason "") for every image that survives the
relative deduplication. URLs are as the run's tables name them; where that is null, the URL as the page had it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

KEPT = "kept"
ABSENT = "absent"
DUPLICATE = "url_policy:duplicate_url"


@dataclass(frozen=True)
class Wrong:
    """A URL that did not end where it must."""

    url: str
    case: str
    allowed: tuple[str, ...]
    found: tuple[str, ...]
    """Its outcomes; empty when the run says nothing of it."""


@dataclass(frozen=True)
class BrokenGroup:
    """A group of copies of which more or fewer survive than must: one, or none where a benchmark is touched."""

    group: str
    must_keep: int
    kept: tuple[str, ...]
    members: tuple[str, ...]


@dataclass(frozen=True)
class CaseCount:
    """How a case fared: URLs planted, URLs right, and what they ended as."""

    case: str
    planted: int
    right: int
    outcomes: Mapping[str, int]


@dataclass(frozen=True)
class Report:
    """What `compare` found. `unknown` are outcomes of URLs that the truth does not have."""

    cases: tuple[CaseCount, ...]
    wrong: tuple[Wrong, ...]
    broken_groups: tuple[BrokenGroup, ...]
    unknown: tuple[tuple[str, str], ...]

    @property
    def passed(self) -> bool:
        """True when every row and every group is right and nothing is unknown."""
        return not (self.wrong or self.broken_groups or self.unknown)


def compare(truth: pa.Table, outcomes: pa.Table) -> Report:
    """Judge every URL of the truth, and every group of copies.

    A URL is right when it has at least one outcome beside `url_policy:duplicate_url`, and all of these are allowed;
    duplicates are right where pages name the URL (or its like) more than once. A URL that may be absent is right
    without any. Raises KeyError when a column is missing.
    """
    rows = truth.to_pylist()
    found = _outcomes_by_url(outcomes)
    known = {row["url"] for row in rows}
    wrong = tuple(
        Wrong(row["url"], row["case"], tuple(row["allowed"]), tuple(found.get(row["url"], ())))
        for row in rows
        if not _right(row["allowed"], row["references"], found.get(row["url"], ()))
    )
    unknown = tuple((url, outcome) for url in sorted(found.keys() - known) for outcome in found[url])
    wrong_urls = {item.url for item in wrong}
    return Report(_count_cases(rows, found, wrong_urls), wrong, _broken_groups(rows, found), unknown)


def _outcomes_by_url(outcomes: pa.Table) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    columns = [outcomes[name].to_pylist() for name in ("url", "stage", "reason")]
    for url, stage, reason in zip(*columns, strict=True):
        found.setdefault(url, []).append(KEPT if stage == KEPT else f"{stage}:{reason}")
    return found


def _right(allowed: Sequence[str], references: int, found: Sequence[str]) -> bool:
    ends = [outcome for outcome in found if outcome != DUPLICATE]
    duplicates = len(found) - len(ends)
    if not ends:
        return ABSENT in allowed and duplicates == 0
    return set(ends) <= set(allowed) and len(set(ends)) == 1 and duplicates < max(references, 1)


def _broken_groups(rows: Sequence[Mapping[str, object]], found: Mapping[str, Sequence[str]]) -> tuple[BrokenGroup, ...]:
    members: dict[str, list[str]] = {}
    tainted: set[str] = set()
    for row in rows:
        if row["group"]:
            members.setdefault(str(row["group"]), []).append(str(row["url"]))
            if row["tainted"]:
                tainted.add(str(row["group"]))
    broken = []
    for group, urls in members.items():
        kept = tuple(url for url in urls if KEPT in found.get(url, ()))
        must_keep = 0 if group in tainted else 1
        if len(kept) != must_keep:
            broken.append(BrokenGroup(group, must_keep, kept, tuple(urls)))
    return tuple(broken)


def _count_cases(
    rows: Sequence[Mapping[str, object]], found: Mapping[str, Sequence[str]], wrong_urls: set[str]
) -> tuple[CaseCount, ...]:
    planted: dict[str, list[str]] = {}
    for row in rows:
        planted.setdefault(str(row["case"]), []).append(str(row["url"]))
    counts = []
    for case, urls in sorted(planted.items()):
        ends: dict[str, int] = {}
        for url in urls:
            for outcome in dict.fromkeys(found.get(url, (ABSENT,))):
                if outcome != DUPLICATE:
                    ends[outcome] = ends.get(outcome, 0) + 1
        counts.append(CaseCount(case, len(urls), sum(url not in wrong_urls for url in urls), ends))
    return tuple(counts)


def render(report: Report, *, most: int = 40) -> str:
    """The report as text: a line per case, then at most `most` of each kind of error, in full."""
    width = max((len(count.case) for count in report.cases), default=4)
    lines = [f"{'case':<{width}}  planted  right  ended as"]
    for count in report.cases:
        ends = ", ".join(f"{outcome} {number}" for outcome, number in sorted(count.outcomes.items()))
        flag = "" if count.right == count.planted else "  <- WRONG"
        lines.append(f"{count.case:<{width}}  {count.planted:>7}  {count.right:>5}  {ends}{flag}")
    wrong = [
        f"  {item.case}: {_short(item.url)} ended as {', '.join(item.found) or 'nothing'}; "
        f"allowed: {', '.join(item.allowed)}"
        for item in report.wrong
    ]
    groups = [
        f"  {item.group}: {len(item.kept)} kept, must be {item.must_keep}: {', '.join(item.kept or item.members)}"
        for item in report.broken_groups
    ]
    unknown = [f"  {_short(url)} ended as {outcome}" for url, outcome in report.unknown]
    for title, errors in (
        ("wrong outcomes", wrong),
        ("broken groups", groups),
        ("URLs that were not planted", unknown),
    ):
        if errors:
            lines += ["", f"{len(errors)} {title}:", *errors[:most]]
            if len(errors) > most:
                lines.append(f"  ... and {len(errors) - most} more")
    planted = sum(count.planted for count in report.cases)
    verdict = (
        "every planted case ended where it must" if report.passed else "NOT every planted case ended where it must"
    )
    lines += ["", f"{verdict}: {planted - len(report.wrong)} of {planted} URLs right"]
    return "\n".join(lines)


def _short(url: str) -> str:
    return url if len(url) <= 100 else f"{url[:97]}..."
