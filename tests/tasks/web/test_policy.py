"""The policy says what a person with the rules in hand would say, URL by URL, whatever the size of the lists."""

import gzip
import tarfile
from ipaddress import ip_network
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.web.domains import DomainSet, build_domain_set, list_paths, lists_key, load_domain_set
from tasks.web.errors import BadDomainList
from tasks.web.policy import Rules, check_pattern, judge_urls

EMPTY = build_domain_set(())


def rules(**changes: object) -> Rules:
    defaults: dict[str, object] = {
        "schemes": frozenset({"http", "https"}), "ports": frozenset({80, 443}), "max_chars": 100,
        "allow_networks": (), "blocked": EMPTY, "allowed": EMPTY, "opted_out": EMPTY,
    }  # fmt: skip
    return Rules(**(defaults | changes))  # type: ignore[arg-type]


def reason(url: str | None, **changes: object) -> str | None:
    return judge_urls(pa.array([url], pa.string()), rules(**changes))[0][0].as_py()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example/x.jpg", None),
        ("http://a.example/", None),
        ("http://a.example:443/", None),
        ("data:image/png;base64,AA", "scheme"),
        ("javascript:alert(1)", "scheme"),
        ("file:///etc/passwd", "scheme"),
        ("ftp://a.example/x.jpg", "scheme"),
        ("blob:https://a.example/1", "scheme"),
        (None, "malformed"),
        ("not a url", "malformed"),
        ("http:///x", "malformed"),
        ("http://user@a.example/", "malformed"),
        ("https://a.example/" + "x" * 100, "too_long"),
        ("https://a.example:8080/", "port"),
        ("https://a.example:22/", "port"),
        ("http://127.0.0.1/", "private_host"),
        ("http://2130706433/", "private_host"),
        ("http://[::1]/", "private_host"),
        ("http://[::ffff:7f00:1]:443/", "private_host"),
        ("http://db.internal/", "private_host"),
        ("http://localhost:80/", "private_host"),
    ],
)
def test_the_first_broken_rule_is_the_reason(url: str | None, expected: str | None) -> None:
    assert reason(url) == expected


def test_networks_that_the_config_names_are_excepted() -> None:
    assert reason("http://10.0.0.1/", allow_networks=(ip_network("10.0.0.0/8"),)) is None
    assert reason("http://127.0.0.1/", allow_networks=(ip_network("10.0.0.0/8"),)) == "private_host"


def test_a_domain_covers_its_subdomains_and_nothing_that_merely_ends_alike() -> None:
    blocked = build_domain_set(["ads.example"])
    assert reason("http://ads.example/x", blocked=blocked) == "blocked_domain"
    assert reason("http://a.b.ads.example/x", blocked=blocked) == "blocked_domain"
    assert reason("http://myads.example/x", blocked=blocked) is None
    assert reason("http://ads.example.org/x", blocked=blocked) is None
    assert reason("http://example/x", blocked=blocked) == "private_host"


def test_allowing_some_domains_forbids_all_others_but_blocking_wins() -> None:
    lists = {"allowed": build_domain_set(["a.example"]), "blocked": build_domain_set(["bad.a.example"])}
    assert reason("http://x.a.example/", **lists) is None
    assert reason("http://b.example/", **lists) == "not_allowed_domain"
    assert reason("http://bad.a.example/", **lists) == "blocked_domain"


def test_details_name_the_rule_that_matched() -> None:
    urls = pa.array(["http://x.ads.example/", "http://out.example/", "ftp://a.example/", "http://a.example:8080/"])
    lists = {"blocked": build_domain_set(["ads.example"]), "opted_out": build_domain_set(["out.example"])}
    reasons, details = judge_urls(urls, rules(**lists))
    assert reasons.to_pylist() == ["blocked_domain", "opted_out", "scheme", "port"]
    assert details.to_pylist() == ["ads.example", "out.example", "ftp", ":8080"]


def test_url_prefixes_block_their_path_on_its_boundary() -> None:
    blocked = build_domain_set((), [("host.example", "/adult")])
    assert reason("http://host.example/adult/x.jpg", blocked=blocked) == "blocked_domain"
    assert reason("http://www.host.example/adult?x", blocked=blocked) == "blocked_domain"
    assert reason("http://host.example/adultery.jpg", blocked=blocked) is None
    assert reason("http://other.example/adult/", blocked=blocked) is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a.example/x.svg", "extension"),
        ("http://a.example/dir.svg/x", None),
        ("http://a.example/x.SVG?size=2.jpg", "extension"),
        ("http://a.example/x?file=y.svg", None),
        ("http://a.example/.svg", "extension"),
        ("http://a.example/svg", None),
        ("http://a.svg/", None),
        ("http://a.example/ads/x.jpg", "blocked_pattern"),
        ("http://ads.example/x.jpg", None),
        ("ftp://a.example/ads/x.svg", "scheme"),
    ],
)
def test_patterns_and_extensions_come_after_the_rules_of_hosts(url: str, expected: str | None) -> None:
    changes = {"patterns": ("[.]php$", "/ads?/"), "extensions": frozenset({"svg", "ico"})}
    reasons, details = judge_urls(pa.array([url]), rules(**changes))
    assert reasons[0].as_py() == expected
    assert details[0].as_py() == {"extension": "svg", "blocked_pattern": "/ads?/", "scheme": "ftp"}.get(expected or "")


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no regular expression \(RE2\)"):
        check_pattern("a(b")


