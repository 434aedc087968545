"""How many instructions a process executes, by `perf stat`, where the kernel counts them: virtual machines often forbid it.

Unlike CPU time the number hardly depends on what else the machine does.
"""

import asyncio
import functools
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.bench.machine import OTHER_CORE, on_core

EVENT = "instructions"
_ATTACH_SECONDS = 0.3
_END_SECONDS = 10


@dataclass
class Counted:
    """Filled in at the end; None where nothing was counted."""

    number: float | None = None


@functools.cache
def why_not(event: str = EVENT) -> str:
    """Return why they cannot be counted here, or nothing."""
    if shutil.which("perf") is None:
        return "perf is not installed"
    try:
        shown = subprocess.run([*_stat(event), "true"], capture_output=True, text=True, timeout=10, check=False).stderr
    except subprocess.TimeoutExpired:
        return "perf does not end"
    return "" if _number(shown) is not None else "not supported by this kernel"


@asynccontextmanager
async def counting(pid: int, event: str = EVENT) -> AsyncIterator[Counted]:
    """Count those of a process, all threads, from here to the end."""
    counted = Counted()
    if why_not(event):
        yield counted
        return
    process = await asyncio.create_subprocess_exec(
        *on_core(OTHER_CORE), *_stat(event), f"--pid={pid}", stderr=asyncio.subprocess.PIPE
    )
    try:
        await asyncio.sleep(_ATTACH_SECONDS)
        yield counted
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(_END_SECONDS):
            counted.number = _number((await process.communicate())[1].decode())
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _stat(event: str) -> list[str]:
    return ["perf", "stat", "--field-separator=,", f"--event={event}"]


def _number(shown: str) -> float | None:
    """Return the count in the first line of `perf stat`."""
    try:
        return float(shown.partition(",")[0])
    except ValueError:
        return None
