"""The benchmark's own processes: modules of this package, each on a core of its own."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.bench.machine import pin

START_SECONDS = 20.0
_ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def running(module: str, *arguments: str, core: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `tests.bench.MODULE` with pipes for its standard input and output, and kill it in the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"tests.bench.{module}",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=_ROOT,
    )
    pin(process.pid, core)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def line_of(process: asyncio.subprocess.Process, *, seconds: float = START_SECONDS) -> str:
    """Return the next line that a helper writes."""
    assert process.stdout is not None
    async with asyncio.timeout(seconds):
        line = await process.stdout.readline()
    assert line, "a helper of the benchmark ended early: see above"
    return line.decode().strip()


def fast_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes the event loop of a helper that should cost little: uvloop, if it is installed."""
    return loop_factory("uvloop")


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "uvloop":
        try:
            import uvloop  # noqa: PLC0415 - it may be missing
        except ImportError:
            print("uvloop is not installed: asyncio in its place", file=sys.stderr)
        else:
            factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
            return factory
    return asyncio.new_event_loop
