"""From a finished stage back to everything it was made of: the chain of manifests, drawn as a diagram."""

from collections.abc import Mapping, Sequence

from storage.layout import Layout
from storage.manifest import Manifest, load_manifest

BASE = "base"
"""Role of the earlier dataset among the inputs of one that goes on from it: another version, which may be gone."""
_NAMES = {"pack": "dataset", "pretrain": "checkpoint", "evaluate": "scores"}
_SHAPES = {"pack": ("[(", ")]"), "pretrain": ("{{", "}}"), "evaluate": ("([", "])")}


def artifact_key(stage: str) -> str:
    """Key of a stage's artifact in the UI: its versions over the runs stand together."""
    return f"stage-{stage.replace('_', '-')}"


def load_reference(reference: str, layout: Layout) -> Manifest:
    """The manifest that "stage/fingerprint" names. Raises BadManifest when it is gone."""
    stage, _, fingerprint = reference.partition("/")
    return load_manifest(layout.dataset(fingerprint) if stage == "pack" else layout.stage(stage, fingerprint))


def ancestry(manifests: Sequence[Manifest], layout: Layout) -> dict[str, Manifest]:
    """The manifests and all they were made of, by reference, every input before what uses it.

    A dataset that another goes on from is no part of it: its samples came through the same stages.
    """
    found: dict[str, Manifest] = {}

    def visit(manifest: Manifest) -> None:
        for role, reference in manifest.inputs.items():
            if role != BASE and reference not in found:
                visit(load_reference(reference, layout))
        found.setdefault(manifest.reference, manifest)

    for manifest in manifests:
        visit(manifest)
    return found


def lineage_diagram(chain: Mapping[str, Manifest], *, ui_url: str | None) -> str:
    """Mermaid source: one node per manifest with its counts, one edge per input, nodes linked to their pages.

    `ui_url` is the Prefect server's address (http://host:port); None leaves the links out.
    """
    names = {reference: f"n{number}" for number, reference in enumerate(chain)}
    lines = ["graph TD"]
    for reference, manifest in chain.items():
        left, right = _SHAPES.get(manifest.stage, ("[", "]"))
        label = f"{_NAMES.get(manifest.stage, manifest.stage)}<br/>{_counts(manifest)}<br/>{manifest.fingerprint[:8]}"
        lines.append(f'  {names[reference]}{left}"{label}"{right}')
    for reference, manifest in chain.items():
        edges = ((role, source) for role, source in manifest.inputs.items() if role != BASE)
        lines += [f"  {names[source]} -->|{role}| {names[reference]}" for role, source in edges]
    if ui_url:
        for reference, manifest in chain.items():
            link = f"{ui_url.rstrip('/')}/v2/artifacts/key/{artifact_key(manifest.stage)}"
            lines.append(f'  click {names[reference]} href "{link}" _self')
    lines += [f"  style {names[ref]} fill:#1a7f37,color:#fff" for ref, m in chain.items() if m.stage == "pack"]
    return "\n".join(lines)


def _counts(manifest: Manifest) -> str:
    if manifest.stage == "pretrain":
        return f"{manifest.facts.get('steps', '?')} steps"
    if manifest.stage == "evaluate":
        return f"k-NN {manifest.facts.get('knn_top1', '?')} %"
    if manifest.rows_in == manifest.rows_kept:
        return f"{manifest.rows_kept:,}"
    return f"{manifest.rows_in:,} → {manifest.rows_kept:,}"
