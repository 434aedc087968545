"""Two whole apps in front of one store that moves lanes between them: what a store of another kind must do, and no more."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp

from forwarder.app import App
from forwarder.buffer.base import Notes
from forwarder.event import Clock, EventIds
from forwarder.observing.recent import Receipts
from forwarder.observing.telemetry import Telemetry
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
from tests.fakes.far_store import FarBuffer, FarStore

KEY = "integration-test-key"
IDS_APART = 10**12
"""So that two processes give no event the same id."""


@asynccontextmanager
async def running(store: FarStore, sandbox: Sandbox, number: int) -> AsyncIterator[App]:
    def make_buffer(
        settings: Settings,
        *,
        telemetry: Telemetry,
        receipts: Receipts,
        clock: Clock,
        ids: EventIds,
        remembered: Callable[[], Notes],
    ) -> FarBuffer:
        ids.rise_above(time.time_ns() // 1000 + number * IDS_APART)
        return FarBuffer(
            store,
            settings.buffer,
            dead_letters=settings.dead_letters,
            telemetry=telemetry,
            receipts=receipts,
            clock=clock,
        )

    app = App(
        Settings(
            growlytics=GrowlyticsSettings(url=sandbox.url, api_key=Secret(KEY)),
            intake=IntakeSettings(http=Address("127.0.0.1", 0)),
            buffer=BufferSettings(kind="memory"),
            admin=AdminSettings(http=Address("127.0.0.1", 0)),
            delivery=DeliverySettings(
                max_concurrency=8,
                retry_initial_seconds=0.01,
                retry_max_seconds=0.05,
                probe_initial_seconds=0.01,
                probe_max_seconds=0.05,
            ),
            shutdown=ShutdownSettings(drain_seconds=5),
        ),
        make_buffer=make_buffer,
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


def body_of(customer: str, number: int) -> bytes:
    event = {"name": "Add To Cart", "customerId": customer, "time": 1_700_000_000_000, "attributes": {"number": number}}
    return json.dumps(event).encode()


async def test_every_event_is_delivered_in_order_by_whoever_holds_its_lane() -> None:
    chance = random.Random(20261129)
    customers, each = [f"customer {number}" for number in range(12)], 25
    store, sandbox = FarStore(), Sandbox(key=KEY, faults=Faults(latency_ms=5, fail_rate=0.05, fail_status=503))
    await sandbox.open()
    try:
        async with (
            running(store, sandbox, 0) as one,
            running(store, sandbox, 1) as other,
            aiohttp.ClientSession() as http,
        ):
            apps = (one, other)
            posting = True

            async def post_all_of(customer: str) -> None:
                for number in range(each):
                    address = chance.choice(apps).addresses["http"]
                    async with http.post(f"http://{address}/track/event", data=body_of(customer, number)) as response:
                        assert response.status == 200, await response.text()

            async def move_some() -> int:
                moves = 0
                while posting or store.rows:
                    some = set(chance.sample(customers, 3))
                    await store.move(some, None if chance.random() < 0.2 else chance.choice(store.buffers))
                    await asyncio.sleep(chance.uniform(0, 0.02))
                    if chance.random() < 0.3:
                        nobodys = {customer for customer in customers if store.owner(customer) is None}
                        await store.move(nobodys, chance.choice(store.buffers))
                    moves += 1
                return moves

            async with asyncio.timeout(60):
                moving = asyncio.create_task(move_some())
                await asyncio.gather(*(post_all_of(customer) for customer in customers))
                posting = False
                assert await moving > 10
                while any(app.delivery.progress().in_flight or app.delivery.progress().attempting for app in apps):
                    await asyncio.sleep(0.01)
            for app in apps:
                states = app.status()["buffer"]["events"]  # type: ignore[index]  # JSON
                assert sum(states.values()) == 0, states
            ledger = one.buffer.ledger()
    finally:
        await sandbox.close()
    assert (ledger.accepted, ledger.delivered, ledger.unaccounted) == (12 * each, 12 * each, 0)
    handed_out, arrived = store.handed_out, Counter(stored.raw for stored in sandbox.stored())
    for customer in customers:
        own = [body_of(customer, number) for number in range(each)]
        assert [raw for raw in arrived if raw in own] == own, "the first arrivals are in order"
    assert all(arrived[raw] <= handed_out[raw] for raw in arrived), "each is delivered once by whoever has it"
    assert sum(handed_out.values()) > 12 * each, "some were handed out again"
