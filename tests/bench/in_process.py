"""What an app does without a sidecar, as a process that feeds itself: an SDK's queue, or a plain request per event.

It speaks as `driver.py` does.
"""

import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

import requests

from tests.bench.driver import Fed
from tests.bench.events import ATTRIBUTES, CUSTOMERS, event
from tests.bench.helpers import line_of, running
from tests.bench.machine import MEASURED_CORE
from tests.bench.nginx import Nginx
from tests.bench.systems import Running, System

SECONDS = 14.0
_HEADERS = {"x-growlytics-key": "some-key", "Content-Type": "application/json", "Accept": "application/json"}


def segment(events_per_request: int) -> System:
    """Return Segment's SDK, whose one thread sends so many events at once (100 is its default) from its queue in memory."""
    rate = 1_000 if events_per_request == 1 else 7_000
    return _system(f"segment/{events_per_request}", f"segment-{events_per_request}", rate, events_per_request)


def plain_requests() -> System:
    """Return `requests` with one session, one event at a time."""
    return _system("requests", "requests", 2_000, 1)


def _system(name: str, what: str, per_second: int, events_per_request: int) -> System:
    @asynccontextmanager
    async def start(far: Nginx, most_events: int, directory: Path) -> AsyncIterator[Running]:
        async with running("in_process", what, far.url, "0", core=MEASURED_CORE) as process:
            await line_of(process)  # so that what Python compiles is there
        trusted = {"REQUESTS_CA_BUNDLE": str(far.authority)} if far.authority else {}
        started = time.perf_counter()
        async with running("in_process", what, far.url, str(most_events), core=MEASURED_CORE, **trusted) as process:
            assert await line_of(process) == "ready"
            yield Running(process.pid, time.perf_counter() - started, process, events_per_request=events_per_request)

    return System(name, start, events_per_request, per_second)


def _track_with_segment(
    url: str, most_events: int, events_per_request: int
) -> tuple[Callable[[int], object], Callable[[], None]]:
    from segment.analytics.client import Client  # noqa: PLC0415 - only `make bench` installs it

    client = Client("some-key", host=url, max_queue_size=most_events, upload_size=events_per_request)

    def track(number: int) -> None:
        taken, _ = client.track(f"YOUR_APP_CUSTOMER_ID-{number % CUSTOMERS}", "Add To Cart", ATTRIBUTES)
        assert taken

    return track, client.flush


def _post_with_requests(url: str) -> tuple[Callable[[int], object], Callable[[], None]]:
    session = requests.Session()

    def post(number: int) -> None:
        session.post(url, data=event(number), headers=_HEADERS, timeout=10).raise_for_status()

    return post, session.close


def _main(what: str, url: str, most_events: int) -> None:
    kind, _, batch = what.partition("-")
    prepared = _track_with_segment(url, most_events, int(batch)) if kind == "segment" else _post_with_requests(url)
    call, finish = prepared
    print("ready", flush=True)
    sys.stdin.readline()
    taken: list[float] = []
    started = before = time.perf_counter()
    for number in range(most_events):
        call(number)
        now = time.perf_counter()
        taken.append(now - before)
        before = now
        if now - started > SECONDS:
            break
    print(json.dumps(asdict(Fed.of(len(taken), before - started, taken))), flush=True)
    finish()
    sys.stdin.readline()


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
