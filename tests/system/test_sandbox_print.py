"""`sandbox --print`, the real command: it shows what arrives, and serves on whatever happens to its output."""

import asyncio
import io
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.system.processes import COMMAND, KEY, clean_environment, example_event
from tests.system.terminals import in_a_terminal


def arguments(*more: str) -> list[str]:
    return [*COMMAND, "sandbox", "--http", "127.0.0.1:0", "--key", KEY, "--print", *more]


@asynccontextmanager
async def printing(*more: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    process = await asyncio.create_subprocess_exec(
        *arguments(*more), stdout=asyncio.subprocess.PIPE, env=clean_environment()
    )
    try:
        yield process, (await next_line(process)).split()[3]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def next_line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return (await process.stdout.readline()).decode()


async def post(http: aiohttp.ClientSession, url: str, body: Any, key: str = KEY) -> int:
    headers = {"x-growlytics-key": key, "Content-Type": "application/json"}
    data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
    async with http.post(url, data=data, headers=headers) as answer:
        return answer.status


async def test_each_event_is_a_line_with_the_status_that_it_was_given() -> None:
    async with printing() as (process, url), aiohttp.ClientSession() as http:
        assert await post(http, url, example_event(1)) == 200
        line = await next_line(process)
        assert '  200  YOUR_APP_CUSTOMER_ID-1  Add To Cart  {"Product Id":"number-1",' in line
        assert await post(http, url, {**example_event(1), "time": 1}) == 422
        line = await next_line(process)
        assert "  422  YOUR_APP_CUSTOMER_ID-1  Add To Cart" in line
        assert line.endswith("(time_not_milliseconds: time)\n")
        assert await post(http, url, b"{\x1b") == 422
        assert (await next_line(process)).endswith("  422  {\\x1b  (malformed_json)\n")
        assert await post(http, url, example_event(1), key="another") == 401
        assert (await next_line(process)).endswith("(unauthorized)\n")
        assert await post(http, url, b" " * (1 << 21)) == 413
        assert (await next_line(process)).endswith("  413  (body_too_large)\n")
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def test_an_event_that_gets_no_answer_is_shown_too() -> None:
    async with printing() as (process, url), aiohttp.ClientSession() as http:
        for faults, status in (({"reset_after_read_rate": 1}, "reset"), ({"hang_rate": 1}, "hangs")):
            async with http.delete(url.replace("track/event", "_sandbox/faults")) as answer:
                assert answer.status < 300
            async with http.patch(url.replace("track/event", "_sandbox/faults"), json=faults) as answer:
                assert answer.status == 200
            posting = asyncio.create_task(post(http, url, example_event(1)))
            assert f"  {status}  YOUR_APP_CUSTOMER_ID-1  Add To Cart" in await next_line(process)
            posting.cancel()
            await asyncio.wait([posting])


async def test_an_output_that_nobody_reads_or_that_is_closed_holds_up_no_event() -> None:
    async with printing() as (process, url), aiohttp.ClientSession() as http:
        transport = process._transport.get_pipe_transport(1)  # type: ignore[attr-defined]
        transport.pause_reading()
        large = {**example_event(1), "attributes": {f"filler {number}": "x" * 1000 for number in range(50)}}
        for _ in range(300):
            assert await post(http, url, large) == 200
        transport.close()
        for _ in range(10):
            assert await post(http, url, large) == 200
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await process.wait() == 0


async def test_a_terminal_that_was_stopped_or_closed_holds_up_no_event() -> None:
    async with in_a_terminal(arguments()) as terminal, aiohttp.ClientSession() as http:
        await terminal.until_it_wrote("sandbox ready on ")
        url = terminal.written.split()[3]
        assert await post(http, url, example_event(7)) == 200
        await terminal.until_it_wrote("YOUR_APP_CUSTOMER_ID-7  Add To Cart")
        terminal.type("\x13")  # Ctrl-S
        for _ in range(300):
            assert await post(http, url, example_event(1)) == 200
        terminal.type("\x11\x03")  # Ctrl-Q, Ctrl-C
        assert await terminal.until_it_ends() == 0
