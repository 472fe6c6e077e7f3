"""Open, list and write-then-rename over fsspec: a path here is a local path or any fsspec URL (s3://, gs://, https://)."""

import errno
import hashlib
import os
import posixpath
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.core import url_to_fs

from storage.errors import ChecksumMismatch, StorageFull, UnreachableStorage, refusals, unreachable
from storage.local_glob import glob_local

_FULL = {errno.ENOSPC, errno.EDQUOT}
_STORES = frozenset({"s3", "s3a", "gs", "gcs"})  # they have no folders: what is asked to make one makes a bucket
_COPY_BYTES = 1 << 20


def is_url(path: str) -> bool:
    """True for `s3://bucket/key` and its like; False for local paths."""
    return "://" in path


def join(*parts: str) -> str:
    """Path parts joined with '/', an absolute or URL part starting anew (as `os.path.join` does)."""
    joined = ""
    for part in parts:
        joined = part if not joined or is_url(part) or part.startswith("/") else posixpath.join(joined, part)
    return joined


def _filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    # A kept listing does not know what other processes have written since.
    options = {"use_listings_cache": False} if str(path).startswith(("s3://", "s3a://")) else {}
    try:
        return url_to_fs(str(path), **options)
    except (ImportError, ValueError) as error:
        raise UnreachableStorage(
            f"cannot use {path!r}: {error}. Install the filesystem's package (s3: pip install 'curate-lvd[s3]') "
            "or give a local path."
        ) from error


def exists(path: str) -> bool:
    """True when a file or folder stands at `path`. Raises UnreachableStorage when the storage does not answer."""
    filesystem, inner = _filesystem(path)
    try:
        return bool(filesystem.exists(inner))
    except refusals() as error:
        raise unreachable(path, error) from error


def list_files(pattern: str, *, only_files: bool = False) -> list[str]:
    """What matches a glob, sorted, folders too unless `only_files`; what exists is itself (`storage.local_glob`)."""
    filesystem, inner = _filesystem(pattern)
    if "file" in _protocols(filesystem):
        return sorted(found for found, is_folder in glob_local(inner) if not (is_folder and only_files))
    try:
        found = filesystem.glob(inner, detail=True).items()
    except refusals() as error:
        raise unreachable(pattern, error) from error
    return sorted(filesystem.unstrip_protocol(n) for n, at in found if not (only_files and at["type"] == "directory"))


def open_read(path: str) -> IO[bytes]:
    """A binary file open for reading. Raises UnreachableStorage with the reason."""
    filesystem, inner = _filesystem(path)
    try:
        opened: IO[bytes] = filesystem.open(inner, "rb")
    except refusals() as error:
        raise unreachable(path, error) from error
    return opened


def read_bytes(path: str, offset: int | None = None, length: int | None = None) -> bytes:
    """The whole file, or `length` bytes from `offset`. Raises UnreachableStorage; a short range is an error too.

    Of a remote file exactly the range is fetched, by one request: an opened one would read MiBs ahead.
    """
    if is_url(path) and length is not None:
        data = _read_remote_range(path, offset or 0, length)
    else:
        with open_read(path) as file:
            if offset:
                file.seek(offset)
            data = file.read(-1 if length is None else length)
    if length is not None and len(data) != length:
        raise UnreachableStorage(
            f"{path} ends early: {length} bytes wanted at {offset or 0}, {len(data)} there. "
            "The file was cut or replaced; delete the stage's folder and run again."
        )
    return data


def _read_remote_range(path: str, offset: int, length: int) -> bytes:
    filesystem, inner = _filesystem(path)
    try:
        data: bytes = filesystem.cat_file(inner, start=offset, end=offset + length)
    except refusals() as error:
        raise unreachable(path, error) from error
    return data


def change_mark(path: str) -> str:
    """A text that is another one when the file at `path` was written anew (size and time, or what a store tells).

    Raises UnreachableStorage when there is none.
    """
    filesystem, inner = _filesystem(path)
    try:
        return str(filesystem.ukey(inner))
    except refusals() as error:
        raise unreachable(path, error) from error


@contextmanager
def write_atomic(path: str) -> Iterator[IO[bytes]]:
    """A binary file that appears at `path` only if the block ends well.

    The bytes go to a temporary name in the same folder, are flushed to disk and renamed; on an error the temporary
    file is removed. Raises StorageFull when there is no space, UnreachableStorage when the place cannot be written.
    """
    filesystem, inner = _filesystem(path)
    temporary = f"{inner}.tmp-{uuid.uuid4().hex[:12]}"
    try:
        _make_folder(filesystem, posixpath.dirname(inner) or ".")
        with filesystem.open(temporary, "wb") as file:
            yield file
            file.flush()
            with suppress(OSError, AttributeError, TypeError):  # remote files have no descriptor to sync
                os.fsync(file.fileno())
        _rename(filesystem, temporary, inner)
    except refusals() as error:
        _remove(filesystem, temporary)
        if getattr(error, "errno", None) in _FULL:
            raise StorageFull(
                f"no space left while writing {path}. Free space or choose another root; "
                "nothing half-written was kept and the run resumes where it stopped."
            ) from error
        raise unreachable(path, error) from error
    except BaseException:
        _remove(filesystem, temporary)
        raise


