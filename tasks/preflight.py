"""What can be checked before the first byte is fetched, so that a typo does not cost days of curation."""

from collections.abc import Sequence
from typing import Protocol

from storage.filesystem import make_folder
from storage.layout import Layout
from tasks.collect import Collection, list_members


class Plug(Protocol):
    """A config that builds what it configures (a filter, an encoder) and raises when it cannot."""

    def build(self) -> object: ...


def check_inputs(collections: Sequence[Collection], plugs: Sequence[Plug], layout: Layout) -> None:
    """Raises what a stage would raise much later.

    EmptyCollection for a source, benchmark or labelled set without images; UnreachableStorage for a root that cannot be
    written; FilterUnavailable, EncoderUnavailable, ChecksumMismatch for models that are missing or
    not the promised ones.
    """
    make_folder(layout.root)
    for collection in collections:
        list_members(collection)
    for plug in plugs:
        plug.build()
