"""What can go wrong where bytes live.

StorageError
├── UnreachableStorage   a path or URL that cannot be opened or listed
├── StorageFull          no space left (or quota) while writing
├── ChecksumMismatch     bytes that are not the ones that were promised
└── BadManifest          a manifest that is missing, damaged or of another version

Every message says what happened, where, and what to do about it.
"""


class StorageError(Exception):
    """Anything that storage refuses; the message says what, where and what to do."""


class UnreachableStorage(StorageError):
    """A path or URL that cannot be opened or listed."""


class StorageFull(StorageError):
    """The disk (or the quota) is full; what was being written has been removed."""


class ChecksumMismatch(StorageError):
    """Bytes differ from the ones whose checksum was given."""


class BadManifest(StorageError):
    """A manifest that is missing, damaged or written by another version."""
