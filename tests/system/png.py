"""Makes a screenshot small: a PNG of 8 bits a channel becomes one with a palette of 256 colours."""

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Final

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_ALIKE: Final = 48
"""Colours that are nearer than this, squared, share a place, so that rare colours find one."""
_CHANNELS: Final = {2: 3, 6: 4}


def smaller(png: bytes) -> bytes:
    """Return the picture with a palette; colours that have no place in it become the nearest that has, and none is clear."""
    width, height, channels, data = _read(png)
    pixels = [row[at : at + 3] for row in _rows(data, width, channels) for at in range(0, width * channels, channels)]
    counts = Counter(pixels)
    palette: list[bytes] = []
    index: dict[bytes, int] = {}
    for colour, _ in counts.most_common():
        distances = [sum((a - b) ** 2 for a, b in zip(colour, other, strict=True)) for other in palette]
        if len(palette) < 256 and min(distances, default=_ALIKE) >= _ALIKE:
            distances.append(0)
            palette.append(colour)
        index[colour] = distances.index(min(distances))
    numbers = bytes(index[colour] for colour in pixels)
    rows = b"".join(b"\0" + numbers[at : at + width] for at in range(0, width * height, width))
    return b"".join(
        (
            _SIGNATURE,
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", b"".join(palette)),
            _chunk(b"IDAT", zlib.compress(rows, 9)),
            _chunk(b"IEND", b""),
        )
    )


def _read(png: bytes) -> tuple[int, int, int, bytes]:
    """Return width, height, channels, and the filtered rows."""
    assert png.startswith(_SIGNATURE)
    at, header, packed = len(_SIGNATURE), b"", b""
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, content = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            header = content
        elif kind == b"IDAT":
            packed += content
        at += 12 + length
    width, height, depth, colours, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    assert (depth, interlaced) == (8, 0)
    return width, height, _CHANNELS[colours], zlib.decompress(packed)


def _rows(data: bytes, width: int, channels: int) -> Iterator[bytes]:
    """Undo the filters, row by row."""
    size = width * channels
    above = bytearray(size)
    for start in range(0, len(data), size + 1):
        kind, row = data[start], bytearray(data[start + 1 : start + 1 + size])
        for at in range(size if kind else 0):
            left, corner = (row[at - channels], above[at - channels]) if at >= channels else (0, 0)
            up = above[at]
            row[at] = (row[at] + (0, left, up, (left + up) // 2, _paeth(left, up, corner))[kind]) & 255
        yield bytes(row)
        above = row


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda each: abs(guess - each))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
