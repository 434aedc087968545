"""Reads a file or a pipe piece by piece, and inflates it if it is gzip. `event_files` is its only user.

gzip is known by its first bytes, so neither a name nor an option says so. A file may be put together of several gzip files.
Nothing more than a piece is inflated at a time, whatever the file would become.
"""

import zlib
from typing import BinaryIO, Final

PIECE_BYTES: Final = 256 * 1024

_GZIP: Final = b"\x1f\x8b"
_OTHERS: Final = {
    b"\x28\xb5\x2f\xfd": "it is compressed with zstd; inflate it first: `zstd -dc FILE | growlytics-forwarder … -`",
    b"BZh": "it is compressed with bzip2; inflate it first: `bzip2 -dc FILE | growlytics-forwarder … -`",
    b"\xfd7zXZ\x00": "it is compressed with xz; inflate it first: `xz -dc FILE | growlytics-forwarder … -`",
    b"PK\x03\x04": "it is a zip archive; unpack it first",
    b"\xff\xfe": "it is UTF-16; save it as UTF-8",
    b"\xfe\xff": "it is UTF-16; save it as UTF-8",
}
_MAX_MAGIC_BYTES: Final = max(map(len, _OTHERS))
_TAR: Final = b"ustar"
_TAR_AT: Final = 257
"""Where a tar archive says what it is, also inside gzip; before that is the first file's name, with zeros."""
_GZIP_WITH_HEADER: Final = 16 + zlib.MAX_WBITS


class UnusableFileError(Exception):
    """What was read so far is fine, and what follows cannot be used. The message says why."""


class Source:
    """The content of a file, inflated if need be."""

    def __init__(self, file: BinaryIO) -> None:
        self.read_bytes = 0
        """How much of the file was read."""
        self._file = file
        self._inflater: zlib._Decompress | None = None
        self._rest = b""
        """What was read and is not used yet."""
        self._is_begun = False

    @property
    def is_inflated(self) -> bool:
        """Whether it is gzip, once something was read."""
        return self._inflater is not None

    def read(self) -> bytes:
        """Return at least a byte and at most a piece, as soon as there is any; nothing at the end.

        Raises OSError or UnusableFileError.
        """
        if self._is_begun:
            return self._next()
        self._is_begun = True
        self._begin()
        piece = self._next()
        if piece[_TAR_AT:].startswith(_TAR) and b"\0" in piece[:_TAR_AT]:  # JSON has no NUL
            raise UnusableFileError(
                "it is a tar archive, of several files; name the one to read: "
                "`tar -xOf FILE NAME | growlytics-forwarder … -`"
            )
        return piece

    def _next(self) -> bytes:
        if self._inflater is not None:
            return self._inflated()
        piece, self._rest = self._rest or self._raw(), b""
        return piece

    def _begin(self) -> None:
        """Look at the first bytes. Of what cannot be compressed only one is waited for, as a pipe may be slow."""
        while len(self._rest) < _MAX_MAGIC_BYTES and (
            not self._rest or any(each.startswith(self._rest) for each in (_GZIP, *_OTHERS))
        ):
            if not (piece := self._raw()):
                break
            self._rest += piece
        for magic, why in _OTHERS.items():
            if self._rest.startswith(magic):
                raise UnusableFileError(why)
        if self._rest.startswith(_GZIP):
            self._inflater = zlib.decompressobj(_GZIP_WITH_HEADER)

    def _inflated(self) -> bytes:
        assert self._inflater is not None, "only called for gzip"
        while True:
            try:
                piece = self._inflater.decompress(self._rest, PIECE_BYTES)
            except zlib.error as error:
                raise UnusableFileError(f"its gzip data is damaged ({error})") from None
            self._rest = self._inflater.unconsumed_tail
            if piece:
                return piece
            if self._inflater.eof:
                if not self._has_another():
                    return b""
            else:
                self._rest = self._rest or self._raw()
                if not self._rest:
                    raise UnusableFileError("its gzip data has no end: the file was cut off")

    def _has_another(self) -> bool:
        """Begin with the gzip file that follows, if one does. Zeros, which tapes put there, are passed over."""
        assert self._inflater is not None, "only called for gzip"
        rest = self._inflater.unused_data.lstrip(b"\0")
        while len(rest) < len(_GZIP) and (piece := self._raw()):
            rest = (rest + piece).lstrip(b"\0")
        if not rest:
            return False
        if not rest.startswith(_GZIP):
            raise UnusableFileError("its gzip data is followed by something else")
        self._rest = rest
        self._inflater = zlib.decompressobj(_GZIP_WITH_HEADER)
        return True

    def _raw(self) -> bytes:
        piece = self._file.read1(PIECE_BYTES)  # type: ignore[attr-defined]  # whatever `open_file` opens has it
        self.read_bytes += len(piece)
        return bytes(piece)
