"""`top` in a terminal: what it shows of a real daemon and of strangers, and that it leaves the terminal as it was."""

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.system.processes import (
    COMMAND,
    clean_environment,
    example_event,
    run_command,
    running_daemon,
    running_sandbox,
    starting_daemon,
    until,
)
from tests.system.terminals import Terminal, in_a_terminal

HOSTILE = "\x1b[2J\x1b]0;pwned\x07[red]\u202e"
LEAST = {"state": "ready", "ledger": {}}


@dataclass
class Stranger:
    """Answers /v1/status as a test wants; a real server."""

    port: int = 0
    status: int = 200
    content: Any = field(default_factory=lambda: dict(LEAST))
    runner: web.AppRunner | None = None
    hangs: bool = False
    is_asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it is asked while it hangs."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def answer(self, _: web.Request) -> web.Response:
        if self.hangs:
            self.is_asked.set()
            await asyncio.Event().wait()
        return web.json_response(self.content, status=self.status)

    async def start(self) -> None:
        """Serve, at the same address each time."""
        app = web.Application()
        app.router.add_get("/v1/status", self.answer)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()
        self.port = self.runner.addresses[0][1]

    async def stop(self) -> None:
        """Serve no more. May be called again."""
        if self.runner is not None:
            await self.runner.cleanup()


@pytest.fixture
async def stranger() -> AsyncIterator[Stranger]:
    made = Stranger()
    await made.start()
    yield made
    await made.stop()


def top(url: str, *arguments: str) -> list[str]:
    return [*COMMAND, "top", "--url", url, "--interval=0.1", *arguments]


def assert_is_as_it_was(terminal: Terminal) -> None:
    assert not terminal.is_alternate
    assert terminal.has_cursor
    assert terminal.modes_now() == terminal.modes
    assert "Traceback" not in terminal.written


async def test_it_shows_a_real_daemon_live_and_through_an_outage(tmp_path: Path) -> None:
    async with (
        running_sandbox() as sandbox,
        running_daemon(tmp_path, sandbox.url) as daemon,
        in_a_terminal(top(daemon.base)) as terminal,
    ):
        await terminal.until_it_shows("received 0 = accepted 0")
        assert terminal.is_alternate
        assert not terminal.has_cursor
        async with daemon.http.post(f"{daemon.base}/v1/events", json=[example_event(1), {"name": 1}]) as response:
            assert response.status == 202
        await terminal.until_it_shows("received 2 = accepted 1 + duplicates 0 + refused 1")
        await terminal.until_it_shows("accepted 1 = delivered 1 + dead 0 + dropped 0 + buffered 0")
        await terminal.until_it_shows("it balances")
        await sandbox.use_key("another")
        async with daemon.http.post(f"{daemon.base}/v1/events", json=[example_event(2)]) as response:
            assert response.status == 202
        await terminal.until_it_shows("HOLDS        auth for ")
        await terminal.until_it_shows("buffered 1")
        assert await daemon.stop() == 0
        await terminal.until_it_shows("NO ANSWER")
        assert terminal.shows("buffered 1"), "what was known stays"
        terminal.type("\x03")
        assert await terminal.until_it_ends() == 0
        assert_is_as_it_was(terminal)


async def test_it_shows_what_a_reload_of_a_real_daemon_came_to(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("")
    async with (
        running_daemon(tmp_path, "http://127.0.0.1:1/track/event", config=config) as daemon,
        in_a_terminal(top(daemon.base)) as terminal,
    ):
        await terminal.until_it_shows("ready")
        assert not terminal.shows("settings")
        config.write_text("[buffer]\nmax_events = 7\n")
        daemon.process.send_signal(signal.SIGHUP)
        await terminal.until_it_shows("settings     need a restart: buffer.max_events")
        config.write_text("[buffer]\nmax_events = 'many'\n")
        daemon.process.send_signal(signal.SIGHUP)
        await terminal.until_it_shows("settings     the last reload failed, nothing changed: ")


async def test_once_prints_plain_text_and_ends(tmp_path: Path) -> None:
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url) as daemon:
        code, out, err = await run_command("top", "--once", "--unix-socket", str(daemon.unix_socket))
    assert (code, err) == (0, "")
    assert re.search(r"^state +ready, up .*, at the Unix socket ", out, re.MULTILINE)
    assert "it balances" in out
    assert all(line.isprintable() for line in out.splitlines())


