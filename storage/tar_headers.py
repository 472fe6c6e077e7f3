"""Tar headers by hand: tarfile takes 50 µs to build or to parse one, which is more than hashing the image behind it.

Written: plain ustar headers, the bytes that `tarfile` writes (its PAX form where a name or a size does not fit).
Read: ustar, PAX and GNU long names, GNU binary sizes: what tarfile, GNU tar and WebDataset write for plain files.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from storage.errors import UnreachableStorage

BLOCK_BYTES = tarfile.BLOCKSIZE
RECORD_BYTES = tarfile.RECORDSIZE
_MODE = 0o644
_MAX_NAME_BYTES = tarfile.LENGTH_NAME
_MAX_SIZE_BYTES = 8**11 - 1
_REGULAR = (b"0", b"\0", b"7")
_WITHOUT_BODY = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes: whatever their size says
_CHECKSUM = slice(148, 156)


def _by_tarfile(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, _MODE, 0
    return info.tobuf(tarfile.PAX_FORMAT)


_TEMPLATE = _by_tarfile("", 0)
_BEFORE_SIZE, _BEFORE_CHECKSUM, _AFTER_CHECKSUM = _TEMPLATE[100:124], _TEMPLATE[135:148], _TEMPLATE[156:]
_TEMPLATE_SUM = sum(_BEFORE_SIZE) + sum(_BEFORE_CHECKSUM) + sum(_AFTER_CHECKSUM) + 8 * ord(" ")


def tar_header(name: str, size: int) -> bytes:
    """The header of a plain file of `size` bytes: mode 644, no owner, no time. 512 bytes, or 1536 in PAX form."""
    if len(name) > _MAX_NAME_BYTES or size > _MAX_SIZE_BYTES or not name.isascii():
        return _by_tarfile(name, size)
    encoded, digits = name.encode("ascii"), b"%011o" % size
    checksum = b"%06o\0 " % (_TEMPLATE_SUM + sum(encoded) + sum(digits))
    return b"".join(
        (encoded.ljust(100, b"\0"), _BEFORE_SIZE, digits, _BEFORE_CHECKSUM, checksum, _AFTER_CHECKSUM)
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """One plain file of a tar: where its first header and its bytes begin; `data` only where it was asked for."""

    name: str
    start: int
    offset: int
    size: int
    data: bytes | None


class NotATar(UnreachableStorage):
    """A tar that is cut, damaged or none at all."""


def tar_members(file: IO[bytes], path: str, *, start: int = 0, with_data: bool) -> Iterator[Member]:
    """The plain files of a tar from the header at byte `start` on, in order; folders and links are passed over.

    `with_data` reads the bytes; without, they are sought over. Memory: one member. Raises NotATar, with the place,
    when a header is damaged or when the file ends before the block of zeros that ends a tar.
    """
    position, first = start, start
    named: dict[str, str] = {}  # what an extension header says about the member after it
    file.seek(start)
    while True:
        block = file.read(BLOCK_BYTES)
        if len(block) < BLOCK_BYTES:
            raise _not_whole(path, position, "it ends without its end mark")
        if not block[0] and not any(block):
            return
        kind, size = _kind_and_size(block, path, position)
        offset, body_bytes = position + BLOCK_BYTES, _padded(0 if kind in _WITHOUT_BODY else size)
        position = offset + body_bytes
        if kind in (b"x", b"L"):
            body = _read(file, body_bytes, path, offset)[:size]
            named |= _pax(body, path, offset) if kind == b"x" else {"path": _text(body)}
            continue
        if kind in _REGULAR:
            size = int(named.get("size", size))
            position = offset + _padded(size)
            data = _read(file, _padded(size), path, offset)[:size] if with_data else None
            yield Member(named.get("path") or _name(block), first, offset, size, data)
        if not with_data or kind not in _REGULAR:
            file.seek(position)
        named, first = {}, position


def _kind_and_size(block: bytes, path: str, position: int) -> tuple[bytes, int]:
    """Type flag and size of a header block whose checksum holds."""
    try:
        told, size = tarfile.nti(block[_CHECKSUM]), tarfile.nti(block[124:136])  # type: ignore[attr-defined]
    except tarfile.HeaderError as error:
        raise _not_whole(path, position, f"a header is damaged ({error})") from error
    if told != sum(block) - sum(block[_CHECKSUM]) + 8 * ord(" "):
        raise _not_whole(path, position, "a header's checksum is wrong")
    if size < 0 or block[156:157] == b"S":
        raise _not_whole(path, position, "it holds a sparse file or a negative size")
    return block[156:157], size


def _padded(size: int) -> int:
    return size + -size % BLOCK_BYTES


def _read(file: IO[bytes], size: int, path: str, position: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise _not_whole(path, position, f"it is cut: {size} bytes should follow, {len(data)} do")
    return data


def _name(block: bytes) -> str:
    name, prefix = _text(block[:100]), _text(block[345:500])
    return f"{prefix}/{name}" if prefix and block[257:263] == b"ustar\0" else name


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _pax(body: bytes, path: str, position: int) -> dict[str, str]:
    """The records of a PAX header, "length key=value\\n", lengths counting themselves."""
    found: dict[str, str] = {}
    while body:
        digits, _, _ = body.partition(b" ")
        if not digits.isdigit() or not 0 < int(digits) <= len(body):
            raise _not_whole(path, position, "a PAX header is damaged")
        key, _, value = body[len(digits) + 1 : int(digits) - 1].partition(b"=")
        found[_text(key)] = value.decode("utf-8", "surrogateescape")
        body = body[int(digits) :]
    return found


def _not_whole(path: str, position: int, why: str) -> NotATar:
    return NotATar(f"{path} is not a whole tar: at byte {position} {why}. Write or fetch it again.")