def test_a_public_suffix_stands_for_itself_alone_unless_all_below_it_is_meant() -> None:
    """One line `co.uk` in a list does not shut out a country."""
    written = load_domain_set(["co.uk", "github.io", "*.edu", ".gov", "shop.co.uk"], [])
    hosts = [
        "co.uk",
        "bbc.co.uk",
        "x.shop.co.uk",
        "github.io",
        "someone.github.io",
        "mit.edu",
        "nasa.gov",
        "edu.example",
    ]
    assert written.match(hosts) == ["co.uk", None, "shop.co.uk", "github.io", None, "edu", "gov", None]


def test_no_urls_give_no_verdicts() -> None:
    reasons, details = judge_urls(pa.array([], pa.string()), rules())
    assert (len(reasons), len(details)) == (0, 0)


labels = st.sampled_from(["a", "b", "ads", "example", "com"])
names = st.lists(labels, min_size=1, max_size=4).map(".".join)


@given(st.sets(names, max_size=6), st.lists(names, max_size=8))
def test_matching_equals_the_walk_over_suffixes(domains: set[str], hosts: list[str]) -> None:
    def walk(host: str) -> str | None:
        parts = host.split(".")
        return next((s for i in range(len(parts)) if (s := ".".join(parts[i:])) in domains), None)

    assert build_domain_set(domains).match(hosts) == [walk(host) for host in hosts]


def write_lists(folder: Path) -> None:
    (folder / "plain.txt").write_text(
        "# a list\nads.example  # inline\n*.Bücher.example\n\n.dot.example\n-a-.b_-.example\n"
    )
    (folder / "hosts").write_text(
        "127.0.0.1 localhost\n::1 ip6-localhost\n0.0.0.0 a.example b.example\n0.0.0.0 0.0.0.0\n  0\tc.example # x\r\n"
    )
    for category in ("adult", "gambling"):
        (folder / "ut1" / category).mkdir(parents=True)
        (folder / "ut1" / category / "domains").write_text(f"{category}.example\n")
    (folder / "ut1" / "adult" / "urls").write_text("host.example/adult/\nother.example:8080/adult\n")


def matched(domains: DomainSet, *hosts: str) -> list[bool]:
    return [match is not None for match in domains.match(hosts)]


def test_lists_are_read_in_the_formats_people_publish(tmp_path: Path) -> None:
    write_lists(tmp_path)
    plain = load_domain_set(["inline.example"], [str(tmp_path / "plain.txt")])
    assert matched(plain, "ads.example", "x.xn--bcher-kva.example", "dot.example", "inline.example", "b.example") == [
        True, True, True, True, False,
    ]  # fmt: skip
    hosts = load_domain_set([], [str(tmp_path / "hosts")])
    assert matched(hosts, "a.example", "b.example", "c.example", "localhost") == [True, True, True, False]
    assert matched(plain, "-a-.b_-.example", "x.-a-.b_-.example", "a.b.example") == [True, True, False]
    ut1 = load_domain_set([], [str(tmp_path / "ut1")])
    assert matched(ut1, "adult.example", "gambling.example") == [True, True]
    assert ut1.match_prefix("host.example", "/adult/x.jpg") == "host.example/adult/"
    assert ut1.match_prefix("other.example", "/adult") == "other.example/adult"
    assert len(list_paths([str(tmp_path / "ut1" / "adult")])) == 2


def test_packed_lists_are_read_as_they_are_published(tmp_path: Path) -> None:
    """UT1 is published as one .tar.gz a category."""
    write_lists(tmp_path)
    with tarfile.open(tmp_path / "adult.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "ut1" / "adult", "adult")
    (tmp_path / "hosts.gz").write_bytes(gzip.compress((tmp_path / "hosts").read_bytes()))
    packed = load_domain_set([], [str(tmp_path / "adult.tar.gz"), str(tmp_path / "hosts.gz")])
    assert matched(packed, "adult.example", "gambling.example", "a.example") == [True, False, True]
    assert packed.match_prefix("host.example", "/adult/x.jpg") == "host.example/adult/"
    (tmp_path / "bad.tar.gz").write_bytes(b"<html>404</html>")
    with pytest.raises(BadDomainList, match=r"bad\.tar\.gz cannot be unpacked"):
        load_domain_set([], [str(tmp_path / "bad.tar.gz")])


def test_a_line_of_a_packed_list_that_is_no_domain_says_where(tmp_path: Path) -> None:
    (tmp_path / "list.gz").write_bytes(gzip.compress(b"good.example\n<html>\n"))
    with pytest.raises(BadDomainList, match=r"list\.gz, line 2"):
        load_domain_set([], [str(tmp_path / "list.gz")])


@pytest.mark.parametrize(
    "content", ["<html>404 not found</html>", "ads.example other.example", "a..b", "a.example:x", "--"]
)
def test_a_list_that_is_none_says_where(tmp_path: Path, content: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"good.example\n{content}\n")
    with pytest.raises(BadDomainList, match=r"list.txt, line 2"):
        load_domain_set([], [str(path)])


def test_a_missing_list_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BadDomainList, match="no domain list at"):
        load_domain_set([], [str(tmp_path / "missing.txt")])


def test_a_changed_list_changes_the_key(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("a.example\n")
    before = lists_key([str(path)])
    assert lists_key([str(path)]) == before
    path.write_text("b.example\n")
    assert lists_key([str(path)]) != before
