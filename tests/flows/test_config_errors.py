"""A mistake in a config file is one sentence that names the key as it stands there."""

from pathlib import Path

import pytest

from flows.command_line import main

GOOD = "root: x\nextract: {crawl: [a.warc]}\nsources: [{name: s, path: p}]\n"
SHA = "a" * 64


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD + "extrac: {}", ["unknown key 'extrac' (did you mean 'extract'?); valid keys: root, workers, base"]),
        ("root: x\nsources: [{name: s, path: p}]", ["extract is missing: Crawl files → image URLs."]),
        (GOOD + "download: {max_byte: 1}", ["unknown key 'download.max_byte' (did you mean 'max_bytes'?)"]),
        (GOOD + "benchmarks: [{name: s, path: p}, {name: a b, path: p}]", ["benchmarks.1.name: String should match"]),
        (GOOD + f"describe: {{encoder: {{kind: sscdd, weights: w, sha256: {SHA}}}}}",
         ["describe.encoder.kind: there is no 'sscdd' (did you mean 'sscd'?); there are: pixels, textures, sscd,"]),
        (GOOD + "describe: {encoder: {kind: sscd, weights: w, sha256: aa}}",
         ["describe.encoder.sha256: String should match pattern"]),
        (GOOD + "describe: {encoder: {kind: sscd, weigths: w}}",
         ["describe.encoder.weights is missing: ", "describe.encoder.sha256 is missing: ",
          "unknown key 'describe.encoder.weigths' (did you mean 'weights'?)"]),
        (GOOD + "screen: {filters: [{kind: geometri}]}",
         ["screen.filters.0.kind: there is no 'geometri' (did you mean 'geometry'?)"]),
        (GOOD + "screen: {filters: [{kind: geometry, min_side: x}]}", ["screen.filters.0."]),
        (GOOD + "copy_graph: {threshold: 0.9}", ["copy_graph.threshold is 0.9, and self_dedup"]),
        (GOOD + "retrieve: 5", ["retrieve: Input should be a valid dictionary"]),
        (GOOD + "retrieve: {rules: [x]}", ["retrieve.rules.0: Input should be a valid dictionary"]),
        ("root: x\nextract: {crawl: [a]}\nsources: 5", ["sources: Input should be a valid tuple (it is 5)"]),
        ("just a text", ["Input should be a valid dictionary"]),
        ("", ["Input should be a valid dictionary"]),
        ("root: [", ["it is no YAML: "]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("options", [[], ["--preset", "lvd142m"]])
def test_a_mistake_is_one_sentence(
    text: str, told: list[str], options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert main(["run", *options, str(file)]) == 2
    error = capsys.readouterr().err
    first, *lines = error.rstrip().split("\n  ")
    assert first == f"curate-lvd: {file} is not a valid config:"
    assert len(lines) >= len(told)
    for sentence in told:
        assert sentence in error
    assert "errors.pydantic.dev" not in error
    if told[0].startswith(("unknown", "describe", "benchmarks", "screen.filters.0.kind")):
        assert len(lines) == len(told)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "noise.yaml").write_bytes(b"\xff\xfe\x00")
    for name, reason in (("none.yaml", "No such file"), ("noise.yaml", "it is no YAML"), (".", "Is a directory")):
        assert main(["run", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert str(tmp_path / name) in error
        assert reason in error
