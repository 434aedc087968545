"""The command `tap` with a real daemon: what it prints, and how it ends."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from forwarder.observing.tap import IDLE_SECONDS
from tests.system.processes import (
    COMMAND,
    Daemon,
    clean_environment,
    example_event,
    run_command,
    running_daemon,
    running_sandbox,
    until,
)
from tests.system.terminals import in_a_terminal

NOWHERE = "http://127.0.0.1:1/track/event"
OPENED, ENDED = "a tap with payloads was opened", "a tap with payloads has ended"
"""The log's lines, by which a test knows what the daemon knows."""


def logged(daemon: Daemon, message: str) -> list[dict[str, Any]]:
    return [line for line in daemon.lines if line["message"] == message]


def command(daemon: Daemon, *arguments: str) -> list[str]:
    return [*COMMAND, "tap", "--unix-socket", daemon.ready["control"], "--payloads", *arguments]


@asynccontextmanager
async def tapping(daemon: Daemon, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the command while the block runs, from when its tap is open."""
    already = len(logged(daemon, OPENED))
    process = await asyncio.create_subprocess_exec(
        *command(daemon, *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(),
        limit=1 << 24,
    )
    try:
        await until(lambda: len(logged(daemon, OPENED)) > already or process.returncode is not None, "it is open")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def posted(daemon: Daemon, number: int = 1, **more: object) -> str:
    async with daemon.http.post(f"{daemon.base}/track/event", json={**example_event(number), **more}) as answer:
        assert answer.status == 200, await answer.text()
        event_id: str = (await answer.json())["id"]
        return event_id


async def next_line(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    async with asyncio.timeout(30):
        line: dict[str, Any] = json.loads(await process.stdout.readline())
        return line


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str]:
    """Wait for its end, and return its exit code and what it wrote to standard error."""
    async with asyncio.timeout(30):
        assert process.stderr is not None
        told = (await process.stderr.read()).decode()
        return await process.wait(), told


async def test_in_a_terminal_it_shows_events_in_columns_until_ctrl_c(tmp_path: Path) -> None:
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url) as daemon:
        async with in_a_terminal(command(daemon)) as terminal:
            await terminal.until_it_wrote("OUTCOME")
            event_id = await posted(daemon, name="evil\x1b[31m\u202e")
            await terminal.until_it_wrote("delivered")
            await terminal.until_it_wrote("BagPack")
            assert f"{event_id} evil\\x1b[31m\\u202e " in terminal.written
            assert "\x1b[31m" not in terminal.written
            terminal.type("\x03")
            assert await terminal.until_it_ends() == 0
        await until(lambda: logged(daemon, ENDED), "the daemon knows that nobody watches")
        assert logged(daemon, ENDED)[0]["reason"] == "closed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_it_cleanly_also_while_nobody_reads_its_output(tmp_path: Path, number: int) -> None:
    async with running_daemon(tmp_path, NOWHERE) as daemon, tapping(daemon, "--json") as process:
        output = process._transport.get_pipe_transport(1)  # type: ignore[attr-defined]  # asyncio reads ahead otherwise
        output.pause_reading()
        for each in range(20):
            await posted(daemon, each, attributes={"filler": "x" * 10_000})
        process.send_signal(number)
        assert process.stderr is not None
        async with asyncio.timeout(30):
            assert await process.stderr.read() == b""
        output.resume_reading()
        assert await process.wait() == 0
        await until(lambda: logged(daemon, ENDED), "the daemon knows that nobody watches")
        assert logged(daemon, ENDED)[0]["reason"] == "closed"


async def test_it_ends_when_its_reader_leaves_though_nothing_happens(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, NOWHERE) as daemon:
        shell = await asyncio.create_subprocess_shell(
            f"set -o pipefail; {' '.join(command(daemon, '--json'))} | head -1",
            executable="/bin/bash",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=clean_environment(),
        )
        await until(lambda: logged(daemon, OPENED), "it is open")
        event_id = await posted(daemon)
        async with asyncio.timeout(30):
            out, told = await shell.communicate()
        assert (json.loads(out)["id"], told, shell.returncode) == (event_id, b"", 0)
        await until(lambda: logged(daemon, ENDED), "the daemon knows that nobody watches")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_it_ends_with_1_and_says_why_when_the_daemon_stops_or_dies(tmp_path: Path, number: int) -> None:
    async with running_daemon(tmp_path, NOWHERE) as daemon, tapping(daemon) as process:
        await daemon.stop(number)
        code, told = await ended(process)
        assert code == 1
        assert told.startswith("tap: ")
        assert told.count("\n") == 1
        assert number != signal.SIGTERM or "the daemon is stopping" in told


async def test_a_reader_that_is_stopped_loses_its_tap_says_so_later_and_goes_on(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, NOWHERE) as daemon, tapping(daemon, "--json") as process:
        process.send_signal(signal.SIGSTOP)
        await until(lambda: logged(daemon, ENDED), "the daemon drops it", seconds=IDLE_SECONDS + 30)
        assert logged(daemon, ENDED)[0]["reason"] == "unread"
        await posted(daemon, 1)
        process.send_signal(signal.SIGCONT)
        await until(lambda: len(logged(daemon, OPENED)) == 2, "it opens another")
        later = await posted(daemon, 2)
        assert await next_line(process) == {"lost": None}
        while (await next_line(process))["id"] != later:
            pass


async def test_an_output_that_is_not_read_loses_lines_that_are_counted_and_the_daemon_goes_on(tmp_path: Path) -> None:
    async with (
        running_sandbox() as sandbox,
        running_daemon(tmp_path, sandbox.url) as daemon,
        tapping(daemon, "--json") as process,
    ):
        output = process._transport.get_pipe_transport(1)  # type: ignore[attr-defined]  # asyncio reads ahead otherwise
        output.pause_reading()
        for each in range(300):
            await posted(daemon, each, attributes={f"filler {number}": "x" * 1000 for number in range(20)})
        await until(daemon.drained, "all are delivered")
        output.resume_reading()
        last = await posted(daemon, name="last")
        lines = [await next_line(process)]
        while lines[-1].get("id") != last or lines[-1]["outcome"] != "delivered":
            lines.append(await next_line(process))
        lost = [line["lost"] for line in lines if "lost" in line]
        assert lost
        assert None in lost or sum(lost) + len(lines) - len(lost) == 2 * 301


async def test_it_shows_only_the_names_and_customers_that_were_asked_for(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, NOWHERE) as daemon:
        async with tapping(daemon, "--json", "--name", "A", "--name", "B é", "--customer", "c") as process:
            await posted(daemon, name="A", customerId="d")
            await posted(daemon, name="C", customerId="c")
            wanted = [await posted(daemon, name=name, customerId="c") for name in ("A", "B é")]
            found: list[str] = []
            while len(found) < 2:
                line = await next_line(process)
                found += [line["id"]] if line["outcome"] == "accepted" else []
        assert found == wanted


async def test_where_there_are_no_taps_it_says_where_they_are(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, NOWHERE) as daemon:
        for place in (["--url", daemon.base], ["--unix-socket", str(daemon.unix_socket)]):
            code, out, told = await run_command("tap", *place)
            assert (code, out) == (1, "")
            assert "has no taps; taps are on the control socket alone: use --unix-socket" in told


async def test_the_fifth_tap_is_refused_with_a_reason(tmp_path: Path) -> None:
    async with (
        running_daemon(tmp_path, NOWHERE) as daemon,
        tapping(daemon),
        tapping(daemon),
        tapping(daemon),
        tapping(daemon),
    ):
        code, _, told = await run_command("tap", "--unix-socket", daemon.ready["control"])
    assert code == 1
    assert "as many taps are open as may be" in told
