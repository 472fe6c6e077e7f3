"""Which stages a run used: a small record in its folder, so that questions can be asked of it later."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from storage.errors import BadManifest
from storage.filesystem import exists, join, list_files, read_bytes, write_bytes
from storage.layout import Layout
from storage.manifest import Manifest, load_manifest
from tasks.lineage import ancestry, load_reference

_LATEST = "latest.json"


@dataclass(frozen=True)
class RunRecord:
    """One run: its name, the manifests it ended with ("stage/fingerprint") and where Prefect shows it."""

    name: str
    ends: tuple[str, ...]
    flow_run_id: str | None


def run_name() -> str:
    """A name for a new run: its start, UTC."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime())


def save_run(name: str, ends: Sequence[Manifest], layout: Layout, flow_run_id: str | None) -> RunRecord:
    """Record the run; the newest record is what `why` and `funnel` ask."""
    record = RunRecord(name, tuple(manifest.reference for manifest in ends), flow_run_id)
    data = json.dumps({"name": name, "ends": record.ends, "flow_run_id": flow_run_id}, indent=1).encode()
    write_bytes(join(layout.run(name), "run.json"), data)
    write_bytes(layout.run(_LATEST), data)
    return record


def load_chain(layout: Layout, name: str | None = None) -> Mapping[str, Manifest]:
    """All manifests of a run (the newest if no name is given), inputs before what uses them.

    A root whose run has not ended has no record yet: then the newest manifest of every stage is taken. Raises
    BadManifest when the root holds no stage at all.
    """
    path = join(layout.run(name), "run.json") if name else layout.run(_LATEST)
    if exists(path):
        content = json.loads(read_bytes(path))
        return ancestry([load_reference(reference, layout) for reference in content["ends"]], layout)
    folders = [found.rsplit("/", 1)[0] for found in list_files(layout.stage_manifests("*"))]
    if not folders or name:
        wanted = f"no run {name}" if name else "no run"
        raise BadManifest(
            f"{wanted} in {layout.root}: no record at {path} and no finished stage. Give --root the folder that "
            "`curate-lvd run` wrote."
        )
    return ancestry([load_manifest(folder) for folder in folders], layout)
