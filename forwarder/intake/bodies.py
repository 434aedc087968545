"""The bodies of requests: inflated, each up to a size, while all that are parsed at the same time stay within a budget.

Whoever parses a body reserves its bytes first, first come, first served, and keeps them until the request is answered, as
its events exist until then. A compressed body reserves the most that it may become until it is inflated. Small bodies that
are not compressed reserve nothing, so single events never wait for batches.

Invariants: no more than `max_bytes` are reserved; nobody is overtaken; a wait is bounded; a request releases what it
reserved however it ends. A stream that is cut short is refused: what is left of it could look like a complete batch.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from typing import Any, Final, Protocol, Self

from forwarder.words import SharedCode

EXEMPT_BYTES: Final = 64 * 1024
"""A shorter body that is not compressed reserves nothing."""
WAIT_SECONDS: Final = 1.0
"""How long a request may wait for others before it is refused."""
_WINDOW_BYTES: Final = 4096
"""How much is inflated at a time: what follows a member is copied whenever that ends."""
_BYTES_PER_TURN: Final = 1 << 18
"""How much is inflated before others get a turn of the event loop."""
_MAX_MEMBERS: Final = 1000
"""How many streams may follow one another in one body, such as files that were compressed one by one."""
_MAX_ZSTD_WINDOW_LOG: Final = 23
"""A zstd frame may ask for 8 MiB of memory, the limit of RFC 9659."""


class RefusedBodyError(Exception):
    """The body cannot be read; `code` says why."""

    def __init__(self, code: SharedCode) -> None:
        super().__init__(code)
        self.code = code


class Inflating(Protocol):
    """Inflates one member, at most `max_length` bytes at a time."""

    def decompress(self, data: memoryview, max_length: int, /) -> bytes: ...

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...


Inflater = Callable[[bytes], Inflating]
"""Prepares to inflate one member of a compressed body. Its argument is the whole body."""


def _of_gzip(_: bytes) -> Inflating:
    return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)


def _of_deflate(body: bytes) -> Inflating:
    # Some clients leave out the zlib header that RFC 9110, section 8.4.1.2 demands.
    return zlib.decompressobj(wbits=zlib.MAX_WBITS if body[:1] and body[0] & 0xF == 8 else -zlib.MAX_WBITS)


_INFLATERS: dict[str, Inflater] = {"gzip": _of_gzip, "deflate": _of_deflate}
_BROKEN: tuple[type[Exception], ...] = (zlib.error,)
"""What inflaters raise."""


def _zstd() -> Any:
    """Return the library for zstd, which Python has from 3.14 on; None if there is none."""
    for name in ("compression.zstd", "backports.zstd"):
        with suppress(ImportError):
            return import_module(name)
    return None


if library := _zstd():
    _ZSTD_OPTIONS: Final = {library.DecompressionParameter.window_log_max: _MAX_ZSTD_WINDOW_LOG}
    _INFLATERS["zstd"] = lambda _: library.ZstdDecompressor(options=_ZSTD_OPTIONS)
    _BROKEN += (library.ZstdError,)

ENCODINGS: Final = tuple(_INFLATERS)
"""The values of Content-Encoding that error messages suggest."""
_INFLATERS["x-gzip"] = _of_gzip  # RFC 9110, section 8.4.1.3: the same as gzip


def inflater_for(content_encoding: str | None) -> Inflater | None:
    """Return what inflates a body with this Content-Encoding; None if the body is not compressed.

    Several headers are joined by commas. Raise RefusedBodyError if the encoding is unknown, or more than one.
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
    """Return a body with all its members inflated.

    Raise RefusedBodyError if a member is broken or cut short, or if the result exceeds `max_bytes`.
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


class ParsingBudget:
    """The bytes that all requests of the process may have in parsing at the same time. Used on one event loop."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._first = asyncio.Lock()
        """Held by the request that is next but has no room yet. The others wait for it in their order."""
        self._returned = asyncio.Event()
        """Set when there may be room for that request."""
        self.reserved_bytes = 0

    async def reserve(self, size_bytes: int) -> "Reservation":
        """Wait until there is room, and reserve so many bytes, or the whole budget if that is smaller.

        Raise RefusedBodyError, code `busy`, if there is no room for WAIT_SECONDS.
        """
        size_bytes = min(size_bytes, self._max_bytes)
        try:
            async with asyncio.timeout(WAIT_SECONDS), self._first:
                while self.reserved_bytes + size_bytes > self._max_bytes:
                    self._returned.clear()
                    await self._returned.wait()
                self.reserved_bytes += size_bytes
        except TimeoutError:
            raise RefusedBodyError("busy") from None
        return Reservation(self, size_bytes)

    def release(self, size_bytes: int) -> None:
        """Make bytes free that were reserved."""
        self.reserved_bytes -= size_bytes
        self._returned.set()


class Reservation:
    """Bytes of the budget, held until `release` or the end of its block."""

    __slots__ = ("_budget", "_size_bytes")

    def __init__(self, budget: ParsingBudget, size_bytes: int) -> None:
        self._budget = budget
        self._size_bytes = size_bytes

    def shrink(self, size_bytes: int) -> None:
        """Hold no more than so many bytes from now on."""
        surplus = self._size_bytes - size_bytes
        if surplus > 0:
            self._size_bytes = size_bytes
            self._budget.release(surplus)

    def release(self) -> None:
        """Hold nothing any more. May be called again."""
        self.shrink(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@asynccontextmanager
async def unpacked(
    body: bytes, inflater: Inflater | None, *, max_bytes: int, budget: ParsingBudget
) -> AsyncIterator[bytes]:
    """Return a body, inflated if it is compressed, at most `max_bytes`; it holds its share of the budget during the block.

    Raise RefusedBodyError.
    """
    if inflater is None and len(body) < EXEMPT_BYTES:
        yield body
        return
    with await budget.reserve(len(body) if inflater is None else max_bytes) as reservation:
        if inflater is not None:
            body = await inflate(body, inflater, max_bytes=max_bytes)
            reservation.shrink(len(body))
        yield body