async def test_with_json_it_prints_the_whole_status_of_the_daemon_as_one_object_and_needs_no_rich(
    tmp_path: Path,
) -> None:
    code = "import sys; sys.modules['rich'] = None; from forwarder.cli import main; sys.exit(main(sys.argv[1:]))"
    async with running_daemon(tmp_path, "http://127.0.0.1:1/track/event") as daemon:
        command = ("top", "--once", "--json", "--unix-socket", str(daemon.unix_socket))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, *command, stdout=asyncio.subprocess.PIPE, env=clean_environment()
        )
        out, _ = await process.communicate()
        status = await daemon.status()
    assert process.returncode == 0
    assert out.count(b"\n") == 1
    assert json.loads(out).keys() == status.keys()


async def test_its_last_line_shows_the_keys_unless_it_is_very_small(stranger: Stranger) -> None:
    async with in_a_terminal(top(stranger.url, "--interval=3600"), columns=80, lines=24) as terminal:
        await terminal.until_it_shows("ready")
        await until(lambda: terminal.is_filled(80, 24), "all of the screen is drawn")
        assert terminal.lines[-1].rstrip() == "q quit   Ctrl-C quit   Ctrl-Z suspend"
        terminal.resize(80, 4)
        await terminal.until_it_hides("Ctrl-Z")
        terminal.type("q")
        assert await terminal.until_it_ends() == 0


async def test_without_a_terminal_it_is_as_with_once(stranger: Stranger) -> None:
    code, out, err = await run_command(*top(stranger.url)[len(COMMAND) :])
    assert (code, err) == (0, "")
    assert out.startswith("state ")


async def test_once_leaves_a_terminal_alone(stranger: Stranger) -> None:
    async with in_a_terminal(top(stranger.url, "--once")) as terminal:
        assert await terminal.until_it_ends() == 0
        assert "state" in terminal.written
        assert "\x1b[?" not in terminal.written
        assert_is_as_it_was(terminal)


@pytest.mark.parametrize("key", ["\x03", "q"])
async def test_a_key_ends_it_and_the_terminal_is_as_it_was(stranger: Stranger, key: str) -> None:
    async with in_a_terminal(top(stranger.url)) as terminal:
        await terminal.until_it_shows("ready")
        assert terminal.modes_now() != terminal.modes
        terminal.type(key)
        assert await terminal.until_it_ends() == 0
        assert_is_as_it_was(terminal)


async def test_a_daemon_that_does_not_answer_delays_neither_keys_nor_drawing(stranger: Stranger) -> None:
    async with in_a_terminal(top(stranger.url), columns=100, lines=30) as terminal:
        await terminal.until_it_shows("ready")
        stranger.hangs = True
        await stranger.is_asked.wait()
        terminal.lines = []
        terminal.resize(60, 24)
        await terminal.until_it_shows("ready")
        assert not terminal.shows("NO ANSWER"), "it still waits for the answer"
        terminal.type("q")
        assert await terminal.until_it_ends() == 0
        assert_is_as_it_was(terminal)


async def test_a_daemon_that_hangs_is_said_to(stranger: Stranger) -> None:
    async with in_a_terminal(top(stranger.url)) as terminal:
        await terminal.until_it_shows("ready")
        stranger.hangs = True
        await terminal.until_it_shows("NO ANSWER")
        await terminal.until_it_shows("lost: not all")
        stranger.hangs = False
        await terminal.until_it_hides("NO ANSWER")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_it_and_the_terminal_is_as_it_was(stranger: Stranger, number: int) -> None:
    async with in_a_terminal(top(stranger.url)) as terminal:
        await terminal.until_it_shows("ready")
        terminal.process.send_signal(number)
        assert await terminal.until_it_ends() == 0
        assert_is_as_it_was(terminal)


