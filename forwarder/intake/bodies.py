"""The bodies of requests: read within a deadline, and inflated up to a size.

They are inflated here rather than by aiohttp, which does not notice a gzip stream that is cut short: its events would be
taken as if they were all.
"""

import asyncio
import zlib
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, Protocol

from forwarder.http.messages import Request
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


class _Inflater(Protocol):
    """Inflates one member, at most `max_length` bytes of it, which is never reached twice."""

    def decompress(self, data: memoryview, max_length: int, /) -> bytes: ...

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...


def _of_gzip(_: bytes) -> _Inflater:
    return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)


def _of_deflate(body: bytes) -> _Inflater:
    # Some send it without the zlib header that RFC 9110, section 8.4.1.2 demands.
    return zlib.decompressobj(wbits=zlib.MAX_WBITS if body[:1] and body[0] & 0xF == 8 else -zlib.MAX_WBITS)


_INFLATERS: dict[str, Callable[[bytes], _Inflater]] = {"gzip": _of_gzip, "deflate": _of_deflate}
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
"""What is understood here as Content-Encoding."""


def inflater_for(encoding: str | None) -> Callable[[bytes], _Inflater] | None:
    """Return what inflates a body of this Content-Encoding, or None."""
    if encoding is None or encoding.lower() in {"", "identity"}:
        return None
    if encoding.lower() not in _INFLATERS:
        raise RefusedBodyError("unsupported_encoding")
    return _INFLATERS[encoding.lower()]


async def inflated(request: Request, *, max_bytes: int) -> bytes:
    """Return a request's body as it was before it was compressed. Raises RefusedBodyError."""
    inflater = inflater_for(request.headers.get("content-encoding"))
    return request.body if inflater is None else await inflate(request.body, inflater, max_bytes=max_bytes)


async def inflate(body: bytes, new_inflater: Callable[[bytes], _Inflater], *, max_bytes: int) -> bytes:
    """Inflate all members, each to its end, and stop when there is too much."""
    inflated = bytearray()
    rest = memoryview(body)
    turn_bytes = 0
    try:
        for _ in range(_MAX_MEMBERS):
            inflater = new_inflater(body)
            while not inflater.eof and rest:
                window = rest[:_WINDOW_BYTES]
                part = inflater.decompress(window, max_bytes - len(inflated) + 1)
                inflated += part
                if len(inflated) > max_bytes:
                    raise RefusedBodyError("body_too_large")
                rest = rest[len(window) - len(inflater.unused_data) :]
                turn_bytes += len(part)
                if turn_bytes > _BYTES_PER_TURN:
                    turn_bytes = 0
                    await asyncio.sleep(0)
            if not inflater.eof:
                break
            if not rest:
                return bytes(inflated)
    except _BROKEN:
        pass
    raise RefusedBodyError("malformed_body")
