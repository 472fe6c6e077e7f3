"""What can go wrong where bytes live.

StorageError
├── UnreachableStorage   a path or URL that cannot be opened or listed
├── StorageFull          no space left (or quota) while writing
├── ChecksumMismatch     bytes that are not the ones that were promised
└── BadManifest          a manifest that is missing, damaged or of another version

Every message says what happened, where, and what to do about it.
"""

import sys


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


def refusals() -> tuple[type[Exception], ...]:
    """What filesystems raise that cannot be reached: S3's client has errors of its own (no credentials, no answer),
    which are no OSErrors."""
    client = sys.modules.get("botocore.exceptions")
    return (OSError,) if client is None else (OSError, client.BotoCoreError, client.ClientError)


def unreachable(path: str, error: Exception) -> UnreachableStorage:
    """What to raise for one of `refusals` at a path."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, FileNotFoundError) and path.endswith(reason):  # some stores say the name alone
        reason = "there is no such file"
    return UnreachableStorage(
        f"cannot reach {path}: {reason.rstrip('.')}. Check the path, the credentials and the network."
    )
