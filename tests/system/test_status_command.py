"""`status` against a real daemon and against strangers: one screen, JSON as it is, exit codes, and what is no daemon."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.system.processes import COMMAND, clean_environment, run_command, running_daemon, running_sandbox, until
from tests.system.states import QUICK, full_buffer, post
from tests.system.terminals import in_a_terminal
from tests.system.test_top import LEAST, Stranger

BAD = {"headline": {"state": "refusing", "mood": "bad", "text": "The buffer is full."}}


@asynccontextmanager
async def answering_with(content: Any, status: int = 200) -> AsyncIterator[str]:
    """Serve /v1/status with this content, and yield the URL."""
    stranger = Stranger(content=content, status=status)
    await stranger.start()
    try:
        yield stranger.url
    finally:
        await stranger.stop()


async def test_a_daemon_that_is_well_is_shown_with_exit_code_0(tmp_path: Path) -> None:
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url, **QUICK) as daemon:
        await post(daemon, 1)
        await until(daemon.drained, "it is delivered")
        code, out, err = await run_command("status", "--url", daemon.base)
        assert (code, err) == (0, "")
        assert "ok    All accepted events are safe. Delivering: no event waits, the last one" in out
        assert f"delivers to  {sandbox.url}" in out
        assert f"asked at     {daemon.base}, process {daemon.process.pid}" in out


async def test_as_json_it_is_what_the_daemon_answers(tmp_path: Path) -> None:
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url) as daemon:
        code, out, err = await run_command("status", "--json", "--unix-socket", str(daemon.unix_socket))
        assert (code, err) == (0, "")
        shown, current = json.loads(out), await daemon.status()
        assert shown.keys() == current.keys()
        assert (shown["instance"], shown["addresses"]) == (current["instance"], current["addresses"])


async def test_something_bad_fits_on_one_screen_and_has_exit_code_1(tmp_path: Path) -> None:
    async with full_buffer(tmp_path) as situation:
        command = [*COMMAND, "status", f"--unix-socket={situation.daemon.unix_socket}"]
        async with in_a_terminal(command, columns=80, lines=24) as terminal:
            assert await asyncio.wait_for(terminal.process.wait(), 60) == 1
            terminal.take()
            lines = terminal.written.replace("\r\n", "\n").splitlines()
    assert len(lines) <= 23
    assert any("The buffer is full: new events are refused" in line for line in lines)
    assert any("asked at" in line for line in lines)
    assert "\x1b[1;31m" in terminal.written


@pytest.mark.parametrize(("term", "no_color"), [("xterm", "1"), ("dumb", "")])
async def test_colours_are_left_out_where_they_are_not_wanted(term: str, no_color: str) -> None:
    async with answering_with(LEAST | BAD) as url:
        command = [*COMMAND, "status", f"--url={url}"]
        async with in_a_terminal(command, TERM=term, NO_COLOR=no_color) as terminal:
            assert await asyncio.wait_for(terminal.process.wait(), 60) == 1
            terminal.take()
    assert "BAD   The buffer is full." in terminal.written
    assert "\x1b" not in terminal.written


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        ({"hello": 1}, 200, "not like a growlytics-forwarder"),
        ([], 200, "not like a growlytics-forwarder"),
        (LEAST, 404, "answered 404"),
        (LEAST | {"problems": 5}, 200, "a status that cannot be shown: Expected `array`"),
        (LEAST | {"headline": []}, 200, "a status that cannot be shown"),
    ],
)
async def test_what_is_no_forwarder_is_said_so(content: Any, status: int, message: str) -> None:
    async with answering_with(content, status) as url:
        code, out, err = await run_command("status", "--url", url)
        assert (code, out) == (1, "")
        assert message in err
        assert err.endswith("\n")


async def test_a_daemon_of_an_older_version_is_shown_as_far_as_it_tells() -> None:
    async with answering_with(LEAST | {"version": "0.1.0"}) as url:
        code, out, _ = await run_command("status", "--url", url)
        assert code == 0
        assert "growlytics-forwarder 0.1.0: ready" in out
        assert "older version" in out


async def test_without_a_daemon_the_exit_code_is_1_and_the_message_says_what_to_do(tmp_path: Path) -> None:
    for arguments in (["--json"], []):
        code, out, err = await run_command("status", *arguments, f"--unix-socket={tmp_path}/none.sock")
        assert (code, out) == (1, "")
        assert "no daemon can be reached" in err


async def test_a_standard_output_that_is_closed_is_no_bug() -> None:
    async with answering_with(LEAST | BAD) as url:
        process = await asyncio.create_subprocess_shell(
            f"{sys.executable} -m forwarder status --url {url} >&-",
            stderr=asyncio.subprocess.PIPE,
            env=clean_environment(),
        )
        _, err = await process.communicate()
        assert process.returncode == 1
        assert b"Traceback" not in err


async def test_the_daemon_says_the_same_over_tcp_as_over_its_control_socket(tmp_path: Path) -> None:
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url) as daemon:
        connector = aiohttp.UnixConnector(daemon.ready["control"])
        async with (
            aiohttp.ClientSession(connector=connector) as control,
            control.get("http://localhost/v1/status") as response,
        ):
            over_control = await response.json()
        over_tcp = await daemon.status()
    for name in ("headline", "problems", "addresses", "rates"):
        assert over_control[name] == over_tcp[name]
