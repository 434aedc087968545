"""Takes pictures of the status page of real daemons, one in each state: `make screenshot`.

The load is that of a shop: it swells and ebbs, some events are wrong, some come twice, one attribute changes its type. Each
scene breaks something for real, waits until the daemon says so, and is taken as a browser shows it.
"""

import asyncio
import itertools
import math
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.system.browser import Page, browsing
from tests.system.png import smaller
from tests.system.processes import Daemon, Sandbox, running_daemon, running_sandbox, until

HEIGHT: Final = 900
TURN_SECONDS: Final = 0.25
LONG_SECONDS: Final = 300
NAMES: Final = ("Product Viewed", "Add To Cart", "Search", "Order Completed", "App Opened", "Coupon Applied")


class Shop:
    """An app that posts events all the time, and takes it as it comes if they are refused."""

    def __init__(self, daemon: Daemon, scene: "Scene") -> None:
        self._daemon = daemon
        self._scene = scene
        self._dice = random.Random(7)
        self._numbers = itertools.count(1)
        self._began = time.monotonic()

    async def post(self) -> None:
        """Post until cancelled."""
        while True:
            turn = asyncio.create_task(asyncio.sleep(TURN_SECONDS))
            elements = list(self._elements(time.monotonic() - self._began))
            async with self._daemon.http.post(f"{self._daemon.base}/v1/events", json=elements) as response:
                assert response.status in (202, 422, 429), await response.text()
            await turn

    def _elements(self, seconds: float) -> Iterator[Any]:
        """Yield what comes in one turn, so long after the beginning."""
        dice = self._dice
        swell = 1 + 0.32 * math.sin(seconds / 37) + 0.18 * math.sin(seconds / 9) + dice.uniform(-0.12, 0.12)
        for number in itertools.islice(self._numbers, round(self._scene.per_second * swell * TURN_SECONDS)):
            name = dice.choice(NAMES)
            attributes = {"Price": dice.randrange(100, 9000), "Brand": "Nike", "Member": dice.random() < 0.3}
            now = round(time.time() * 1000)
            event: dict[str, Any] = {"name": name, "customerId": f"c-{number % 900}", "time": now}
            event["attributes"] = attributes
            chance = dice.random()
            if self._scene.has_faults and chance < 0.004:
                event["time"] = time.time()
            elif self._scene.has_faults and chance < 0.006:
                attributes["Categories"] = ["Shoes", "Sale"]
            elif self._scene.drifts and chance < 0.009 and name == "Order Completed":
                attributes["Price"] = "49.90"
            twice = chance > 0.985
            yield from [{"idempotency_key": str(number), "event": event}] * (1 + twice)


@dataclass(frozen=True)
class Scene:
    """A state, and how to bring a daemon into it while the shop posts."""

    state: str
    """That of the headline when the picture is taken."""
    play: Callable[[Daemon, Sandbox], Awaitable[None]]
    per_second: float = 140.0
    has_faults: bool = False
    """Whether some events are wrong, so that the app is refused."""
    drifts: bool = False
    """Whether an attribute changes its type."""
    settings: dict[str, object] = field(default_factory=dict)
    width: int = 1200
    scheme: str = "light"


async def nothing(daemon: Daemon, sandbox: Sandbox) -> None:
    pass


async def busy_for_five_minutes(daemon: Daemon, sandbox: Sandbox) -> None:
    """For a while Growlytics is down, which has passed when the picture is taken."""
    await asyncio.sleep(130)
    await sandbox.faults(down=True)
    await asyncio.sleep(25)
    await sandbox.faults(down=False)
    await asyncio.sleep(145)


async def an_outage_that_has_ended(daemon: Daemon, sandbox: Sandbox) -> None:
    await asyncio.sleep(30)
    await sandbox.faults(down=True)
    await asyncio.sleep(60)
    await sandbox.faults(down=False, latency_ms=150)


async def a_key_that_is_revoked(daemon: Daemon, sandbox: Sandbox) -> None:
    await asyncio.sleep(40)
    await sandbox.use_key("the-new-one")
    await asyncio.sleep(15)


async def poison_and_drift(daemon: Daemon, sandbox: Sandbox) -> None:
    await asyncio.sleep(40)
    await sandbox.faults(fail_rate=0.03, fail_status=422)
    await asyncio.sleep(2)
    await sandbox.faults(fail_rate=0)
    await asyncio.sleep(10)


async def a_buffer_that_fills(daemon: Daemon, sandbox: Sandbox) -> None:
    await asyncio.sleep(20)
    await sandbox.faults(down=True)
    await asyncio.sleep(45)


SCENES: Final = {
    "status-page": Scene("delivering", busy_for_five_minutes),
    "screenshots/no-events": Scene("no_events", nothing, per_second=0),
    "screenshots/catching-up": Scene("catching_up", an_outage_that_has_ended),
    "screenshots/not-delivering": Scene("not_delivering", a_key_that_is_revoked),
    "screenshots/needs-attention": Scene("needs_attention", poison_and_drift, drifts=True, scheme="dark"),
    "screenshots/refusing": Scene("refusing", a_buffer_that_fills, settings={"buffer__max_events": 5000}),
    "screenshots/narrow": Scene("not_delivering", a_key_that_is_revoked, width=320, scheme="dark"),
}


async def take(scene: Scene) -> bytes:
    """Return the picture of a scene as a PNG."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        async with (
            running_sandbox("--latency-ms=25", "--jitter-ms=30") as sandbox,
            running_daemon(directory, sandbox.url, delivery__probe_max_seconds=5, **scene.settings) as daemon,
            browsing(directory) as page,
        ):
            await page.resize(scene.width, HEIGHT)
            await page.prefer(scene.scheme)
            await page.go(f"{daemon.base}/")
            async with asyncio.TaskGroup() as tasks:
                posting = tasks.create_task(shop(daemon, scene))
                await scene.play(daemon, sandbox)
                picture = await until(lambda: pictured(page, daemon, scene), f"it is {scene.state}", seconds=120)
                posting.cancel()
    assert isinstance(picture, bytes)
    return picture


async def shop(daemon: Daemon, scene: Scene) -> None:
    if scene.per_second:
        await Shop(daemon, scene).post()


async def pictured(page: Page, daemon: Daemon, scene: Scene) -> bytes | None:
    """Return the picture, if the daemon is in the state and the page shows that."""
    status = await daemon.status()
    headline, drained = status["headline"], status["forecasts"]["drained_in_seconds"]
    if headline["state"] != scene.state or await page.text("h1") != headline["text"]:
        return None
    if scene.state == "catching_up" and (drained is None or drained > LONG_SECONDS):
        return None  # it only just begins to
    return await page.picture()


async def main(directory: Path, names: list[str]) -> None:
    for name in names or SCENES:
        file = directory / f"{name}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(smaller(await take(SCENES[name])))
        print(f"{file}: {file.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2:]))
