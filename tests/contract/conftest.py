"""Every kind of Buffer there is, behind one way to open it; the contract tests run once for each kind.

A new kind is one more entry in `KINDS`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from forwarder.buffer.base import Buffer
from forwarder.buffer.memory import MemoryBuffer
from forwarder.settings import BufferSettings
from forwarder.telemetry import Telemetry


@dataclass(frozen=True)
class Kind:
    """One kind of buffer."""

    name: str
    open: Callable[[BufferSettings, Telemetry, Path], Awaitable[Buffer]]
    """Opens the buffer that is kept in the directory, with the running loop's clock."""
    outlives_close: bool
    """Whether what it holds is there again when it is opened anew; if not, close drops it."""


async def _open_memory(settings: BufferSettings, telemetry: Telemetry, _: Path) -> Buffer:
    return MemoryBuffer(settings, telemetry=telemetry, clock=asyncio.get_running_loop().time)


KINDS = (Kind("memory", _open_memory, outlives_close=False),)


class OpenBuffer(Protocol):
    """Opens the buffer of this test, anew if it was open before; by default with room for everything."""

    async def __call__(self, *, max_events: int = 1000, max_bytes: int = 1_000_000) -> Buffer: ...


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture
async def open_buffer(kind: Kind, telemetry: Telemetry, tmp_path: Path) -> AsyncIterator[OpenBuffer]:
    opened: list[Buffer] = []

    async def open_one(*, max_events: int = 1000, max_bytes: int = 1_000_000) -> Buffer:
        settings = BufferSettings(max_events=max_events, max_bytes=max_bytes)
        opened.append(await kind.open(settings, telemetry, tmp_path))
        return opened[-1]

    yield open_one
    for buffer in opened:
        await buffer.close()
        await buffer.close()
        assert buffer.ledger().unaccounted == 0, "the ledger of every test balances after the close"


@pytest.fixture
async def buffer(open_buffer: OpenBuffer) -> Buffer:
    """A buffer with room for all that a test puts."""
    return await open_buffer()
