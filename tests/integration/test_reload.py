"""Settings that are read again while the whole app runs: each of them changes what it says, at once."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import aiohttp
import attrs
import pytest

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
)

KEY = "reload-test-key"


@dataclass
class Running:
    """An app, what its settings are next, and a client of it."""

    app: App
    sandbox: Sandbox
    settings: Settings
    http: aiohttp.ClientSession

    async def reload(self, **sections: dict[str, Any]) -> None:
        """Have settings read again in which these of each section are other than before."""
        for section, changes in sections.items():
            changed = attrs.evolve(getattr(self.settings, section), **changes)
            self.settings = attrs.evolve(self.settings, **{section: changed})
        before = self.app._live.reloading.status()["loaded_at"]
        self.app.reload()
        await until(lambda: self.app._live.reloading.status()["loaded_at"] != before, "they are read")

    async def post(self, event: str | None = None, **headers: str) -> int:
        text = event or '{"name": "n", "customerId": "c", "time": 1700000000000, "attributes": {}}'
        url = f"http://{self.app.addresses['http']}/track/event"
        async with self.http.post(url, data=text.encode(), headers=headers) as response:
            await response.read()
            return response.status

    async def post_of(self, customers: int) -> None:
        """Post an event of each of so many customers."""
        url = f"http://{self.app.addresses['http']}/v1/events"
        lines = [
            f'{{"name": "n", "customerId": "c{number}", "time": 1700000000000, "attributes": {{}}}}'
            for number in range(customers)
        ]
        headers = {"Content-Type": "application/x-ndjson"}
        async with self.http.post(url, data="\n".join(lines).encode(), headers=headers) as response:
            assert (await response.json())["accepted"] == customers

    @property
    def delivered(self) -> int:
        return self.app.buffer.ledger().delivered


@asynccontextmanager
async def running(
    faults: Faults | None = None, *, buffer: BufferSettings | None = None, delivery: DeliverySettings | None = None
) -> AsyncIterator[Running]:
    sandbox = Sandbox(key=KEY, faults=faults or Faults())
    await sandbox.open()
    settings = Settings(
        growlytics=GrowlyticsSettings(url=sandbox.url, api_key=Secret(KEY)),
        intake=IntakeSettings(http=Address("127.0.0.1", 0)),
        buffer=buffer or BufferSettings(kind="memory"),
        delivery=delivery or DeliverySettings(),
        admin=AdminSettings(http=None),
    )
    async with aiohttp.ClientSession() as http:
        app = App(settings, load=lambda: run.settings)
        run = Running(app, sandbox, settings, http)
        await app.open()
        serving = asyncio.create_task(app.serve())
        try:
            yield run
            app.stop.set()
            app.force.set()
            await serving
        finally:
            serving.cancel()
            await app.close()
            await sandbox.close()


async def until(condition: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)
    assert condition(), what


async def test_more_may_be_on_the_wire_and_then_fewer() -> None:
    async with running(Faults(latency_ms=50), delivery=DeliverySettings(max_concurrency=1)) as run:
        most = 0

        def drained() -> bool:
            nonlocal most
            most = max(most, run.app.delivery.progress().attempting)
            return run.app.buffer.occupancy().events == 0

        for max_concurrency, events in ((1, 5), (16, 200), (2, 6)):
            await run.reload(delivery={"max_concurrency": max_concurrency})
            most = 0
            await run.post_of(events)
            await until(drained, "they are delivered")
            if max_concurrency == 16:
                assert most > 2, "more than there were workers at the start"
            assert most <= max_concurrency
            assert cast("Any", run.app.status())["delivery"]["max_concurrency"] == max_concurrency
        assert run.app.buffer.ledger().unaccounted == 0


async def test_a_rate_limit_comes_and_goes() -> None:
    async with running() as run:
        await run.reload(delivery={"rate_limit_per_second": 0.001})
        await run.post_of(50)
        await until(lambda: run.delivered == 1, "the first one goes at once")
        await run.reload(delivery={"rate_limit_per_second": 0.0})
        await until(lambda: run.delivered == 50, "nothing limits the others, and the second does not wait for its time")


async def test_a_hold_is_probed_as_the_new_settings_say() -> None:
    async with running(Faults(fail_rate=1, fail_status=503)) as run:
        await run.reload(
            delivery={
                "breaker_failures": 2,
                "probe_initial_seconds": 0.01,
                "probe_max_seconds": 0.01,
                "retry_initial_seconds": 0.01,
                "retry_max_seconds": 0.01,
            }
        )
        await run.post_of(4)
        await until(lambda: "breaker" in run.app.delivery.holds(), "it holds after two failures")
        run.sandbox.faults = Faults()
        await until(lambda: run.delivered == 4, "a probe finds out")


async def test_what_is_too_old_and_what_is_ambiguous_follow_the_new_settings() -> None:
    async with running(Faults(fail_rate=1, fail_status=503)) as run:
        await run.reload(delivery={"max_age_seconds": 0.001, "breaker_failures": 1000})
        await run.post()
        await until(lambda: run.app.buffer.ledger().dead_lettered["expired"] == 1, "it is given up")
        run.sandbox.faults = Faults(hang_rate=1)
        await run.reload(
            growlytics={"timeout_seconds": 0.2},
            delivery={"max_age_seconds": 3600.0, "on_ambiguous": "dead_letter", "on_ambiguous_events": {}},
        )
        await run.post()
        await until(lambda: run.app.buffer.ledger().dead_lettered["ambiguous"] == 1, "it is not repeated")


async def test_a_new_key_is_tried_at_once() -> None:
    async with running() as run:
        await run.reload(growlytics={"api_key": Secret("wrong")}, delivery={"probe_initial_seconds": 60.0})
        await run.post()
        await until(lambda: "auth" in run.app.delivery.holds(), "it is refused")
        await run.reload(growlytics={"api_key": Secret(KEY)})
        await until(lambda: run.delivered == 1, "it is delivered")


async def test_the_token_comes_changes_and_goes() -> None:
    async with running() as run:
        assert await run.post() == 200
        await run.reload(intake={"token": Secret("one")})
        assert (await run.post(), await run.post(Authorization="Bearer one")) == (401, 200)
        await run.reload(intake={"token": Secret("two")})
        assert await run.post(Authorization="Bearer one") == 401
        await run.reload(intake={"token": None})
        assert await run.post() == 200


async def test_hosts_and_origins_follow_the_new_settings() -> None:
    async with running() as run:
        assert (await run.post(Host="app.example"), await run.post(Origin="https://shop.example")) == (403, 403)
        await run.reload(intake={"allowed_hosts": ("app.example",), "allowed_origins": ("https://shop.example",)})
        assert await run.post(Host="app.example") == 200
        assert await run.post(Host="app.example", Origin="https://shop.example") == 200


@pytest.mark.parametrize("kind", ["disk", "memory"])
async def test_a_full_buffer_refuses_or_drops_as_the_new_settings_say(tmp_path: Any, kind: Any) -> None:
    buffer = BufferSettings(kind=kind, directory=str(tmp_path), max_events=1000)
    async with running(Faults(hang_rate=1), buffer=buffer) as run:
        await run.reload(delivery={"max_concurrency": 1})
        await run.post_of(1000)
        assert await run.post() == 429
        await run.reload(buffer={"when_full": "drop_oldest"})
        assert await run.post() == 200
        assert run.app.buffer.ledger().dropped["drop_oldest"] == 1


async def test_the_policies_of_the_contract_follow_the_new_settings() -> None:
    def event(value: str, time: str = '"time": 1700000000000,') -> str:
        return f'{{"name": "n", "customerId": "c", {time} "attributes": {{"a": {value}}}}}'

    async with running() as run:
        assert [await run.post(event(value)) for value in ("1", '"text"')] == [200, 200]
        assert await run.post(event("1", time="")) == 422
        await run.reload(contract={"attribute_types": "reject", "fill_missing_time": True})
        assert await run.post(event('"text"')) == 422
        assert await run.post(event("1", time="")) == 200


async def test_the_log_level_and_how_long_stopping_takes_follow_the_new_settings() -> None:
    level = logging.getLogger().level
    try:
        async with running() as run:
            await run.reload(log={"level": "debug"}, shutdown={"drain_seconds": 1.5})
            assert logging.getLogger().level == logging.DEBUG
            assert run.app.shutdown.drain_seconds == 1.5
    finally:
        logging.getLogger().setLevel(level)
