"""The promise of a finished stage: what it holds, from what it was made, how much of what fell out. Written last."""

import dataclasses
import hashlib
import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.errors import BadManifest
from storage.filesystem import exists, join, link_or_copy, read_bytes, write_bytes

FORMAT = 1
NAME = "manifest.json"
TIMING = "timing.json"


@dataclass(frozen=True)
class FileEntry:
    """One file of a stage: path relative to the stage's folder, rows (0 where rows mean nothing), size, checksum."""

    path: str
    rows: int
    bytes: int
    sha256: str


def adopt(entry: FileEntry, source_directory: str, target: str) -> FileEntry:
    """An earlier stage's file taken over, unchanged, as `target` (absolute path): its entry under the new name."""
    link_or_copy(join(source_directory, entry.path), target)
    return dataclasses.replace(entry, path=posixpath.basename(target))


class Manifest:
    """One finished stage. Equal content gives an equal file: times are kept apart, in timing.json.

    `rows_in` = `rows_kept` + sum of `drops`. `inputs` maps a role to "stage/fingerprint". `facts` holds the stage's
    own numbers (thresholds met, histogram of components, ...).

    A plain class, no dataclass: Prefect walks through dataclasses that tasks pass on, at a cost per file, and takes
    equal parts of two manifests for an edge between their stages.
    """

    def __init__(
        self,
        stage: str,
        version: int,
        fingerprint: str,
        directory: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        files: tuple[FileEntry, ...],
        rows_in: int,
        rows_kept: int,
        drops: Mapping[str, int],
        facts: Mapping[str, Any] | None = None,
        seconds: float = 0.0,
    ) -> None:
        self.stage, self.version, self.fingerprint, self.directory = stage, version, fingerprint, directory
        self.config, self.inputs, self.files = config, inputs, files
        self.rows_in, self.rows_kept, self.drops = rows_in, rows_kept, drops
        self.facts: Mapping[str, Any] = facts or {}
        self.seconds = seconds

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifest) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"Manifest({self.reference[:24]} in {self.directory}: {self.rows_in} in, {self.rows_kept} kept)"

    def paths(self, suffix: str) -> list[str]:
        """Absolute paths of the part files that end in `suffix`, in order."""
        names = [entry.path for entry in self.files if entry.path.startswith("part-") and entry.path.endswith(suffix)]
        return [join(self.directory, name) for name in names]

    def file(self, name: str) -> str:
        """Absolute path of one named file. Raises BadManifest when the stage has none of that name."""
        if not any(entry.path == name for entry in self.files):
            raise BadManifest(
                f"stage {self.stage} in {self.directory} has no file {name!r}; it has "
                f"{', '.join(entry.path for entry in self.files[:10])}."
            )
        return join(self.directory, name)

    @property
    def reference(self) -> str:
        """ "stage/fingerprint", as other manifests name this one."""
        return f"{self.stage}/{self.fingerprint}"

    @property
    def path(self) -> str:
        """Where the manifest lies."""
        return join(self.directory, NAME)


def fingerprint(stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Hex SHA-256 of what decides a stage's result: its version, its config and its inputs' fingerprints."""
    text = json.dumps([stage, version, config, dict(inputs)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def save_manifest(manifest: Manifest) -> None:
    """Write manifest.json (the promise) after timing.json. Nothing of the stage may be written afterwards."""
    write_bytes(join(manifest.directory, TIMING), json.dumps({"seconds": round(manifest.seconds, 3)}).encode())
    content = {key: value for key, value in vars(manifest).items() if key not in ("directory", "seconds")}
    content["files"] = [dataclasses.asdict(entry) for entry in manifest.files]
    write_bytes(manifest.path, json.dumps({"format": FORMAT, **content}, sort_keys=True, indent=1).encode())


def load_manifest(directory: str) -> Manifest:
    """The manifest of a finished stage. Raises BadManifest when it is missing, damaged or of another format."""
    path = join(directory, NAME)
    if not exists(path):
        raise BadManifest(f"no manifest at {path}: the stage has not finished. Run the flow again; it resumes.")
    try:
        content = json.loads(read_bytes(path))
        found = content.pop("format")
        content["files"] = tuple(FileEntry(**entry) for entry in content["files"])
        manifest = Manifest(directory=directory, seconds=_seconds(directory), **content)
    except (ValueError, KeyError, TypeError) as error:
        raise BadManifest(f"{path} is damaged ({error}). Delete its folder and run the flow again.") from error
    if found != FORMAT:
        raise BadManifest(f"{path} has format {found}, this version reads {FORMAT}. Use another root or run again.")
    return manifest


def _seconds(directory: str) -> float:
    path = join(directory, TIMING)
    return float(json.loads(read_bytes(path))["seconds"]) if exists(path) else 0.0
