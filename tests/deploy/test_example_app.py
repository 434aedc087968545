"""The example app, as a process beside a daemon."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest

from tests.deploy.far_sides import ACCEPTED, answers, far_side, resets, sends
from tests.deploy.tools import DEPLOY
from tests.system.processes import clean_environment, running_daemon, running_sandbox, until


@pytest.mark.parametrize("way", ["tcp", "unix"])
async def test_it_posts_and_stops(way: str, tmp_path: Path) -> None:
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url) as daemon:
        where = f"unix:{daemon.unix_socket}" if way == "unix" else daemon.base
        app = await asyncio.create_subprocess_exec(
            sys.executable, "-I", str(DEPLOY / "example-app/app.py"),
            env=clean_environment(FORWARDER=where), stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            await until(sandbox.raw, "an event arrived")
        finally:
            app.send_signal(signal.SIGTERM)
            out, _ = await app.communicate()
        assert app.returncode == 0
        assert out.startswith(b"200 "), out
        assert json.loads((await sandbox.raw())[0])["name"] == "Add To Cart"


async def test_it_outlives_a_forwarder_that_is_not_there(tmp_path: Path) -> None:
    app = await asyncio.create_subprocess_exec(
        sys.executable, "-I", str(DEPLOY / "example-app/app.py"),
        env=clean_environment(FORWARDER=f"unix:{tmp_path}/none"), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert app.stdout is not None
    lines = [await app.stdout.readline() for _ in range(2)]
    app.send_signal(signal.SIGTERM)
    assert await app.wait() == 0
    assert all(b"does not answer" in line for line in lines)


async def test_it_posts_again_what_the_forwarder_could_not_take() -> None:
    """With the same key, so that it counts once."""
    full = answers("429 Too Many Requests", b"", "Retry-After: 1")
    with far_side(full, resets, sends(ACCEPTED)) as server:
        app = await asyncio.create_subprocess_exec(
            sys.executable, "-I", str(DEPLOY / "example-app/app.py"),
            env=clean_environment(FORWARDER=server.address), stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            await until(lambda: len(server.requests) >= 4, "an event was accepted, and the next one")
        finally:
            app.send_signal(signal.SIGTERM)
            out, _ = await app.communicate()
        assert app.returncode == 0
        first, second, third, fourth, *_ = server.keys()
        assert first == second == third != fourth
        assert [line.split()[0] for line in out.splitlines()[:3]] == [b"429", b"the", b"200"]


async def test_it_ends_while_it_waits_to_post_again() -> None:
    with far_side(answers("503 Service Unavailable", b"", "Retry-After: 9")) as server:
        app = await asyncio.create_subprocess_exec(
            sys.executable, "-I", str(DEPLOY / "example-app/app.py"),
            env=clean_environment(FORWARDER=server.address), stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert app.stdout is not None
        assert (await app.stdout.readline()).startswith(b"503 ")
        app.send_signal(signal.SIGTERM)
        assert await app.wait() == 0
        assert len(server.requests) == 1
