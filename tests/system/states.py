"""Daemons in trouble: each state is made for real, can be read in the status and on the page, and ended as a person would.

Used by the tests that play on-call, with the command and with a browser, and by the screenshots.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from tests.fakes.certificates import Authority
from tests.fakes.client_harness import OK
from tests.fakes.raw_server import Connection, answer, answering, raw_server
from tests.system.processes import (
    KEY,
    Daemon,
    Sandbox,
    clean_environment,
    example_event,
    running_daemon,
    running_sandbox,
    until,
)
from tests.system.scripted_far_side import running_far_side
from tests.system.small_disks import fill, small_disk

QUICK: Final[Mapping[str, object]] = {
    "delivery__breaker_failures": 2,
    "delivery__retry_initial_seconds": 0.05,
    "delivery__retry_max_seconds": 0.5,
    "delivery__probe_initial_seconds": 0.2,
    "delivery__probe_max_seconds": 1,
    "shutdown__drain_seconds": 0.5,
}
"""Settings with which a state comes and ends soon."""


@dataclass
class Situation:
    """A daemon in trouble."""

    daemon: Daemon
    """The running one, also after `end`, which may start it again."""
    kind: str
    """The kind of the problem in the status."""
    words: tuple[str, ...]
    """What the problem's cause must say."""
    headline: str
    """The state of the headline."""
    end: Callable[[], Awaitable[None]]
    """Do what the fix says. Return at once; the daemon notices by itself."""
    needs_everything: bool = True
    """Whether all events are delivered once it has ended, and nothing needs attention."""


State = Callable[[Path], AbstractAsyncContextManager[Situation]]
"""Makes a state, with a directory for all files; the state is there soon, though perhaps not at once."""


async def typed(command: str, *, cwd: Path, **more: str) -> tuple[int, str, str]:
    """Type a command into a shell, as it stands, and return exit code, output and errors. `more` is for its environment.

    There is a terminal to type at, and a question is answered with yes.
    """
    keyboard, terminal = os.openpty()
    os.write(keyboard, b"y\n")
    process = await asyncio.create_subprocess_shell(
        command,
        stdin=terminal,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(**more),
        cwd=cwd,
    )
    try:
        async with asyncio.timeout(60):
            out, err = await process.communicate()
    finally:
        os.close(terminal)
        os.close(keyboard)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def post(
    daemon: Daemon,
    number: int,
    *,
    customer: str | None = None,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **attributes: Any,
) -> None:
    """Post the example event of this number, of a customer of its own unless one is given."""
    event = example_event(number) | {"customerId": customer or f"customer-{number}"}
    if attributes:
        event["attributes"] = attributes
    async with daemon.http.post(f"{daemon.base}/track/event", json=event, headers=headers) as response:
        assert response.status == status, await response.text()


@asynccontextmanager
async def wrong_key(directory: Path) -> AsyncIterator[Situation]:
    """Growlytics does not know the key in `growlytics.api_key_file`."""
    key_file = directory / "growlytics key"
    key_file.write_text("not-the-key\n")

    async def write_key() -> None:
        key_file.write_text(f"{KEY}\n")

    async with (
        running_sandbox() as sandbox,
        running_daemon(directory, sandbox.url, growlytics__api_key_file=key_file, **QUICK) as daemon,
    ):
        await post(daemon, 1)
        yield Situation(daemon, "auth", ("401 Unauthorized", "127.0.0.1"), "not_delivering", write_key)


@asynccontextmanager
async def unknown_host(directory: Path) -> AsyncIterator[Situation]:
    """The host in `growlytics.url` does not exist."""
    async with running_sandbox() as sandbox, AsyncExitStack() as daemons:
        wrong = await daemons.enter_async_context(
            running_daemon(directory, "https://nobody.invalid/track/event", **QUICK)
        )
        await post(wrong, 1)

        async def correct_url_and_restart() -> None:
            await wrong.stop()
            situation.daemon = await daemons.enter_async_context(running_daemon(directory, sandbox.url, **QUICK))

        situation = Situation(
            wrong, "breaker", ("no such host nobody.invalid",), "not_delivering", correct_url_and_restart
        )
        yield situation


