"""A WAT record read without the links that name no image says the same as one read whole."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.web import wat_record
from tasks.web.wat_record import IMAGE_PATHS, html_metadata, parse_record

texts = st.text(alphabet='a{}[],:"\\ é\ud83d\ude00', max_size=8) | st.sampled_from(
    ["IMG@/src", '"path":"IMG@/src"', '],"x":[', "],", "]}", '"Links": [', "{", '{"path":', "}]}}"]
)
links = st.fixed_dictionaries(
    {"path": st.sampled_from(["IMG@/src", "SOURCE@/srcset", "A@/href", "IMG@/data-src", "x"])},
    optional={"url": texts, "alt": texts, "text": texts, "n": st.integers(), "o": st.just({"path": "IMG@/src"})},
)
records = st.fixed_dictionaries(
    {
        "Head": st.fixed_dictionaries({"Metas": st.lists(st.dictionaries(texts, texts, max_size=3), max_size=2)}),
        "Links": st.lists(links, max_size=4),
    },
    optional={"Tail": st.lists(links, max_size=2), "Title": texts},
)


def whole(body: bytes) -> Any:
    """The slow truth, and of its links those that name images."""
    return images_only(orjson.loads(body))


def images_only(record: Any) -> Any:
    html = html_metadata(record)
    if html is not None and isinstance(html.get("Links"), list):
        html["Links"] = [link for link in html["Links"] if str(link.get("path")).startswith(IMAGE_PATHS)]
    return record


def body_of(html: dict[str, Any], *, compact: bool = False) -> bytes:
    envelope = {"Payload-Metadata": {"HTTP-Response-Metadata": {"HTML-Metadata": html}}, "Format": "WARC"}
    text = json.dumps({"Envelope": envelope}, separators=(",", ":") if compact else None, ensure_ascii=compact)
    return text.encode("utf-8", "replace")


@settings(max_examples=100)
@given(records, st.booleans(), st.randoms(use_true_random=False))
def test_it_equals_the_whole_record_read(html: dict[str, Any], compact: bool, random: Any) -> None:
    html = dict(random.sample(list(html.items()), len(html)))
    html["Links"] = [dict(random.sample(list(link.items()), len(link))) for link in html["Links"]]
    body = body_of(html, compact=compact)
    try:
        wanted = whole(body)
    except ValueError:  # lone surrogates
        with pytest.raises(ValueError):
            parse_record(body)
        return
    assert images_only(parse_record(body)) == wanted


def test_links_that_name_no_image_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []

    class Noted:
        @staticmethod
        def loads(data: bytes) -> Any:
            parsed.append(len(data))
            return orjson.loads(data)

    monkeypatch.setattr(wat_record, "orjson", Noted)
    link, image = {"path": "A@/href", "url": "x" * 50}, {"path": "IMG@/src", "url": "a.jpg", "alt": "a [1] {b}"}
    record = parse_record(body_of({"Links": [link] * 200 + [image] + [link] * 200}))
    assert html_metadata(record) == {"Links": [image]}
    assert sum(parsed) < 400


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"Links": [}', b'{"Links": []}', b'{"Links": [{"path":"IMG@/src"}]}', b"[]"]
)
def test_what_is_no_record_is_as_to_the_json_parser(body: bytes) -> None:
    try:
        wanted = orjson.loads(body)
    except ValueError:
        with pytest.raises(ValueError):
            parse_record(body)
    else:
        assert parse_record(body) == wanted
