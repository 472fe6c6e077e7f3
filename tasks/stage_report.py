"""A stage's page in the UI: counts, drop reasons, fingerprint, reuse, where the manifest lies, and pictures."""

import html
from collections.abc import Sequence

from prefect.artifacts import create_markdown_artifact

from storage.layout import Layout
from storage.manifest import Manifest
from tasks.contact_sheet import Picture, contact_sheet
from tasks.lineage import artifact_key
from tasks.progress import in_run, run_logger

_CAPTION_CHARS = 40


def report_stage(manifest: Manifest, layout: Layout, *, reused: bool) -> None:
    """Log one line and publish the stage's artifact; outside a run, nothing."""
    if not in_run():
        return
    run_logger().info(summary_line(manifest, reused=reused))
    create_markdown_artifact(
        key=artifact_key(manifest.stage),
        markdown=stage_markdown(manifest, layout, reused=reused),
        description=summary_line(manifest, reused=reused),
    )


def summary_line(manifest: Manifest, *, reused: bool) -> str:
    """One line: stage, in → kept, the drops, seconds or that it was reused."""
    drops = ", ".join(f"{count} {reason}" for reason, count in manifest.drops.items()) or "no drops"
    how = "reused" if reused else f"{manifest.seconds:.1f} s"
    return f"{manifest.stage}: {manifest.rows_in} in, {manifest.rows_kept} kept ({drops}), {how}"


def stage_markdown(manifest: Manifest, layout: Layout, *, reused: bool) -> str:
    """The stage's page."""
    rate = manifest.rows_in / manifest.seconds if manifest.seconds else 0.0
    lines = [
        f"# {manifest.stage}",
        "",
        "| | |",
        "|---|---|",
        f"| in | {manifest.rows_in:,} |",
        f"| kept | {manifest.rows_kept:,} |",
        f"| result | {'**reused** from an earlier run' if reused else 'computed in this run'} |",
        f"| computed in | {manifest.seconds:.1f} s ({rate:,.0f}/s) |",
        f"| fingerprint | `{manifest.fingerprint[:16]}` |",
        f"| manifest | `{manifest.path}` |",
        *(
            f"| input: {role} | `{reference.split('/')[0]}/{reference.split('/')[1][:16]}` |"
            for role, reference in manifest.inputs.items()
        ),
        *(f"| {name} | {_shown(value)} |" for name, value in manifest.facts.items() if not _is_table(value)),
        "",
        *(line for name, value in manifest.facts.items() if _is_table(value) for line in _table(name, value)),
        *_drops(manifest),
        *_pictures(contact_sheet(manifest, layout)),
    ]
    return "\n".join(lines)


def _shown(value: object) -> str:
    text = f"{value:,.6g}" if isinstance(value, float) else str(value)
    return html.escape(text if len(text) <= 200 else text[:200] + " …").replace("|", "\\|").replace("\n", " ")


def _is_table(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _table(name: str, rows: Sequence[dict[str, object]]) -> list[str]:
    """A fact that is a list of rows (the composition of a dataset) as a table; absent values are empty cells."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [_row([_shown(row.get(column, "")) for column in columns]) for row in rows]
    return [f"**{name}**", "", _row(columns), _row(["---"] * len(columns)), *lines, ""]


def _drops(manifest: Manifest) -> list[str]:
    if not manifest.drops:
        return []
    rows = (
        f"| {reason} | {count:,} | {100 * count / manifest.rows_in:.2f} % |" for reason, count in manifest.drops.items()
    )
    return ["| drop reason | records | of all in |", "|---|---|---|", *rows, ""]


def _pictures(sheet: dict[str, list[Picture]]) -> list[str]:
    lines: list[str] = []
    for kind in sorted(sheet, key=lambda kind: (kind != "kept", kind)):
        pictures = sheet[kind]
        lines += [f"**{kind}**", "", _row([f"![{_safe(p.title)}]({p.data_uri})" for p in pictures])]
        lines += [_row(["---"] * len(pictures)), _row([_safe(p.caption) or " " for p in pictures]), ""]
    return lines


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _safe(text: str) -> str:
    """Text from the web as harmless table text: no markup, no links, no line breaks."""
    plain = "".join(ch if ch.isalnum() or ch in " .,:/-_%=()" else "·" for ch in text)
    return html.escape(plain if len(plain) <= _CAPTION_CHARS else plain[: _CAPTION_CHARS - 1] + "…")