def _rename(filesystem: fsspec.AbstractFileSystem, source: str, target: str) -> None:
    if "file" in _protocols(filesystem):
        os.replace(source, target)
    else:
        filesystem.mv(source, target)


def _remove(filesystem: fsspec.AbstractFileSystem, path: str) -> None:
    with suppress(*refusals()):  # the first error is the one to tell
        filesystem.rm_file(path)


def _protocols(filesystem: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    protocol: Any = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def write_bytes(path: str, data: bytes) -> None:
    """`data` at `path`, whole or not at all."""
    with write_atomic(path) as file:
        file.write(data)


def link_or_copy(source: str, target: str) -> None:
    """`source` at `target` too, whole or not at all: a hard link where the file system can, a copy elsewhere.

    Files are only ever replaced by renaming, never changed in place, so a link is as good as a copy. Raises
    UnreachableStorage when the source is missing, StorageFull when there is no space for a copy.
    """
    if not is_url(source) and not is_url(target):
        temporary = f"{target}.tmp-{uuid.uuid4().hex[:12]}"
        make_folder(posixpath.dirname(target) or ".")
        with suppress(OSError):  # another device, or a file system without links: copied below
            os.link(source, temporary)
            os.replace(temporary, target)
            with suppress(FileNotFoundError):  # the two were one file already: rename left the name behind
                os.unlink(temporary)
            return
    with open_read(source) as file, write_atomic(target) as copy:
        while block := file.read(_COPY_BYTES):
            copy.write(block)


def make_folder(path: str) -> None:
    """The folder, and its parents, if they are not there."""
    filesystem, inner = _filesystem(path)
    try:
        _make_folder(filesystem, inner)
    except refusals() as error:
        raise unreachable(path, error) from error


def _make_folder(filesystem: fsspec.AbstractFileSystem, folder: str) -> None:
    if not _STORES.intersection(_protocols(filesystem)):
        filesystem.makedirs(folder, exist_ok=True)


def file_sizes(folder: str) -> dict[str, int]:
    """Sizes in bytes by file name of what stands directly in a folder; empty when there is no folder. One listing."""
    filesystem, inner = _filesystem(folder)
    filesystem.invalidate_cache(inner)
    try:
        entries = filesystem.ls(inner, detail=True)
    except FileNotFoundError:
        return {}
    except refusals() as error:
        raise unreachable(folder, error) from error
    return {posixpath.basename(entry["name"]): int(entry["size"] or 0) for entry in entries if entry["type"] == "file"}


def file_size(path: str) -> int | None:
    """Size in bytes, None when there is no such file."""
    filesystem, inner = _filesystem(path)
    try:
        return int(filesystem.size(inner) or 0)
    except FileNotFoundError:
        return None
    except refusals() as error:
        raise unreachable(path, error) from error


def content_key(path: str) -> str:
    """A short key that changes when a file's content does, cheap for files of any size.

    Local: SHA-256 of size, first and last MiB (so that a rebuilt equal file keeps its key); remote: size and ETag.
    Raises UnreachableStorage when the file is missing.
    """
    filesystem, inner = _filesystem(path)
    try:
        info = filesystem.info(inner)
        size = int(info["size"] or 0)
        tag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
        if tag is None:
            with filesystem.open(inner, "rb") as file:
                head = file.read(_COPY_BYTES)
                file.seek(max(0, size - _COPY_BYTES))
                tag = hashlib.sha256(head + file.read()).hexdigest()
    except refusals() as error:
        raise unreachable(path, error) from error
    return hashlib.sha256(f"{size}:{tag}".encode()).hexdigest()[:16]


def file_sha256(path: str) -> tuple[int, str]:
    """(bytes, hex SHA-256) of a file, read in blocks."""
    digest, size = hashlib.sha256(), 0
    with open_read(path) as file:
        while block := file.read(_COPY_BYTES):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def default_cache() -> str:
    """Folder for fetched weights: $CURATE_LVD_CACHE, else ~/.cache/curate-lvd."""
    return os.environ.get("CURATE_LVD_CACHE") or str(Path.home() / ".cache" / "curate-lvd")


def fetch_verified(source: str, sha256: str, cache: str | None = None) -> str:
    """Local path of a file given by path or URL, its SHA-256 verified.

    A local file is checked where it lies; a URL is copied once into `cache` under its checksum. Raises
    ChecksumMismatch (the wrong copy is not kept) or UnreachableStorage.
    """
    wanted = sha256.lower().removeprefix("sha256:")
    if not is_url(source):
        _check(source, source, wanted)
        return source
    target = join(cache or default_cache(), wanted, posixpath.basename(source.split("?")[0]) or "file")
    if not exists(target):
        with open_read(source) as remote, write_atomic(target) as local:
            digest = hashlib.sha256()
            while block := remote.read(_COPY_BYTES):
                digest.update(block)
                local.write(block)
            if digest.hexdigest() != wanted:
                raise _mismatch(source, wanted, digest.hexdigest())
    _check(target, source, wanted)
    return target


def _check(path: str, source: str, wanted: str) -> None:
    _, found = file_sha256(path)
    if found != wanted:
        raise _mismatch(source, wanted, found)


def _mismatch(source: str, wanted: str, found: str) -> ChecksumMismatch:
    return ChecksumMismatch(
        f"{source} has SHA-256 {found}, expected {wanted}. The file is damaged or another one: "
        "fetch it again, or correct `sha256` if the new file is meant."
    )
