"""The bodies of requests: inflated up to a size, as their Content-Encoding says. Pure, but others get their turns.

A stream that is cut short is noticed: its events would be taken as if they were all.
"""

import asyncio
import zlib
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, Protocol

from forwarder.words import SharedCode

_WINDOW_BYTES: Final = 4096
"""How much is inflated at a time, as the rest is copied whenever a member ends."""
_BYTES_PER_TURN: Final = 1 << 18
"""How much comes of it before others get a turn of the event loop."""
_MAX_MEMBERS: Final = 1000
"""Streams that may follow one another in one body, as of files that were compressed apart."""
_MAX_ZSTD_WINDOW_LOG: Final = 23
"""8 MiB, as RFC 9659 has it; so much memory a frame may ask for."""


class RefusedBodyError(Exception):
    """The body cannot be had; `code` says why."""

    def __init__(self, code: SharedCode) -> None:
        super().__init__(code)
        self.code = code


class Inflating(Protocol):
    """Inflates one member, at most `max_length` bytes of it, which is never reached twice."""

    def decompress(self, data: memoryview, max_length: int, /) -> bytes: ...

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...


Inflater = Callable[[bytes], Inflating]
"""Starts on a member of a compressed body, of which it is given all."""


def _of_gzip(_: bytes) -> Inflating:
    return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)


def _of_deflate(body: bytes) -> Inflating:
    # Some send it without the zlib header that RFC 9110, section 8.4.1.2 demands.
    return zlib.decompressobj(wbits=zlib.MAX_WBITS if body[:1] and body[0] & 0xF == 8 else -zlib.MAX_WBITS)


_INFLATERS: dict[str, Inflater] = {"gzip": _of_gzip, "deflate": _of_deflate}
_BROKEN: tuple[type[Exception], ...] = (zlib.error,)
"""What inflaters raise."""


def _zstd() -> Any:
    """Return the library for it, or None: it is part of Python from 3.14 on."""
    for name in ("compression.zstd", "backports.zstd"):
        with suppress(ImportError):
            return import_module(name)
    return None


if library := _zstd():
    _ZSTD_OPTIONS: Final = {library.DecompressionParameter.window_log_max: _MAX_ZSTD_WINDOW_LOG}
    _INFLATERS["zstd"] = lambda _: library.ZstdDecompressor(options=_ZSTD_OPTIONS)
    _BROKEN += (library.ZstdError,)

ENCODINGS: Final = tuple(_INFLATERS)
"""What is understood here as Content-Encoding, and that is said; other names of them are understood, too."""
_INFLATERS["x-gzip"] = _of_gzip  # RFC 9110, section 8.4.1.3


def inflater_for(content_encoding: str | None) -> Inflater | None:
    """Return what inflates a body with this Content-Encoding; None if it is not compressed.

    Several headers are joined by commas. Raises RefusedBodyError if the encoding is unknown, or more than one.
    """
    if content_encoding is None:
        return None
    names = [
        name for each in content_encoding.lower().split(",") if (name := each.strip(" \t")) not in {"", "identity"}
    ]
    if not names:
        return None
    if len(names) > 1 or names[0] not in _INFLATERS:
        raise RefusedBodyError("unsupported_encoding")
    return _INFLATERS[names[0]]


async def inflate(body: bytes, inflater: Inflater, *, max_bytes: int) -> bytes:
    """Inflate all members of a body, each to its end.

    Raises RefusedBodyError if a member is broken or cut short, or if that is more than `max_bytes`.
    """
    inflated = bytearray()
    rest = memoryview(body)
    turn_bytes = 0
    try:
        for _ in range(_MAX_MEMBERS):
            member = inflater(body)
            while not member.eof and rest:
                window = rest[:_WINDOW_BYTES]
                part = member.decompress(window, max_bytes - len(inflated) + 1)
                inflated += part
                if len(inflated) > max_bytes:
                    raise RefusedBodyError("body_too_large")
                rest = rest[len(window) - len(member.unused_data) :]
                turn_bytes += len(part)
                if turn_bytes > _BYTES_PER_TURN:
                    turn_bytes = 0
                    await asyncio.sleep(0)
            if not member.eof:
                break
            if not rest:
                return bytes(inflated)
    except _BROKEN:
        pass
    raise RefusedBodyError("malformed_body")