async def test_other_keys_do_nothing_and_are_not_shown(stranger: Stranger) -> None:
    async with in_a_terminal(top(stranger.url)) as terminal:
        await terminal.until_it_shows("ready")
        before = len(terminal.written)
        terminal.type("rm -rf\n\x1b[A")
        stranger.content = LEAST | {"state": "draining"}
        await terminal.until_it_shows("draining")
        terminal.type("q")
        assert await terminal.until_it_ends() == 0
        assert "rm" not in terminal.written[before:]


async def test_standard_input_need_not_be_the_terminal(stranger: Stranger) -> None:
    script = 'exec "$@" < /dev/null'
    async with in_a_terminal(["/bin/sh", "-c", script, "sh", *top(stranger.url)]) as terminal:
        await terminal.until_it_shows("ready")
        terminal.type("\x03")
        assert await terminal.until_it_ends() == 0
        assert_is_as_it_was(terminal)


async def test_a_terminal_that_is_closed_ends_it(stranger: Stranger) -> None:
    async with in_a_terminal(top(stranger.url)) as terminal:
        await terminal.until_it_shows("ready")
        terminal.hang_up()
        await until(lambda: terminal.process.returncode is not None, "it has ended")


async def test_ctrl_z_does_nothing_where_no_shell_could_go_on_with_it(stranger: Stranger) -> None:
    async with in_a_terminal(top(stranger.url)) as terminal:
        await terminal.until_it_shows("ready")
        terminal.type("\x1a")
        stranger.content = LEAST | {"state": "draining"}
        await terminal.until_it_shows("draining")
        assert terminal.is_alternate


@pytest.mark.parametrize(("columns", "lines"), [(1, 1), (500, 200)])
async def test_a_terminal_of_any_size_will_do(stranger: Stranger, columns: int, lines: int) -> None:
    stranger.content = LEAST | {"history": {"accepted": [1.0] * 60}}
    async with in_a_terminal(top(stranger.url), columns=columns, lines=lines) as terminal:
        await terminal.until_it_wrote(f"\x1b[{lines};1H")
        assert len(terminal.lines) <= lines
        assert max(map(len, terminal.lines)) <= columns
        terminal.type("q")
        assert await terminal.until_it_ends() == 0
        assert_is_as_it_was(terminal)


async def test_ctrl_z_gives_the_terminal_to_the_shell_and_fg_takes_it_again(stranger: Stranger) -> None:
    script = 'set -m; "$@"; echo suspended; read -r line; fg; echo ended $?'
    async with in_a_terminal(["/bin/bash", "--norc", "-c", script, "bash", *top(stranger.url)]) as terminal:
        await terminal.until_it_shows("ready")
        terminal.type("\x1a")
        await terminal.until_it_wrote("suspended")
        assert_is_as_it_was(terminal)
        terminal.lines = []
        terminal.type("\n")
        await terminal.until_it_shows("ready")
        terminal.type("q")
        assert await terminal.until_it_ends() == 0
        assert "ended 0" in terminal.written
        assert_is_as_it_was(terminal)


async def test_it_follows_the_size_of_the_terminal(stranger: Stranger) -> None:
    stranger.content = LEAST | {
        "holds": {"breaker": {"seconds": 12.5, "probe_in_seconds": 3}},
        "ledger": {"for_ever": dict.fromkeys(("received", "accepted", "delivered"), 9_999_999) | {"unaccounted": 0}},
        "history": {"accepted": [1.0] * 60},
    }  # fmt: skip
    async with in_a_terminal(top(stranger.url, "--interval=3600"), COLUMNS="200", LINES="90") as terminal:
        await terminal.until_it_shows("it balances")
        await until(lambda: terminal.is_filled(100, 30), "all of the screen is drawn")
        terminal.resize(60, 24)
        await until(lambda: terminal.is_filled(60, 24), "all of the smaller screen is drawn")
        assert terminal.shows("it balances")
        assert terminal.shows("conflicts")


