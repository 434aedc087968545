"""Signals at every moment of a daemon's life, also as PID 1, which the kernel protects from signals without a handler."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.system.processes import COMMAND, KEY, clean_environment, running_daemon, running_sandbox, until

FAR_SIDE = "http://127.0.0.1:9/track/event"
MOMENTS_SECONDS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
"""After the handlers are in place."""
PID_1 = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
COMMANDS = {"console script": [str(Path(sys.executable).with_name("growlytics-forwarder"))], "module": COMMAND}


@asynccontextmanager
async def started(
    directory: Path, *prefix: str, command: Sequence[str] = COMMAND, arguments: Sequence[str] = ()
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Start a daemon; yield it, and the PID of the Python in it, as soon as that has handlers for its signals."""
    process = await asyncio.create_subprocess_exec(
        *prefix, *command, "run", f"--set=growlytics.url={FAR_SIDE}", f"--set=buffer.directory={directory / 'buffer'}",
        "--set=intake.http=127.0.0.1:0", "--set=admin.http=127.0.0.1:0", "--set=log.format=json", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=clean_environment(FORWARDER_GROWLYTICS__API_KEY=KEY),
    )  # fmt: skip
    try:
        yield process, await until(lambda: handling(process.pid), "it handles signals", seconds=20)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def handling(pid: int) -> int | None:
    """Return the PID of the process, or of its child, that has a handler for SIGTERM; None if none has one yet."""
    for each in (pid, *children(pid)):
        try:
            status = Path(f"/proc/{each}/status").read_text(encoding="ascii")
        except OSError:
            continue
        caught = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt:"))
        if caught & 1 << signal.SIGTERM - 1:
            return each
    return None


def children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except OSError:
        return []


async def ended(process: asyncio.subprocess.Process, *, seconds: float = 20.0) -> tuple[int | None, list[str], str]:
    """Return the exit code, the messages of the log, and what is on standard error."""
    async with asyncio.timeout(seconds):
        out, err = await process.communicate()
    return process.returncode, [json.loads(line)["message"] for line in out.splitlines()], err.decode()


def as_pid_1() -> list[str]:
    if os.geteuid() != 0:
        pytest.skip("only root may make a PID namespace")
    return PID_1


async def stop_at(
    directory: Path, moment: float, number: int, *prefix: str, command: Sequence[str] = COMMAND, loop: str = "auto"
) -> None:
    """Stop a daemon some time after its handlers are in place; it must end well, and quickly."""
    async with started(directory, *prefix, command=command, arguments=[f"--set=loop={loop}"]) as (process, pid):
        await asyncio.sleep(moment)
        os.kill(pid, number)
        code, log, errors = await ended(process)
        assert (code, errors) == (0, ""), (moment, log)
        assert log[-1:] in ([], ["stopped"]), (moment, log)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
async def test_pid_1_ends_well_when_it_is_stopped_at_any_moment_of_its_start(
    tmp_path: Path, command: Sequence[str]
) -> None:
    prefix = as_pid_1()
    async with asyncio.TaskGroup() as tasks:
        for moment in MOMENTS_SECONDS:
            tasks.create_task(stop_at(tmp_path / str(moment), moment, signal.SIGTERM, *prefix, command=command))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_start_that_is_interrupted_ends_well_with_either_loop(tmp_path: Path, loop: str) -> None:
    async with asyncio.TaskGroup() as tasks:
        for moment in MOMENTS_SECONDS:
            tasks.create_task(stop_at(tmp_path / str(moment), moment, signal.SIGINT, loop=loop))


async def test_a_hang_up_during_the_start_is_never_fatal_not_even_for_pid_1(tmp_path: Path) -> None:
    async def hang_up_at(moment: float) -> None:
        async with started(tmp_path / str(moment), *prefix) as (process, pid):
            await asyncio.sleep(moment)
            os.kill(pid, signal.SIGHUP)
            assert process.stdout is not None
            async with asyncio.timeout(20):
                async for line in process.stdout:  # it is ready, and then takes up what it was asked for at its start
                    if "settings were read again" in json.loads(line)["message"]:
                        break
            os.kill(pid, signal.SIGTERM)
            assert (await ended(process))[::2] == (0, "")

    prefix = as_pid_1()
    async with asyncio.TaskGroup() as tasks:
        for moment in (0.0, 0.1, 0.2):
            tasks.create_task(hang_up_at(moment))


async def test_what_was_blocked_for_the_time_before_the_first_line_is_heard(tmp_path: Path) -> None:
    """Python's own start cannot be shortened from inside, but whoever starts it may block signals for as long."""
    block = ["env", "--block-signal=TERM"]
    process = await asyncio.create_subprocess_exec(
        *block, *COMMAND, "run", f"--set=buffer.directory={tmp_path}", "--set=admin.http=", "--set=intake.http=",
        env=clean_environment(FORWARDER_GROWLYTICS__API_KEY=KEY),
    )  # fmt: skip
    await until(lambda: blocks_stop(process.pid), "env has blocked it")
    process.send_signal(signal.SIGTERM)
    assert (await ended_code(process)) == 0


def blocks_stop(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    blocked = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigBlk:"))
    return bool(blocked & 1 << signal.SIGTERM - 1)


async def ended_code(process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(20):
        return await process.wait()


async def test_a_stop_is_heard_while_the_settings_wait_for_a_file_that_does_not_answer(tmp_path: Path) -> None:
    """A pipe that nobody writes to is like a file of such a file system."""
    pipe = tmp_path / "config.toml"
    os.mkfifo(pipe)
    async with started(tmp_path, arguments=[f"--config={pipe}"]) as (process, pid):
        await asyncio.sleep(0.3)
        os.kill(pid, signal.SIGTERM)
        assert (await ended(process))[0] == 0


async def test_a_stop_again_and_again_while_it_ends_changes_nothing(tmp_path: Path) -> None:
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url) as daemon:
        while daemon.process.returncode is None:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                with suppress(ProcessLookupError):
                    os.kill(daemon.process.pid, number)
            await asyncio.sleep(0.001)
        assert daemon.process.returncode == 0
    assert daemon.lines[-1]["message"] == "stopped"
