"""Running the real command as a process, and in this one."""

import asyncio
import os
import subprocess
import sys
from typing import Final

import pytest

from forwarder.cli import main

COMMAND: Final = (sys.executable, "-m", "forwarder")
_DEADLINE_SECONDS: Final = 30


def environment() -> dict[str, str]:
    """Return an environment without settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FORWARDER_", "GROWLYTICS_"))}
    return kept | {"TERM": "xterm"}


async def start(
    *arguments: str, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, env=environment()
    )


async def finish(process: asyncio.subprocess.Process, stdin: bytes = b"") -> tuple[int, str, str]:
    """Give it its input, and return exit code, output and errors."""
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS):
            out, err = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return process.returncode, (out or b"").decode(), (err or b"").decode()


def run(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """Run it to its end, and return exit code, output and errors."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        env=environment(),
        timeout=_DEADLINE_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def exit_code(*arguments: str) -> int:
    """Return the code with which it exits before it does anything."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert isinstance(stopped.value.code, int)
    return stopped.value.code
