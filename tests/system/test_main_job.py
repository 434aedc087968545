"""The main job over real sockets and processes: what was accepted arrives, once unless an answer was lost."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest

from tests.system.processes import Daemon, example_event, running_daemon, running_sandbox, until

BATCH = 50


async def post_all(http: aiohttp.ClientSession, base: str, bodies: Sequence[bytes]) -> int:
    """Post a share of the events in turn: one, an array, some lines; return how many were accepted."""
    accepted = 0
    position = 0
    kind = 0
    while position < len(bodies):
        if kind == 0:
            some = bodies[position : position + 1]
            path, body, content_type = "/track/event", some[0], "application/json"
        elif kind == 1:
            some = bodies[position : position + BATCH]
            path, body, content_type = "/v1/events", b"[" + b" ,\n".join(some) + b"]", "application/json"
        else:
            some = bodies[position : position + BATCH]
            path, body, content_type = "/v1/events", b"\n".join(some), "application/x-ndjson"
        async with http.post(base + path, data=body, headers={"Content-Type": content_type}) as response:
            answer = await response.json()
            if response.status == 429:
                await asyncio.sleep(int(response.headers["Retry-After"]))
                continue
            assert response.status in (200, 202), answer
            accepted += answer.get("accepted", 1)
        position += len(some)
        kind = (kind + 1) % 3
    return accepted


def assert_ledger_balances(metrics: dict[str, float]) -> None:
    def total(name: str) -> float:
        prefix = f"growlytics_forwarder_{name}"
        return sum(value for series, value in metrics.items() if series.partition("{")[0] == prefix)

    received = total("events_received_total")
    accepted = total("events_accepted_total")
    assert received == accepted + total("events_duplicate_total") + total("events_rejected_total")
    fates = total("events_delivered_total") + total("events_dead_lettered_total") + total("events_dropped_total")
    assert accepted == fates + total("buffer_events")
    assert total("events_unaccounted") == 0


async def scrape_until_cancelled(daemon: Daemon, scrapes: list[int]) -> None:
    while True:
        assert_ledger_balances(await daemon.metrics())
        scrapes[0] += 1
        await asyncio.sleep(0.05)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "events", [6000, pytest.param(20_000, marks=pytest.mark.soak), pytest.param(500_000, marks=pytest.mark.soak)]
)
async def test_all_events_arrive_through_failures_and_resets_and_every_scrape_balances(
    tmp_path: Path, events: int
) -> None:
    bodies = [json.dumps(example_event(number)).encode() for number in range(events)]
    faults = ("--seed", "7", "--latency-ms", "2")
    async with running_sandbox(*faults) as sandbox, running_daemon(tmp_path, sandbox.url) as daemon:
        await sandbox.faults(
            fail_rate=0.05, reset_before_read_rate=0.01, reset_after_read_rate=0.01, reset_after_store_rate=0.01
        )
        scrapes = [0]
        scraping = asyncio.create_task(scrape_until_cancelled(daemon, scrapes))
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(daemon.unix_socket))) as unix:
            clients = [(daemon.http, daemon.base), (unix, "http://localhost")] * 2
            shares = [bodies[first :: len(clients)] for first in range(len(clients))]
            accepted = await asyncio.gather(
                *(post_all(http, base, share) for (http, base), share in zip(clients, shares, strict=True))
            )
        assert sum(accepted) == events
        await until(daemon.drained, "everything is delivered", seconds=90 + events / 500)
        assert not scraping.done(), scraping.exception()
        scraping.cancel()
        assert scrapes[0] >= 10

        stored = Counter(await sandbox.raw())
        counters = await sandbox.counters()
        metrics = await daemon.metrics()
        assert set(stored) == {body.decode() for body in bodies}
        twice = stored.total() - events
        assert twice == counters["reset_after_store"], "an event is stored twice only where its answer was lost"
        assert metrics["growlytics_forwarder_possible_duplicates_total"] >= twice
        assert metrics["growlytics_forwarder_events_delivered_total"] == events
        assert metrics['growlytics_forwarder_delivery_attempts_total{outcome="retryable"}'] > events * 0.05
        assert await daemon.stop() == 0
        print(
            f"{events} events, {counters['requests']} requests, {twice} stored twice,"
            f" {scrapes[0]} scrapes, all balanced"
        )
    last = daemon.lines[-1]
    assert last["message"] == "stopped"
    assert (last["accepted"], last["delivered"], last["buffered"], last["unaccounted"]) == (events, events, 0, 0)
