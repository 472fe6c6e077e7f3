"""The end of a run: its record, its report, and its lineage as artifacts that the UI keeps by key."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.context import FlowRunContext
from prefect.settings import get_current_settings

from storage.layout import Layout
from storage.manifest import Manifest
from tasks.lineage import ancestry, artifact_key, lineage_diagram
from tasks.progress import in_run
from tasks.report import funnel, write_report
from tasks.runs import run_name, save_run
from tasks.stage import stage_task

LINEAGE_KEY = "lvd-lineage"


@dataclass(frozen=True)
class Published:
    """What a run leaves for people: its name, its report, all its manifests, and where Prefect shows it."""

    name: str
    root: str
    report: str
    chain: Mapping[str, Manifest]
    flow_run_id: str | None


@stage_task(name="publish")
def publish_run(ends: Sequence[Manifest], layout: Layout) -> Published:
    """Record the run that ended with these manifests, write its report, publish lineage and funnel."""
    name, context = run_name(), FlowRunContext.get()
    flow_run_id = str(context.flow_run.id) if context and context.flow_run else None
    chain = ancestry(ends, layout)
    record = save_run(name, ends, layout, flow_run_id)
    report = write_report(chain, layout, layout.run(record.name))
    if in_run():
        _publish_artifacts(chain, report)
    return Published(name, layout.root, report, chain, flow_run_id)


def ui_address() -> str:
    """The server's address as a browser reaches it: the one in use, else where `make ui` will show the run."""
    settings = get_current_settings()
    return str(settings.api.url or settings.server.ui.api_url).removesuffix("/").removesuffix("/api")


def ui_command() -> str:
    """How to start that server where none is in use: one that reads the database that the run was recorded in."""
    settings = get_current_settings()
    return (
        "" if settings.api.url else f"   (`make ui PREFECT_HOME={shlex.quote(str(settings.home))}` starts the server)"
    )


def _publish_artifacts(chain: Mapping[str, Manifest], report: str) -> None:
    text = lineage_markdown(chain, ui_url=ui_address())
    create_markdown_artifact(key=LINEAGE_KEY, markdown=text, description="From the crawl to the checkpoint")
    for manifest in chain.values():
        if manifest.stage == "pack":
            key = f"dataset-{manifest.fingerprint[:8]}"
            create_markdown_artifact(key=key, markdown=text, description=f"Lineage of {manifest.directory}")
    rows = [
        {
            "stage": row.stage,
            "in": row.rows_in,
            "kept": row.rows_kept,
            "seconds": row.seconds,
            "per second": int(row.rate),
        }
        | {"drops": ", ".join(f"{reason} {count}" for reason, count in row.drops.items())}
        for row in funnel(chain)
    ]
    create_table_artifact(key="lvd-funnel", table=rows, description="What every stage kept and dropped")
    create_link_artifact(key="lvd-report", link=f"file://{report}", link_text=report, description="Static HTML report")


def lineage_markdown(chain: Mapping[str, Manifest], *, ui_url: str | None) -> str:
    """The diagram, then a table of the manifests it was drawn from."""
    lines = ["# Lineage", "", "```mermaid", lineage_diagram(chain, ui_url=ui_url), "```", ""]
    lines += ["| stage | in | kept | fingerprint | manifest |", "|---|---|---|---|---|"]
    for manifest in chain.values():
        name = manifest.stage
        if ui_url:
            name = f"[{name}]({ui_url}/v2/artifacts/key/{artifact_key(manifest.stage)})"
        counts = f"{manifest.rows_in:,} | {manifest.rows_kept:,}"
        lines.append(f"| {name} | {counts} | `{manifest.fingerprint[:16]}` | `{manifest.path}` |")
    return "\n".join(lines)