@asynccontextmanager
async def expired_certificate(directory: Path) -> AsyncIterator[Situation]:
    """The far side's certificate has expired."""
    authority = Authority(directory)
    tls = authority.tls_for("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1))

    async def renew() -> None:
        authority.certify(tls, "127.0.0.1")

    async with (
        raw_server(answering(OK), tls=tls) as server,
        running_daemon(directory, server.url, growlytics__ca_file=authority.file, **QUICK) as daemon,
    ):
        await post(daemon, 1)
        words = ("certificate has expired", f"127.0.0.1:{server.port}")
        yield Situation(daemon, "breaker", words, "not_delivering", renew)


@asynccontextmanager
async def refused_connection(directory: Path) -> AsyncIterator[Situation]:
    """Nobody listens where `growlytics.url` points to."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
    async with AsyncExitStack() as started:
        daemon = await started.enter_async_context(running_daemon(directory, f"http://{address}/track/event", **QUICK))
        await post(daemon, 1)

        async def start_it() -> None:
            await started.enter_async_context(running_sandbox("--http", address))

        yield Situation(daemon, "breaker", ("connection refused", address), "not_delivering", start_it)


@asynccontextmanager
async def full_buffer(directory: Path) -> AsyncIterator[Situation]:
    """Growlytics fails, and the buffer is full."""
    async with running_sandbox() as sandbox:
        await sandbox.faults(fail_rate=1, fail_status=503)
        async with running_daemon(directory, sandbox.url, buffer__max_events=5, **QUICK) as daemon:
            for number in range(5):
                await post(daemon, number)
            await post(daemon, 5, status=429)
            words = ("5 events of 5",)
            yield Situation(daemon, "buffer_full", words, "refusing", lambda: without_faults(sandbox))


@asynccontextmanager
async def systemic_rejection(directory: Path) -> AsyncIterator[Situation]:
    """Growlytics rejects whatever comes."""
    async with running_sandbox() as sandbox:
        await sandbox.faults(fail_rate=1, fail_status=422)
        settings = {"delivery__systemic_rejections": 3, **QUICK}
        async with running_daemon(directory, sandbox.url, **settings) as daemon:
            for number in range(4):
                await post(daemon, number)
            words = ("422 Unprocessable",)
            yield Situation(daemon, "systemic", words, "not_delivering", lambda: without_faults(sandbox))


async def nothing_more() -> None:
    """Do nothing: what is recommended has ended it."""


async def without_faults(sandbox: Sandbox) -> None:
    """Let Growlytics work again."""
    await sandbox.faults(fail_rate=0)


@asynccontextmanager
async def poison_event(directory: Path) -> AsyncIterator[Situation]:
    """A filter before Growlytics objects to one event, again and again; the events of others are delivered."""
    poisonous = {0}

    async def end_the_filter() -> None:
        poisonous.clear()

    async with (
        running_far_side(lambda number, _: 403 if number in poisonous else 200) as far,
        running_daemon(directory, far.url, **QUICK) as daemon,
    ):
        await post(daemon, 1)
        await post(daemon, 0, customer="somebody")
        await post(daemon, 2, customer="somebody")
        yield Situation(daemon, "suspect", ("answered 403", "Add To Cart"), "needs_attention", end_the_filter)


@asynccontextmanager
async def everything_refused(directory: Path) -> AsyncIterator[Situation]:
    """After the first event something on the way refuses all, but of too few customers to pause delivery for it."""
    refuses = {"now": False}

    async def end_the_filter() -> None:
        refuses["now"] = False

    async with (
        running_far_side(lambda *_: 403 if refuses["now"] else 200) as far,
        running_daemon(directory, far.url, **QUICK) as daemon,
    ):
        await post(daemon, 0)
        await until(daemon.drained, "the key has delivered something")
        refuses["now"] = True
        for number in range(1, 6):
            await post(daemon, number)
        yield Situation(daemon, "failing", ("403 Forbidden", "127.0.0.1"), "not_delivering", end_the_filter)


async def is_unavailable(daemon: Daemon) -> bool:
    """Return whether the buffer accepts nothing."""
    return not (await daemon.status())["buffer"]["available"]


@asynccontextmanager
async def lost_directory(directory: Path) -> AsyncIterator[Situation]:
    """Somebody moved the buffer's directory away while the daemon runs."""
    place, elsewhere = directory / "buffer", directory / "elsewhere"

    async def put_it_back() -> None:
        elsewhere.rename(place)

    async with running_sandbox() as sandbox, running_daemon(directory, sandbox.url, **QUICK) as daemon:
        await post(daemon, 1)
        place.rename(elsewhere)
        await until(lambda: is_unavailable(daemon), "it notices")
        await post(daemon, 2, status=503)
        yield Situation(daemon, "buffer_gone", ("buffer.db",), "refusing", put_it_back)


@asynccontextmanager
async def type_drift(directory: Path) -> AsyncIterator[Situation]:
    """An app sends a string where it sent a number before."""
    async with running_sandbox() as sandbox, running_daemon(directory, sandbox.url, **QUICK) as daemon:
        await post(daemon, 1, Price=4531)
        await post(daemon, 2, Price="4531")
        words = ("Price of Add To Cart came as string, and was number before",)
        yield Situation(daemon, "type_conflict", words, "needs_attention", nothing_more)


@asynccontextmanager
async def empty_key_file(directory: Path) -> AsyncIterator[Situation]:
    """Growlytics refuses the key, and somebody who wanted to correct its file has emptied it."""
    async with wrong_key(directory) as situation:
        key_file = directory / "growlytics key"
        key_file.write_text("")

        async def is_noticed() -> bool:
            return bool((await situation.daemon.status())["settings"]["file_faults"])

        await until(is_noticed, "it has read the file again")
        situation.words = (*situation.words, "growlytics.api_key_file")
        yield situation


@asynccontextmanager
async def captive_portal(directory: Path) -> AsyncIterator[Situation]:
    """Something else answers in place of Growlytics, with web pages."""
    answers = [answer("200 OK", b"<html>Welcome to the hotel</html>", "Content-Type: text/html")]

    async def log_in() -> None:
        answers[0] = OK

    async def serve(connection: Connection) -> None:
        while await connection.request() is not None:
            await connection.send(answers[0])

    async with raw_server(serve) as server, running_daemon(directory, server.url, **QUICK) as daemon:
        await post(daemon, 1)
        words = ("200 OK, with a page instead of Growlytics' answer",)
        yield Situation(daemon, "not_growlytics", words, "not_delivering", log_in)


@asynccontextmanager
async def refusing_proxy(directory: Path) -> AsyncIterator[Situation]:
    """The proxy wants other credentials."""
    async with (
        running_sandbox() as sandbox,
        raw_server(answering(answer("407 Proxy Authentication Required"))) as proxy,
        AsyncExitStack() as daemons,
    ):
        behind = {**QUICK, "growlytics__proxy": f"http://user:CANARY@127.0.0.1:{proxy.port}"}
        url = "https://growlytics.invalid/track/event"
        refused = await daemons.enter_async_context(running_daemon(directory, url, **behind))
        await post(refused, 1)

        async def go_without_it() -> None:
            await refused.stop()
            situation.daemon = await daemons.enter_async_context(running_daemon(directory, sandbox.url, **QUICK))

        words = ("the proxy refused: 407", f"127.0.0.1:{proxy.port}")
        situation = Situation(refused, "proxy_refuses", words, "not_delivering", go_without_it)
        yield situation


@asynccontextmanager
async def told_to_wait(directory: Path) -> AsyncIterator[Situation]:
    """Growlytics asks to wait."""
    statuses = {"now": 429}

    async def have_waited() -> None:
        statuses["now"] = 200

    async with (
        running_far_side(lambda *_: statuses["now"], retry_after="5") as far,
        running_daemon(directory, far.url, **QUICK) as daemon,
    ):
        await post(daemon, 1)
        yield Situation(daemon, "retry_after", ("429 Too Many Requests",), "not_delivering", have_waited)


@asynccontextmanager
async def full_disk(directory: Path) -> AsyncIterator[Situation]:
    """Something else has filled the disk of the buffer."""
    async with small_disk(directory / "disk", mib=24) as disk, running_sandbox() as sandbox:

        async def make_room() -> None:
            (disk / "ballast").unlink()

        settings = {"buffer__directory": disk / "buffer", **QUICK}
        async with running_daemon(directory, sandbox.url, **settings) as daemon:
            await post(daemon, 1)
            fill(disk)

            async def is_refused() -> bool:
                events = [example_event(number) for number in range(500)]
                async with daemon.http.post(f"{daemon.base}/v1/events", json=events) as response:
                    return response.status == 503

            await until(is_refused, "there is no room")
            yield Situation(daemon, "disk_full", ("disk is full",), "refusing", make_room)


OTHERS: Final[dict[str, State]] = {
    each.__name__: each
    for each in (empty_key_file, captive_portal, refusing_proxy, told_to_wait, full_disk, everything_refused)
}
"""More states, by their names."""
STATES: Final[dict[str, State]] = {
    each.__name__: each
    for each in (
        wrong_key,
        unknown_host,
        expired_certificate,
        refused_connection,
        full_buffer,
        systemic_rejection,
        poison_event,
        lost_directory,
        type_drift,
    )
}
"""By their names."""
