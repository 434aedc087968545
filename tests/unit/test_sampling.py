"""Forecasts and history are as if somebody looked at the buffer all the time, also while nobody does as nothing changes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from math import inf

import pytest

from forwarder.buffer.base import Ledger, Stored
from forwarder.buffer.fates import DeadLettered, Fate, HandedOver
from forwarder.buffer.memory import MemoryBuffer
from forwarder.observing.telemetry import Telemetry
from forwarder.sampling import Forecast, Sample, Sampling
from forwarder.settings import BufferSettings
from tests.fakes.buffers import memory_buffer
from tests.fakes.events import EventMaker
from tests.fakes.virtual_time import in_virtual_time, now

HOUR = 3600.0


class LookedAt:
    """A buffer's occupancy and ledger, and how often somebody looked."""

    def __init__(self, inner: MemoryBuffer) -> None:
        self.inner = inner
        self.looks = 0
        self.occupancy = inner.occupancy

    def ledger(self) -> Ledger:
        self.looks += 1
        return self.inner.ledger()


@dataclass
class Sampled:
    """A buffer that is sampled."""

    sampling: Sampling
    telemetry: Telemetry
    buffer: MemoryBuffer
    looked_at: LookedAt
    make: EventMaker

    async def put(self, number: int) -> None:
        assert await self.buffer.put([self.make() for _ in range(number)], intake="http") == Stored()

    async def deliver(self, number: int) -> None:
        events = await self.buffer.take(max_events=number, max_bytes=10**9)
        await self.buffer.ack([(event, HandedOver()) for event in events])

    def rates(self, name: str) -> list[float]:
        rates = self.sampling.history.described()[name]
        assert isinstance(rates, list)
        return rates


@asynccontextmanager
async def sampled() -> AsyncIterator[Sampled]:
    telemetry = Telemetry(clock=now)
    settings = BufferSettings()
    buffer = memory_buffer(telemetry, now, settings)
    looked_at = LookedAt(buffer)
    sampling = Sampling(settings, buffer=looked_at, telemetry=telemetry, clock=now)  # type: ignore[arg-type] # a part
    serving = asyncio.create_task(sampling.serve())
    await asyncio.sleep(0)
    yield Sampled(sampling, telemetry, buffer, looked_at, EventMaker())
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving


@in_virtual_time
async def test_a_buffer_to_which_nothing_happens_is_not_looked_at() -> None:
    async with sampled() as system:
        await system.put(100)
        await asyncio.sleep(30)
        looks = system.looked_at.looks
        await asyncio.sleep(24 * HOUR)
        assert system.looked_at.looks == looks


@in_virtual_time
async def test_a_buffer_to_which_something_happens_is_looked_at_every_two_seconds() -> None:
    async with sampled() as system:
        await asyncio.sleep(HOUR)
        looks = system.looked_at.looks
        for _ in range(600):
            await system.put(1)
            await asyncio.sleep(0.1)
        assert 28 <= system.looked_at.looks - looks <= 32


@in_virtual_time
async def test_who_asks_after_an_hour_without_events_sees_five_minutes_without_events() -> None:
    async with sampled() as system:
        for _ in range(60):
            await system.put(50)
            await asyncio.sleep(1)
        assert system.rates("accepted")[-1] == pytest.approx(50, rel=0.1)
        assert system.sampling.forecast.in_per_second == pytest.approx(50, rel=0.1)
        await asyncio.sleep(HOUR)
        assert system.rates("accepted") == [0] * 60
        assert system.rates("buffered") == [3000] * 60
        assert system.sampling.forecast.in_per_second < 1e-9
        assert system.sampling.forecast.full_seconds == inf


@in_virtual_time
async def test_events_that_come_after_an_hour_without_any_are_not_spread_over_that_hour() -> None:
    async with sampled() as system:
        await asyncio.sleep(HOUR)
        await system.put(1000)
        await asyncio.sleep(20)
        burst = system.rates("accepted")
        assert burst[:-5] == [0] * (len(burst) - 5)
        assert sum(burst) * 5 == pytest.approx(1000, rel=0.5)
        assert max(burst) >= 100
        await asyncio.sleep(HOUR)
        await system.deliver(1000)
        await asyncio.sleep(20)
        assert max(system.rates("delivered")) >= 100
        assert system.rates("delivered")[:-5] == [0] * (len(system.rates("delivered")) - 5)
        assert system.rates("buffered")[-1] == 0


@in_virtual_time
async def test_the_last_events_before_an_hour_without_any_are_in_the_history_at_once() -> None:
    async with sampled() as system:
        await asyncio.sleep(HOUR)
        await system.put(500)
        system.telemetry.events_refused(400, intake="http", reason="empty")
        await asyncio.sleep(60)
        for name, number in (("accepted", 500), ("refused", 400)):
            assert sum(system.rates(name)) * 5 == pytest.approx(number, rel=0.5)
            assert system.rates(name)[-1] == 0


@in_virtual_time
async def test_rates_decay_without_looks_as_they_would_with_looks() -> None:
    async with sampled() as system:
        oracle = Forecast(max_events=BufferSettings().max_events, max_bytes=BufferSettings().max_bytes)
        for second in range(200):
            if second < 100:
                await system.put(20)
            if second % 2 == 0:
                occupancy = system.buffer.occupancy()
                oracle.add(Sample(now(), occupancy.events, occupancy.bytes, system.buffer.ledger().accepted))
            await asyncio.sleep(1)
        forecast = system.sampling.forecast
        assert forecast.in_per_second == pytest.approx(oracle.in_per_second, rel=0.1)
        assert forecast.full_seconds == pytest.approx(oracle.full_seconds, rel=0.1)


@in_virtual_time
async def test_the_line_of_a_hold_that_was_left_out_is_written_although_nothing_else_happens(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with sampled() as system:
        await asyncio.sleep(HOUR)
        for _ in range(2):
            system.telemetry.hold_started("auth", probe_in_seconds=1.0)
            system.telemetry.hold_ended("auth", seconds=0.5)
        system.telemetry.hold_started("auth", probe_in_seconds=60.0)
        lines = len(caplog.records)
        await asyncio.sleep(15)
        assert len(caplog.records) == lines + 1


@in_virtual_time
async def test_every_way_out_of_the_buffer_wakes_who_sleeps() -> None:
    async with sampled() as system:
        await system.put(3)
        fates: list[Fate] = [HandedOver(), DeadLettered("expired", None, b"", 1, 1.0, 1.0)]
        for number, fate in enumerate(fates, 1):
            await asyncio.sleep(HOUR)
            (event,) = await system.buffer.take(max_events=1, max_bytes=10**9)
            await system.buffer.ack([(event, fate)])
            await asyncio.sleep(10)
            assert system.rates("buffered")[-1] == 3 - number
        await asyncio.sleep(HOUR)
        system.telemetry.events_dropped(1, reason="corrupt")
        looks = system.looked_at.looks
        await asyncio.sleep(3)
        assert system.looked_at.looks > looks
