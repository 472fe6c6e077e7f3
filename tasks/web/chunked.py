"""The chunked coding of HTTP/1.1 (RFC 9112, section 7.1), a read at a time, however the reads cut it."""

import re
from enum import Enum, auto

from tasks.web.http import MAX_HEADER_BYTES, MAX_HEADERS, NotHttp

_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")
_MAX_LINE = 1024 + MAX_HEADER_BYTES


class _Awaits(Enum):
    SIZE = auto()
    DATA = auto()
    END_OF_DATA = auto()
    TRAILER = auto()


class ChunkedBody:
    """One body. A read costs time in its length and leaves one piece, however small its chunks are.

    `rest` is true once the body has ended and bytes stood behind it.
    """

    def __init__(self) -> None:
        self._awaits = _Awaits.SIZE
        self._left, self._trailers = 0, 0
        self._line = b""  # begun, not ended
        self.finished = self.rest = False

    def decode(self, data: bytes) -> bytes:
        """What the next bytes hold of the body. Raises NotHttp for what is no chunked coding, or beyond our bounds."""
        data, self._line = self._line + data, b""
        pieces: list[bytes] = []
        at = 0
        while at < len(data) and not self.finished:
            if self._awaits is _Awaits.DATA:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._awaits = _Awaits.END_OF_DATA
                continue
            newline = data.find(b"\n", at)
            if (len(data) if newline < 0 else newline) - at > _MAX_LINE:
                raise NotHttp("a line of the chunked coding is too long")
            if newline < 0:
                self._line = data[at:]
                break
            self._take_line(data[at:newline].removesuffix(b"\r"))
            at = newline + 1
        self.rest = self.finished and at < len(data)
        return b"".join(pieces)

    def _take_line(self, line: bytes) -> None:
        if self._awaits is _Awaits.SIZE:
            size = _SIZE.fullmatch(line)
            if size is None:
                raise NotHttp(f"chunk size {line[:20]!r}")
            self._left = int(size[1], 16)
            self._awaits = _Awaits.DATA if self._left else _Awaits.TRAILER
        elif self._awaits is _Awaits.END_OF_DATA:
            if line:
                raise NotHttp("a chunk is longer than its size says")
            self._awaits = _Awaits.SIZE
        elif line:
            self._trailers += 1
            if self._trailers > MAX_HEADERS:
                raise NotHttp(f"more than {MAX_HEADERS} trailers")
        else:
            self.finished = True
