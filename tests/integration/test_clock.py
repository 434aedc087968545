"""The whole app under a wall clock that is set while it runs: nothing gets old by it, and nothing is forgotten."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from forwarder.app import App
from forwarder.sandbox.faults import Faults
from forwarder.sandbox.server import Sandbox
from forwarder.settings import (
    Address,
    AdminSettings,
    BufferSettings,
    DeliverySettings,
    GrowlyticsSettings,
    IntakeSettings,
    Secret,
    Settings,
    ShutdownSettings,
)

KEY = "integration-test-key"
NOT_SET = 100.0
NOW = 1_800_000_000.0
DAY = 86_400.0


class Clock:
    """Two clocks that stand still until a test moves them; `jump` moves the wall clock alone."""

    def __init__(self, wall: float) -> None:
        self._wall = wall
        self._steady = 1000.0

    def wall(self) -> float:
        return self._wall

    def steady(self) -> float:
        return self._steady

    def jump(self, wall: float) -> None:
        self._wall = wall

    def pass_(self, seconds: float) -> None:
        self._wall += seconds
        self._steady += seconds


@asynccontextmanager
async def running(directory: Path, sandbox: Sandbox, clock: Clock) -> AsyncIterator[App]:
    app = App(
        Settings(
            growlytics=GrowlyticsSettings(url=sandbox.url, api_key=Secret(KEY)),
            intake=IntakeSettings(http=Address("127.0.0.1", 0)),
            buffer=BufferSettings(directory=str(directory)),
            admin=AdminSettings(http=Address("127.0.0.1", 0)),
            delivery=DeliverySettings(
                retry_initial_seconds=0.01, retry_max_seconds=0.05, breaker_failures=100_000, max_age_seconds=DAY
            ),
            shutdown=ShutdownSettings(drain_seconds=0),
        ),
        wall=clock.wall,
        steady=clock.steady,
    )
    await app.open()
    serving = asyncio.create_task(app.serve())
    try:
        yield app
        app.stop.set()
        await serving
    finally:
        serving.cancel()
        await app.close()


@asynccontextmanager
async def far_side(**faults: Any) -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(key=KEY, faults=Faults(**faults))
    await sandbox.open()
    try:
        yield sandbox
    finally:
        await sandbox.close()


async def post(app: App, customer: str = "c", key: str | None = None) -> None:
    event = {"name": "Buy", "customerId": customer, "time": 1_700_000_000_000, "attributes": {}}
    url = f"http://{app.addresses['http']}/track/event"
    async with (
        aiohttp.ClientSession() as http,
        http.post(url, json=event, headers={"Idempotency-Key": key} if key else {}) as response,
    ):
        assert response.status == 200, await response.text()


async def metric(app: App, name: str) -> float:
    async with aiohttp.ClientSession() as http, http.get(f"http://{app.addresses['admin']}/metrics") as response:
        rows = dict(line.rsplit(" ", 1) for line in (await response.text()).splitlines() if not line.startswith("#"))
    return float(rows[f"growlytics_forwarder_{name}"])


def status(app: App) -> Any:
    return app.status()


async def tried_again(app: App, times: int = 5) -> None:
    """Wait for some failed attempts that began from now on."""
    before = status(app)["delivery"]["attempts"]["retryable"]
    async with asyncio.timeout(30):
        while status(app)["delivery"]["attempts"]["retryable"] < before + times and app.buffer.occupancy().events:
            await asyncio.sleep(0.005)


async def delivered(app: App, count: int) -> None:
    async with asyncio.timeout(30):
        while app.buffer.ledger().delivered < count:
            await asyncio.sleep(0.005)


async def test_the_age_of_the_oldest_event_and_the_latency_do_not_jump_with_the_clock(tmp_path: Path) -> None:
    clock = Clock(NOT_SET)
    async with far_side(fail_rate=1, fail_status=503) as sandbox, running(tmp_path, sandbox, clock) as app:
        await post(app)
        clock.pass_(30)
        clock.jump(NOW)
        assert await metric(app, "buffer_oldest_event_age_seconds") == 30
        assert status(app)["buffer"]["oldest_event_age_seconds"] == 30
        sandbox.faults = Faults()
        await delivered(app, 1)
        assert await metric(app, "delivery_latency_seconds_sum") == 30
        assert await metric(app, "last_delivery_timestamp_seconds") == NOW


async def test_an_app_s_key_is_remembered_across_jumps_of_the_clock_and_across_a_restart_with_the_right_one(
    tmp_path: Path,
) -> None:
    clock = Clock(NOT_SET)
    async with far_side() as sandbox:
        async with running(tmp_path, sandbox, clock) as app:
            await post(app, key="order-1")
            clock.jump(NOW)
            await post(app, key="order-1")
            clock.jump(NOT_SET)
            await post(app, key="order-1")
            await post(app, key="order-2")
            await delivered(app, 2)
        clock.jump(NOW)
        async with running(tmp_path, sandbox, clock) as app:
            await post(app, key="order-1")
            await post(app, key="order-2")
            clock.pass_(3601)
            await post(app, key="order-3")  # whoever remembers forgets what is old
            await post(app, key="order-1")
            await delivered(app, 4)
            assert app.buffer.ledger().duplicates == 4


async def test_events_accepted_before_the_clock_was_set_outlive_failed_attempts_and_are_delivered(
    tmp_path: Path,
) -> None:
    clock = Clock(NOT_SET)
    async with far_side(fail_rate=1, fail_status=503) as sandbox, running(tmp_path, sandbox, clock) as app:
        for number in range(5):
            await post(app, f"c{number}")
        clock.jump(NOW)
        await tried_again(app, 20)
        clock.jump(NOW - 30 * DAY)
        await tried_again(app, 20)
        clock.jump(NOW + 30 * DAY)
        await tried_again(app, 20)
        assert app.buffer.dead_letters.events == 0
        sandbox.faults = Faults()
        await delivered(app, 5)
        assert app.buffer.ledger().unaccounted == 0


async def test_events_accepted_before_the_clock_was_set_outlive_a_restart_too(tmp_path: Path) -> None:
    clock = Clock(NOT_SET)
    async with far_side(fail_rate=1, fail_status=503) as sandbox:
        async with running(tmp_path, sandbox, clock) as app:
            await post(app, "before")
            clock.jump(NOW)
            await post(app, "after")
        clock.jump(NOT_SET)  # the machine starts anew, and its clock is not set again
        async with running(tmp_path, sandbox, clock) as app:
            await tried_again(app, 10)
            clock.jump(NOW + 60)
            await tried_again(app, 10)
            assert app.buffer.dead_letters.events == 0
            sandbox.faults = Faults()
            await delivered(app, 2)


async def test_an_event_that_is_really_old_expires_as_before_also_across_a_restart(tmp_path: Path) -> None:
    clock = Clock(NOW)
    async with far_side(fail_rate=1, fail_status=503) as sandbox:
        async with running(tmp_path, sandbox, clock) as app:
            await post(app, "old")
            clock.pass_(DAY / 2)
            await post(app, "young")
            clock.pass_(DAY / 2 - 60)
            await tried_again(app, 10)
            assert app.buffer.dead_letters.events == 0
        clock.pass_(60)
        async with running(tmp_path, sandbox, clock) as app:
            async with asyncio.timeout(30):
                while app.buffer.ledger().dead_lettered.get("expired", 0) < 1:
                    await asyncio.sleep(0.005)
            await tried_again(app, 10)
            assert app.buffer.ledger().dead_lettered["expired"] == 1, "the other is only half a day old"
            clock.pass_(DAY / 2)
            async with asyncio.timeout(30):
                while app.buffer.ledger().dead_lettered["expired"] < 2:
                    await asyncio.sleep(0.005)
