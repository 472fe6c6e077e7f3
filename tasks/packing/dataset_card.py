"""What stands beside the shards for people and for machines: dataset.json, README.md (a dataset card as Hugging Face
reads it) and croissant.json, all from the manifests that the dataset was made of."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Annotated, Any

import yaml
from pydantic import Field

from storage.filesystem import join, write_bytes
from storage.manifest import FileEntry, Manifest
from tasks.config import StageConfig
from tasks.packing.croissant import croissant

CARD, README, CROISSANT = "dataset.json", "README.md", "croissant.json"
_SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"} | {
    10**8: "10M<n<100M",
    10**9: "100M<n<1B",
    10**12: "n>1B",
}
_SETTINGS_CHARS = 400


class Card(StageConfig):
    """What a dataset's card says that nobody can count."""

    title: str = ""
    """Name for people; the shards' prefix when empty."""
    description: str = (
        "Images of the web that resemble curated sources, deduplicated and freed of benchmark images the way "
        "LVD-142M was made (arXiv 2304.07193, section 3 and appendix A)."
    )
    """What it is, in a sentence or two."""
    licence: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")] = "other"
    """Licence of the metadata and the selection, as an SPDX identifier in lower case."""
    creator: str = "the people who ran curate-lvd"
    """Who made it."""
    contact: str = ""
    """Address (mail or URL) for owners who want their images out; the card says so when there is none."""
    published: date | None = None
    """Day of publication; left out of the metadata when there is none."""
    homepage: str = ""
    """Where the dataset is told of."""


def write_cards(
    directory: str,
    dataset: Mapping[str, Any],
    *,
    chain: Mapping[str, Manifest],
    config: Card,
) -> list[FileEntry]:
    """The three files. `dataset`: name, version, num_images, bytes, extensions, composition, shards and more, which
    dataset.json holds as they are; `chain`: every manifest it was made of, in order."""
    made_with = [_step(manifest) for manifest in chain.values()]
    content = {**dataset, "card": config.deciding(), "made_with": made_with}
    metadata = croissant(_about(dataset, config), extensions=sorted(dataset["extensions"]), shards=dataset["shards"])
    return [
        _write(directory, CARD, json.dumps(content, sort_keys=True, indent=1)),
        _write(directory, README, readme(dataset, made_with, config)),
        _write(directory, CROISSANT, json.dumps(metadata, indent=1, ensure_ascii=False)),
    ]


def _write(directory: str, name: str, text: str) -> FileEntry:
    data = text.encode()
    write_bytes(join(directory, name), data)
    return FileEntry(name, 0, len(data), hashlib.sha256(data).hexdigest())


def _step(manifest: Manifest) -> dict[str, Any]:
    """One stage as the card tells it: without times and without the raw files' identities."""
    settings = {name: value for name, value in manifest.config.items() if name != "also"}
    counts = {"rows_in": manifest.rows_in, "rows_kept": manifest.rows_kept, "drops": dict(manifest.drops)}
    return {"stage": manifest.stage, "reference": manifest.reference, "version": manifest.version, **counts} | {
        "settings": settings
    }


def _about(dataset: Mapping[str, Any], config: Card) -> dict[str, Any]:
    """schema.org's properties of the dataset."""
    about = {
        "name": dataset["name"],
        "description": config.description,
        "license": config.licence,
        "creator": {"@type": "sc:Organization", "name": config.creator},
        "version": f"1.0.0+{dataset['version']}",
        "url": config.homepage,
        "datePublished": config.published.isoformat() if config.published else "",
    }
    return {name: value for name, value in about.items() if value}


def readme(dataset: Mapping[str, Any], made_with: Sequence[Mapping[str, Any]], config: Card) -> str:
    """The dataset card: a YAML header that Hugging Face's hub reads, then Markdown."""
    title = config.title or dataset["name"]
    header = {
        "pretty_name": title,
        "license": config.licence,
        "task_categories": ["image-feature-extraction"],
        "size_categories": [next(name for limit, name in _SIZES.items() if dataset["num_images"] < limit)],
        "tags": ["webdataset", "image", "self-supervised", "curated", "croissant"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "*.tar"}]}],
    }
    shards = dataset["shards"]
    smallest, largest = min(s["samples"] for s in shards), max(s["samples"] for s in shards)
    return "\n".join(
        [
            "---",
            yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip(),
            "---",
            "",
            f"# {title}",
            "",
            config.description,
            "",
            f"**{dataset['num_images']:,} images** in {len(shards):,} WebDataset shards of {smallest:,} to "
            f"{largest:,} samples, {dataset['bytes']:,} bytes, version `{dataset['version']}`.",
            "",
            *_files(dataset),
            "## Composition",
            "",
            *_table(dataset["composition"]),
            "## How it was made",
            "",
            "Every stage, what went in, what it kept, why it dropped the rest, and its settings (thresholds among "
            "them); all of it in `dataset.json`.",
            "",
            *_table([_told(step) for step in made_with]),
            *_rights(config),
        ]
    )


def _files(dataset: Mapping[str, Any]) -> list[str]:
    kinds = ", ".join(f"{count:,} .{name}" for name, count in sorted(dataset["extensions"].items()))
    treated = dataset["images"]
    how = (
        f"Images over {treated['max_side']} pixels are JPEG copies of quality {treated['quality']}; the others are"
        if treated["kind"] == "bounded"
        else "Images are"
    )
    return [
        "## Files",
        "",
        f"- `*.tar`: per sample an image ({kinds}) and `.json`: id, URL, SHA-256, size and lineage (page, crawl, date, "
        "the query that brought it in, its similarity). Shuffled over the whole set.",
        "- `*.parquet` beside each tar: its index, with every image's place and SHA-256.",
        "- `dataset.json`: the shards' SHA-256, the stages and their settings. `croissant.json`: Croissant 1.0.",
        "",
        f"{how} the bytes that the web served, but where faces were blurred.",
        "",
    ]


def _rights(config: Card) -> list[str]:
    where = (
        f"Write to {config.contact} with the URL, the id or the SHA-256."
        if config.contact
        else "This copy names no contact: ask whoever gave it to you, and set `pack.card.contact` before you publish."
    )
    return [
        "## Licence and removal",
        "",
        f"`{config.licence}` is the licence of the selection and its metadata. The images belong to their owners, "
        "under the terms of the pages that showed them (`lineage.page_url`); no right to an image is granted here.",
        "",
        f"Owners can have images taken out. {where} A removed image leaves the shards, which are rewritten, and stays "
        "in a ledger, so that no later crawl brings it back.",
        "",
    ]


def _told(step: Mapping[str, Any]) -> dict[str, Any]:
    settings = json.dumps(step["settings"], sort_keys=True)
    shown = settings if len(settings) <= _SETTINGS_CHARS else settings[:_SETTINGS_CHARS] + " …"
    drops = ", ".join(f"{reason} {count:,}" for reason, count in sorted(step["drops"].items()))
    return {"stage": step["stage"], "in": step["rows_in"], "kept": step["rows_kept"], "dropped": drops} | {
        "settings": f"`{shown}`"
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if not columns:
        return ["(not recorded)", ""]
    lines = [_line(columns), _line(["---"] * len(columns))]
    return [*lines, *(_line(_cell(row.get(column)) for column in columns) for row in rows), ""]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