async def test_without_a_daemon_at_the_start_it_says_so_and_touches_nothing() -> None:
    async with in_a_terminal(top("http://127.0.0.1:1")) as terminal:
        assert await terminal.until_it_ends() == 1
        assert "no daemon can be reached at http://127.0.0.1:1: Connection refused; start it with" in terminal.written
        assert "\x1b" not in terminal.written


async def test_it_waits_for_a_daemon_that_went_and_shows_the_new_one(stranger: Stranger) -> None:
    async with in_a_terminal(top(stranger.url)) as terminal:
        await terminal.until_it_shows("ready")
        await stranger.stop()
        await terminal.until_it_shows("NO ANSWER")
        await terminal.until_it_shows("Connection refused")
        assert terminal.shows("ready"), "what was known stays"
        stranger.content = LEAST | {"state": "draining"}
        await stranger.start()
        await terminal.until_it_shows("draining")
        await terminal.until_it_hides("NO ANSWER")


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (200, {"hello": "world"}, "not like a growlytics-forwarder"),
        (200, LEAST | {"buffer": {"bytes": "many"}}, "has a status that cannot be shown: Expected `int | null`, got"),
        (
            401,
            {"success": False, "errors": [{"code": "unauthorized", "message": "a token is needed"}]},
            "answered 401: a token is needed (unauthorized); run it with sudo and without --url; or use",
        ),
    ],
)
async def test_an_answer_that_cannot_be_shown_is_said_in_one_line(
    stranger: Stranger, status: int, content: dict[str, object], message: str
) -> None:
    stranger.status, stranger.content = status, content
    code, out, err = await run_command("top", "--once", "--url", stranger.url)
    assert (code, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


async def test_text_from_strangers_does_nothing_to_the_terminal(stranger: Stranger) -> None:
    stranger.content = {
        "state": HOSTILE,
        "version": HOSTILE,
        "ledger": {},
        "holds": {HOSTILE: {"seconds": 1}},
        "recent": {"refusals": [{"at": 1, "code": HOSTILE, "name": HOSTILE}]},
    }
    async with in_a_terminal(top(stranger.url)) as terminal:
        # The terminal of these tests refuses every sequence but those of drawing.
        await terminal.until_it_shows(r"HOLDS        \x1b[2J\x1b]0;pwned\x07")
        await terminal.until_it_shows(r"[red]\u202e")
        stranger.content = LEAST | {"holds": HOSTILE}
        await terminal.until_it_shows("Expected `object`, got `str` - at `$.holds`")
        terminal.type("q")
        assert await terminal.until_it_ends() == 0


@pytest.mark.parametrize("no_color", ["", "1"])
async def test_there_are_colours_unless_no_color_is_set(stranger: Stranger, no_color: str) -> None:
    async with in_a_terminal(top(stranger.url), NO_COLOR=no_color) as terminal:
        await terminal.until_it_shows("ready")
        colours = re.findall(r"\x1b\[(?:[0-9]+;)*(?:3[0-7]|38;[0-9;]+)m", terminal.written)
        assert bool(colours) is not bool(no_color)


async def test_without_rich_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['rich'] = None; from forwarder.cli import main; sys.exit(main(['top', '--once']))"
    async with in_a_terminal([sys.executable, "-c", code]) as terminal:
        assert await terminal.until_it_ends() == 78
        assert terminal.written == "top: rich is not installed; pip install 'growlytics-forwarder[top]'\r\n"


async def test_the_daemon_never_imports_rich(tmp_path: Path) -> None:
    code = (
        "import json, sys; from forwarder.cli import main; main(); found = sys.modules;"
        "print(json.dumps({'message': 'imported', 'rich': 'rich' in found, 'aiohttp': 'aiohttp' in found}))"
    )
    async with starting_daemon(tmp_path, "http://127.0.0.1:1/track/event", [sys.executable, "-c", code]) as daemon:
        assert await daemon.until_ready(), daemon.lines
        await daemon.status()
        assert await daemon.stop() == 0
    assert {"message": "imported", "rich": False, "aiohttp": True} in daemon.lines
