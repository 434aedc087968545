"""Takes a picture of the status page, of a real daemon that has been busy for five minutes: `make screenshot`.

The load is that of a shop: it swells and ebbs, some events are wrong, some come twice, one attribute changes its type; for a
while Growlytics is down, and for a moment it rejects what it should not.
"""

import asyncio
import itertools
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.system.browser import browsing
from tests.system.png import smaller
from tests.system.processes import Daemon, Sandbox, running_daemon, running_sandbox

WIDTH, HEIGHT = 1200, 1200
BUSY_SECONDS: Final = 310.0
OUTAGE_SECONDS: Final = (140.0, 165.0)
REJECTING_SECONDS: Final = (225.0, 227.0)
TURN_SECONDS: Final = 0.25
NAMES: Final = ("Product Viewed", "Add To Cart", "Search", "Order Completed", "App Opened", "Coupon Applied")


def shop(seconds: float, dice: random.Random, numbers: Iterator[int]) -> list[Any]:
    """Return what comes in one turn, so long after the beginning."""
    per_second = 140 + 45 * math.sin(seconds / 37) + 25 * math.sin(seconds / 9) + dice.uniform(-18, 18)
    elements: list[Any] = []
    for number in itertools.islice(numbers, round(per_second * TURN_SECONDS)):
        name = dice.choice(NAMES)
        attributes = {"Price": dice.randrange(100, 9000), "Brand": "Nike", "Member": dice.random() < 0.3}
        now = round(time.time() * 1000)
        event: dict[str, Any] = {"name": name, "customerId": f"c-{number % 900}", "time": now, "attributes": attributes}
        chance = dice.random()
        if chance < 0.004:
            event["time"] = time.time()
        elif chance < 0.006:
            attributes["Categories"] = ["Shoes", "Sale"]
        elif chance < 0.008:
            del event["customerId"]
        elif chance < 0.011 and name == "Order Completed":
            attributes["Price"] = "49.90"
        twice = chance > 0.985
        elements += [{"idempotency_key": str(number), "event": event}] * (1 + twice)
    return elements


async def keep_busy(daemon: Daemon, sandbox: Sandbox) -> None:
    dice, numbers = random.Random(7), itertools.count(1)
    faults: dict[str, object] = {}
    began = time.monotonic()
    while (seconds := time.monotonic() - began) < BUSY_SECONDS:
        wanted: dict[str, object] = {"down": OUTAGE_SECONDS[0] <= seconds < OUTAGE_SECONDS[1], "fail_rate": 0.0}
        if REJECTING_SECONDS[0] <= seconds < REJECTING_SECONDS[1]:
            wanted |= {"fail_rate": 0.03, "fail_status": 422}
        if wanted != faults:
            faults = wanted
            await sandbox.faults(**faults)
        async with daemon.http.post(f"{daemon.base}/v1/events", json=shop(seconds, dice, numbers)) as response:
            assert response.status == 202, await response.text()
        await asyncio.sleep(TURN_SECONDS)
    await sandbox.faults(fail_rate=0)


async def take() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        async with (
            running_sandbox("--latency-ms=25", "--jitter-ms=30") as sandbox,
            running_daemon(directory, sandbox.url, delivery__probe_max_seconds=5) as daemon,
            browsing(directory) as page,
        ):
            await page.resize(WIDTH, HEIGHT)
            await page.prefer("light")
            busy = asyncio.create_task(keep_busy(daemon, sandbox))
            await page.go(f"{daemon.base}/")
            await asyncio.wait({busy}, timeout=BUSY_SECONDS - 4)
            await page.until_shown("All events are safe. Delivery is keeping up.")
            picture = await page.picture()
            await busy
    return picture


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(smaller(asyncio.run(take())))
