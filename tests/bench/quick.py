"""`make bench-quick`: in a minute, what accepting and delivering cost against the bare aiohttp loops.

It needs what the tests need, prints the ratios, and fails only where one is far from what it should be.
"""

import asyncio
import os
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.bench import accepting, delivering
from tests.bench.bare import AIOHTTP
from tests.bench.comparisons import HEAD
from tests.bench.far_side import running_far_side
from tests.bench.machine import NOISY_SHARE, OTHER_CORE, Others

WORST = 3.0
PAIRS = 3
EVENTS = 8_000
SECONDS = 180.0


@asynccontextmanager
async def _open_far_side(port: int) -> AsyncIterator[delivering.Counting]:
    async with running_far_side(port) as far:
        await far.answer()
        yield far


async def main() -> int:
    os.sched_setaffinity(0, {OTHER_CORE})
    others = Others()
    async with asyncio.timeout(SECONDS):
        figures = await accepting.measure("uvloop", libraries=[AIOHTTP], pairs=PAIRS)
        figures += await accepting.measure("uvloop", accepting.TWO_SEGMENTS, libraries=[AIOHTTP], pairs=PAIRS)
        figures += await delivering.measure(
            "uvloop", libraries=[AIOHTTP], pairs=PAIRS, opening=_open_far_side, events=EVENTS
        )
    print("\n".join([HEAD, *map(str, figures)]))
    if (share := others.share()) > NOISY_SHARE:
        print(f"\nOther processes took {share:.0%} of a core meanwhile.")
    worst = max(statistics.median(one.ratios) for one in figures)
    if worst > WORST:
        print(f"\nA ratio of {worst:.2f} is beyond {WORST}: something has become much slower.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
