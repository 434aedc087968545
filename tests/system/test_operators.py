"""A socket that every user may post to, on the real command: who operates the daemon over it, and what others are told."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest

from tests.fakes.other_users import NEEDS_ROOT, User, open_directory
from tests.system.processes import clean_environment, example_event, run_command, running_daemon, until

NOWHERE = "http://127.0.0.1:1/track/event"
EVENT = json.dumps(example_event(1))
POST = ("POST", "/track/event", EVENT)
OPERATIONS = (
    ("GET", "/v1/dead-letters?payload=true", ""),
    ("POST", "/v1/dead-letters/purge", '{"ids":["1"]}'),
    ("POST", "/v1/dead-letters/replay", '{"ids":["1"]}'),
    ("POST", "/v1/attribute-types/forget", '{"name":"Add To Cart"}'),
    ("POST", "/v1/attribute-types/import", '{"types":{}}'),
)
GROUP = 54400


@NEEDS_ROOT
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_every_user_may_post_and_a_group_is_let_in_without_a_restart(loop: str) -> None:
    with open_directory() as directory:
        config = directory / "config.toml"
        config.write_text("[intake]\nunix_socket_mode = '0666'\n")
        async with running_daemon(directory, NOWHERE, config=config, loop=loop) as daemon:
            member = User(groups=(GROUP,))
            answers = await member.ask_closely(daemon.unix_socket, POST, *OPERATIONS)
            assert [status for status, *_ in answers] == [200, *[403] * len(OPERATIONS)]
            for _, code, body in answers[1:]:
                assert code == "forbidden_user"
                assert "control.group" in body
            assert all(status == 200 for status, _ in await User(user=0).ask(daemon.unix_socket, *OPERATIONS))
            config.write_text(f"[intake]\nunix_socket_mode = '0666'\n[control]\ngroup = {GROUP}\n")
            daemon.process.send_signal(signal.SIGHUP)
            await until(lambda: any("read again" in line["message"] for line in daemon.lines), "it says so")
            assert all(status == 200 for status, _ in await member.ask(daemon.unix_socket, *OPERATIONS))
            assert [status for status, _ in await User().ask(daemon.unix_socket, *OPERATIONS)] == [403] * len(
                OPERATIONS
            )


# Python cannot be read by every user everywhere, so what a command needs is imported before.
_COMMAND = """
import os, sys
from forwarder.cli import main
def run(*arguments):
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code
options = ["--unix-socket", sys.argv[1]]
run("dead-letters", "export", *options)
run("attribute-types", "forget", "x", *options)
os.setgroups([]), os.setgid(54322), os.setuid(54321)
for arguments in (("dead-letters", "export"), ("attribute-types", "forget", "x")):
    for more in ((), ("--token-file", sys.argv[2])):
        print(">", run(*arguments, *options, *more), file=sys.stderr, flush=True)
"""


@NEEDS_ROOT
async def test_a_command_of_another_user_says_what_to_do_and_sends_the_token_over_the_socket() -> None:
    with open_directory() as directory:
        token = directory / "token"
        token.write_text("s3cret")
        settings = {"intake__unix_socket_mode": "0666", "intake__token": "s3cret"}
        async with running_daemon(directory, NOWHERE, **settings) as daemon:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _COMMAND,
                str(daemon.unix_socket),
                str(token),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env=clean_environment(),
            )
            _, told = await process.communicate()
    assert process.returncode == 0, told.decode()
    *_, letters, with_token, types, types_with_token = told.decode().split(">")[-5:]
    codes = [int(part.split()[0]) for part in (letters, with_token, types, types_with_token)]
    assert codes == [1, 0, 1, 1], "nothing was learned of x, which is its own no"
    said = told.decode()
    assert (
        said.count(
            f"the Unix socket {daemon.unix_socket} answered 403: over a Unix socket this is for the daemon's own"
        )
        == 2
    )
    assert said.count("(forbidden_user); run it with sudo or as one of them, or use --token-file") == 2


@pytest.mark.parametrize("command", [["check-config"], ["run"]])
async def test_a_group_that_there_is_not_is_a_configuration_error_that_names_it(command: list[str]) -> None:
    environment = clean_environment(GROWLYTICS_API_KEY="k")
    code, _, told = await run_command(*command, "--set=control.group=no-such-group", environment=environment)
    assert code == 78
    assert 'control.group: must be the name or the number of a group of this machine, not "no-such-group"' in told


async def test_a_key_is_known_with_its_event_after_a_restart_and_after_a_kill(tmp_path: Path) -> None:
    other = json.dumps(example_event(2))
    ids = set()
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        async with running_daemon(tmp_path, NOWHERE, shutdown__drain_seconds=0) as daemon:
            for body, status in ((EVENT, 200), (other, 422), (EVENT, 200)):
                headers = {"Idempotency-Key": "order-1337", "Content-Type": "application/json"}
                async with daemon.http.post(f"{daemon.base}/track/event", data=body, headers=headers) as response:
                    assert response.status == status
                    answer = await response.json()
                    ids |= {answer["id"]} if status == 200 else set()
                    assert status == 200 or answer["errors"][0]["code"] == "idempotency_key_reused"
            metrics = await daemon.metrics()
            assert metrics['growlytics_forwarder_events_rejected_total{reason="idempotency_key_reused"}'] == 1
            await daemon.stop(number)
    assert len(ids) == 1
