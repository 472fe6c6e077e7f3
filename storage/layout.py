"""Every path of a run, named once."""

from dataclasses import dataclass
from pathlib import Path

from storage.filesystem import is_url, join

_FINGERPRINT_CHARS = 16


@dataclass(frozen=True)
class Layout:
    """The folders below a run's root.

    root/stages/<stage>/<fingerprint>/   one folder per stage and fingerprint: parts, then manifest.json
    root/receipts/<stage>/<fingerprint>/ which parts of it are done
    root/datasets/<fingerprint>/         one folder per dataset version: tars, index, card
    root/runs/<name>/                    what a person opens: report.html, funnel.json, run.yaml
    """

    root: str

    @classmethod
    def at(cls, root: str) -> "Layout":
        """The layout of a root as a user writes it: a local path is made absolute, so that workers find it too."""
        return cls(root if is_url(root) else str(Path(root).resolve()))

    def stage(self, name: str, fingerprint: str) -> str:
        """Folder of one stage's result."""
        return join(self.root, "stages", name, fingerprint[:_FINGERPRINT_CHARS])

    def receipts(self, name: str, fingerprint: str) -> str:
        """Folder of one stage's receipts: which parts are done, so that a killed run goes on where it was."""
        return join(self.root, "receipts", name, fingerprint[:_FINGERPRINT_CHARS])

    def stage_manifests(self, name: str) -> str:
        """Glob of every manifest of a stage."""
        return join(self.root, "stages", name, "*", "manifest.json")

    def dataset(self, fingerprint: str) -> str:
        """Folder of one dataset version."""
        return join(self.root, "datasets", fingerprint[:_FINGERPRINT_CHARS])

    def run(self, name: str) -> str:
        """Folder of what one run shows to people."""
        return join(self.root, "runs", name)

    def resolve(self, path: str) -> str:
        """A path as tables store it (relative to the root, absolute, or a URL) → one that can be opened."""
        return path if is_url(path) or path.startswith("/") else join(self.root, path)

    def relative(self, path: str) -> str:
        """A path below the root as tables store it, so that the whole root can be moved."""
        prefix = self.root.rstrip("/") + "/"
        return path.removeprefix(prefix)
