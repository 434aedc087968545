"""The bounds hold under a flood: of events, of bytes, and of the process's memory as app.py states it."""

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest

from tests.system.processes import Daemon, example_event, running_daemon, running_sandbox

MIB = 1024 * 1024
CLIENTS = 8
BATCH = 1000
IDLE_BYTES = 60_000_000
BODY_FACTOR = 10


def batch(padding: int, customer: str) -> bytes:
    """Return a batch of events of the same length, each of a customer of its own."""
    events = []
    for number in range(BATCH):
        event = example_event(1) | {"customerId": f"{customer}{number:04}"}
        attributes = event["attributes"]
        assert isinstance(attributes, dict)
        attributes["Padding"] = "x" * padding
        events.append(json.dumps(event, ensure_ascii=False).encode())
    return b"[" + b",".join(events) + b"]"


async def flood(daemon: Daemon, body: bytes, posts: int) -> tuple[int, int, int]:
    """Post the batch again and again over several connections; return accepted, refused posts and the highest memory."""
    accepted = refused = peak = 0

    async def client() -> None:
        nonlocal accepted, refused, peak
        async with aiohttp.ClientSession() as http:
            for _ in range(posts):
                async with http.post(f"{daemon.base}/v1/events", data=body) as response:
                    answer = await response.json()
                peak = max(peak, daemon.rss_bytes())
                if response.status == 429:
                    refused += 1
                    assert int(response.headers["Retry-After"]) >= 1
                    assert answer["errors"][0]["code"] == "buffer_full"
                else:
                    assert response.status == 202, answer
                    accepted += answer["accepted"]

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return accepted, refused, peak


@pytest.mark.parametrize(
    ("max_events", "max_bytes", "padding", "customer", "bytes_per_event"),
    [
        pytest.param(20_000, 256 * MIB, 0, "c", 600, id="events"),
        pytest.param(1_000_000, 24 * MIB, 700, "c", 600, id="bytes"),
        pytest.param(20_000, 256 * MIB, 0, "😀" * 124, 2048, id="long customer ids"),
        pytest.param(20_000, 24 * MIB, 0, "😀" + "x" * 500, 600, id="customer ids too long to keep"),
    ],
)
@pytest.mark.parametrize("kind", ["disk", "memory"])
async def test_a_flood_meets_429_at_the_bound_and_memory_stays_within_what_app_py_states(
    tmp_path: Path, kind: str, max_events: int, max_bytes: int, padding: int, customer: str, bytes_per_event: int
) -> None:
    body = batch(padding, customer)
    event_bytes = (len(body) - 1) // BATCH - 1
    room = min(max_events, max_bytes // event_bytes)
    async with (
        running_sandbox() as sandbox,
        running_daemon(
            tmp_path,
            sandbox.url,
            buffer__kind=kind,
            buffer__max_events=max_events,
            buffer__max_bytes=max_bytes,
            shutdown__drain_seconds=0,
        ) as daemon,
    ):
        await sandbox.faults(hang_rate=1.0)
        idle = daemon.rss_bytes()
        assert idle < IDLE_BYTES
        accepted, refused, peak = await flood(daemon, body, posts=room // BATCH // CLIENTS + 3)
        ledger = await daemon.ledger()
        metrics = await daemon.metrics()
        assert await daemon.stop() == (75 if kind == "memory" else 0)
    assert accepted == room // BATCH * BATCH, "whole batches up to the bound, and no more"
    assert refused > 0
    assert ledger["accepted"] == ledger["buffered"] == accepted
    assert metrics['growlytics_forwarder_events_rejected_total{reason="buffer_full"}'] == refused * BATCH
    assert metrics["growlytics_forwarder_buffer_bytes"] == accepted * event_bytes <= max_bytes
    events = 24 * MIB + 8 * accepted if kind == "disk" else accepted * (event_bytes + bytes_per_event)
    bound = IDLE_BYTES + events + BODY_FACTOR * len(body) * CLIENTS
    print(f"idle {idle / MIB:.1f} MiB, at most {peak / MIB:.1f} MiB of {bound / MIB:.1f} MiB stated")
    assert peak < bound
