"""The demo: it balances, and it leaves nothing behind however it ends."""

import asyncio
import re
import signal
from functools import partial

import aiohttp
import pytest

from tests.system.processes import COMMAND, clean_environment, run_command, until


async def test_it_shows_an_outage_and_a_ledger_that_balances() -> None:
    code, out, err = await run_command("demo", "--events", "300")
    assert (code, err) == (0, "")
    assert "outage: the sandbox answers 503" in out
    assert "time_not_milliseconds" in out
    assert "It balances, and 300 of 300 accepted events arrived." in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_its_parts_end_with_it_when_it_is_interrupted(number: int) -> None:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "demo", "--events", "100000", stdout=asyncio.subprocess.PIPE, env=clean_environment()
    )
    assert process.stdout is not None
    said = ""
    async with asyncio.timeout(60):
        while "an app posts" not in said:
            said += (await process.stdout.readline()).decode()
        process.send_signal(number)
        await process.communicate()
    assert process.returncode == 1
    (sandbox,) = re.findall(r"sandbox .* on (http://\S+)", said)
    (daemon,) = re.findall(r"daemon on (http://\S+)", said)

    async def is_gone(url: str) -> bool:
        async with aiohttp.ClientSession() as http:
            try:
                async with http.get(url):
                    return False
            except aiohttp.ClientConnectorError:
                return True

    for url in (sandbox, daemon):
        await until(partial(is_gone, url), f"nobody listens at {url}")
