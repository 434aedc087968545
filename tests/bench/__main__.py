"""`make bench`: absolute figures of real processes on this machine. Not a test; figures and commands go to README.md.

All groups of rows, or those that are named: `.venv/bin/python -m tests.bench intake backlog`.
"""

import argparse
import asyncio
import os
import platform
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence

from tests.bench import backlog, delivery, intake, single, ways_in
from tests.bench.rows import HEAD, Rows, progress

GROUPS: dict[str, tuple[Callable[[], Awaitable[Rows]], float]] = {
    "start": (single.measure_starts, 60),
    "latency": (single.measure_latency, 150),
    "sandbox": (single.measure_sandbox, 60),
    "intake": (intake.measure, 240),
    "ways-in": (ways_in.measure, 360),
    "delivery": (delivery.measure, 600),
    "backlog": (backlog.measure, 480),
}
"""What measures each group of rows, and within how many seconds."""


async def main(chosen: Sequence[str]) -> int:
    """Print a table of figures of real processes on this machine; what goes wrong, and how far it is, goes to stderr."""
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(HEAD, flush=True)
    failed: list[str] = []
    for name in chosen:
        measure, seconds = GROUPS[name]
        started = time.perf_counter()
        try:
            async with asyncio.timeout(seconds):
                print(await measure(), flush=True)
        except Exception:  # noqa: BLE001 - the other groups are worth having
            traceback.print_exc()
            failed.append(name)
        progress(f"{name}: {time.perf_counter() - started:.0f} s of at most {seconds:.0f} s")
    if failed:
        progress(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=main.__doc__)
    parser.add_argument("group", nargs="*", metavar="GROUP", help=f"{', '.join(GROUPS)}; all if none is named")
    arguments = parser.parse_args()
    if unknown := set(arguments.group) - set(GROUPS):
        parser.error(f"there is no group {', '.join(sorted(unknown))}: choose from {', '.join(GROUPS)}")
    sys.exit(asyncio.run(main(arguments.group or list(GROUPS))))
