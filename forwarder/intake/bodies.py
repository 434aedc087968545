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

from aiohttp import HttpVersion11, web

from forwarder.settings import IntakeSettings
from forwarder.telemetry import Telemetry
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


class BodyReader:
    """Reads the bodies of one listener's requests."""

    def __init__(self, settings: IntakeSettings, telemetry: Telemetry) -> None:
        self._max_bytes = settings.max_body_bytes
        self._timeout_seconds = settings.body_timeout_seconds
        self._telemetry = telemetry

    async def read(self, request: web.BaseRequest) -> bytes:
        """Return the whole body, inflated, or raise `RefusedBodyError`."""
        inflater = _inflater_for(request) if "Content-Encoding" in request.headers else None
        if (request.content_length or 0) > self._max_bytes:
            raise RefusedBodyError("body_too_large")
        try:
            if request.content.is_eof():
                body = request.content.read_nowait()
                if len(body) > self._max_bytes:
                    raise RefusedBodyError("body_too_large")
            else:
                body = await self._read_slowly(request)
        except (web.RequestPayloadError, ConnectionError):
            raise RefusedBodyError("malformed_body") from None
        except RuntimeError:
            if request.protocol.connected:
                raise
            raise RefusedBodyError("malformed_body") from None  # the client left before anybody waited for more
        return body if inflater is None else await self._inflate(body, inflater)

    async def _read_slowly(self, request: web.BaseRequest) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await _invite(request)
                while chunk := await request.content.readany():
                    body += chunk
                    if len(body) > self._max_bytes:
                        raise RefusedBodyError("body_too_large")
        except TimeoutError:
            self._telemetry.connection_closed("body_timeout")
            raise RefusedBodyError("too_slow") from None
        return bytes(body)

    async def _inflate(self, body: bytes, new_inflater: Callable[[bytes], _Inflater]) -> bytes:
        """Inflate all members, each to its end, and stop when there is too much."""
        inflated = bytearray()
        rest = memoryview(body)
        turn_bytes = 0
        try:
            for _ in range(_MAX_MEMBERS):
                inflater = new_inflater(body)
                while not inflater.eof and rest:
                    window = rest[:_WINDOW_BYTES]
                    part = inflater.decompress(window, self._max_bytes - len(inflated) + 1)
                    inflated += part
                    if len(inflated) > self._max_bytes:
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


def _inflater_for(request: web.BaseRequest) -> Callable[[bytes], _Inflater] | None:
    encoding = ",".join(request.headers.getall("Content-Encoding")).lower()
    if encoding in {"", "identity"}:
        return None
    if encoding not in _INFLATERS:
        raise RefusedBodyError("unsupported_encoding")
    return _INFLATERS[encoding]


async def _invite(request: web.BaseRequest) -> None:
    """Tell a client that waits for leave that it may send its body, as curl does with a large one."""
    if request.version == HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer proper has not begun
