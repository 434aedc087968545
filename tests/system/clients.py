"""What the tests of real clients share: a daemon that is looked at afterwards, and how a program is run."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.fakes.wire import GOOD
from tests.system.processes import Daemon, running_daemon

NOWHERE: Final = "http://127.0.0.1:9/track/event"
SECONDS: Final = 30.0
MIB: Final = 1 << 20


@asynccontextmanager
async def daemon_that_stays_well(directory: Path, loop: str) -> AsyncIterator[Daemon]:
    """Run a daemon that delivers nothing, and check in the end that its books balance and that it logged no error."""
    async with running_daemon(directory, NOWHERE, loop=loop, shutdown__drain_seconds=0) as running:
        yield running
        ledger = await running.ledger()
        assert ledger["received"] == ledger["accepted"] + ledger["duplicates"] + ledger["rejected"]
        assert [line for line in running.lines if line["level"] == "error"] == []


async def accepted(daemon: Daemon) -> int:
    return int((await daemon.ledger())["accepted"])


async def run(*command: str, stdin: bytes = b"") -> tuple[bytes, str]:
    """Run a program, which must succeed in time, and return what it wrote to standard output and error."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "NODE_OPTIONS": "", "no_proxy": "*"},
    )
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out, err.decode()


def batch(size: int) -> bytes:
    """Return a batch of about so many bytes."""
    return b"[" + b",".join([GOOD] * (size // (len(GOOD) + 1))) + b"]"
