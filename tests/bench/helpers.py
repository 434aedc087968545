"""The benchmark's own processes, each on a core of its own: modules of this package, and programs of others."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.bench.machine import on_core
from tests.system.processes import clean_environment

START_SECONDS = 20.0
_ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def running(
    module: str, *arguments: str, core: int, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `tests.bench.MODULE` with pipes for its standard input and output, and kill it in the end."""
    command = (sys.executable, "-m", f"tests.bench.{module}", *arguments)
    async with running_program(*command, core=core, environment=environment) as process:
        yield process


@asynccontextmanager
async def running_program(
    *command: str, core: int, environment: dict[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a command with pipes for its standard input and output, and kill it in the end."""
    process = await asyncio.create_subprocess_exec(
        *on_core(core),
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=_ROOT,
        env=clean_environment(**(environment or {})),
    )
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


async def tell(process: asyncio.subprocess.Process, command: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{command}\n".encode())
    await process.stdin.drain()


async def until_it_listens(process: asyncio.subprocess.Process, port: int) -> None:
    """Wait until a process takes connections on a port of 127.0.0.1."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.returncode is None, "a program ended early: see above"
        assert time.monotonic() < deadline, f"a program did not listen within {START_SECONDS} s"
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.005)
        else:
            writer.close()
            return


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
