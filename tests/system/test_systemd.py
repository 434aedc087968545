"""The daemon as a service of systemd: what it tells, and that the unit file is sound and leaves little to attack."""

import asyncio
import re
import shlex
import socket
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.other_users import NEEDS_ROOT
from tests.system.processes import (
    COMMAND,
    Daemon,
    example_event,
    running_daemon,
    running_sandbox,
    starting_daemon,
    until,
)
from tests.system.tools import needs

UNIT = Path(__file__).parents[2] / "deploy" / "growlytics-forwarder.service"
MAX_EXPOSURE_TENTHS = 20


@pytest.fixture
def notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket in the place of systemd's, which processes started from now on are told of."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.setblocking(False)
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        yield listener


async def told(notify: socket.socket, lines: str) -> None:
    """Wait for a datagram that holds these lines; what comes before it is passed over."""
    async with asyncio.timeout(20):
        while not re.search(f"(?m)^{lines}$", (await asyncio.get_running_loop().sock_recv(notify, 4096)).decode()):
            pass


async def post(daemon: Daemon) -> None:
    async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(1)) as response:
        assert response.status == 200


async def test_systemd_hears_that_it_is_ready_alive_held_up_and_stopping(tmp_path: Path, notify: socket.socket) -> None:
    settings = {"delivery__breaker_failures": 1, "shutdown__accept_seconds": 1, "shutdown__drain_seconds": 30}
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url, **settings) as daemon:
        first = (await asyncio.get_running_loop().sock_recv(notify, 4096)).decode()
        assert first == "READY=1"
        await told(notify, "WATCHDOG=1")
        await told(notify, "STATUS=ready, 0 events in the buffer")
        await sandbox.faults(down=True)
        await post(daemon)
        await told(notify, "STATUS=ready, 1 events in the buffer; delivery is paused: breaker")
        await sandbox.faults(down=False)
        await told(notify, "STATUS=ready, 0 events in the buffer")
        stopping = asyncio.create_task(daemon.stop())
        await told(notify, "STOPPING=1\nEXTEND_TIMEOUT_USEC=46000000")  # both settings and what closing takes
        await told(notify, "STATUS=stopping, .*")
        assert await stopping == 0


async def test_it_is_not_ready_before_its_sockets_are_open(tmp_path: Path, notify: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "forwarder", "run", "--set=growlytics.api_key=k", "--set=admin.http=",
            f"--set=intake.http=127.0.0.1:{taken.getsockname()[1]}", f"--set=buffer.directory={tmp_path / 'buffer'}",
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        async with asyncio.timeout(20):
            assert await process.wait() == 69
    with pytest.raises(BlockingIOError):
        notify.recv(4096)


async def test_a_socket_of_systemds_that_is_gone_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url) as daemon:
        await post(daemon)
        await until(daemon.drained, "it is delivered")
        assert await daemon.stop() == 0


async def analyze(*arguments: str | Path) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        needs("systemd-analyze"), *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    return process.returncode, out.decode()


async def test_the_unit_is_sound_and_its_commands_are_ours(tmp_path: Path) -> None:
    """systemd looks whether the commands are there, so the copy that is verified has some in their place."""
    text = UNIT.read_text(encoding="utf-8")
    installed = "/opt/growlytics-forwarder/bin/growlytics-forwarder"
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace(installed, sys.executable), encoding="utf-8")
    assert await analyze("verify", "--man=no", unit) == (0, "")
    commands = [shlex.split(each) for each in re.findall(r"(?m)^Exec(?:Start|StartPre|Reload)=(.*)", text)]
    check, run, check_again, hang_up = commands
    assert [check[:2], run[:2], hang_up] == [
        [installed, "check-config"],
        [installed, "run"],
        ["/bin/kill", "-HUP", "$MAINPID"],
    ]
    assert check == check_again
    lines = text.splitlines()
    for line in ("Type=notify", "DynamicUser=yes", "StateDirectory=growlytics-forwarder"):
        assert line in lines


_AS_THE_UNIT = """
set -e
mount -t tmpfs none /run
for directory in $(echo "$RUNTIME_DIRECTORY" | tr : " "); do mkdir "$directory"; done
exec "$@"
"""
"""In mounts of its own: this machine's /run stays as it is."""


@NEEDS_ROOT
@pytest.mark.parametrize("directories", ["given", "reversed"])
async def test_roots_commands_find_the_daemon_of_the_unit(
    directories: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control socket is in the unit's other directory, away from the app's, in whatever order systemd names them."""
    names = re.findall(r"(?m)^RuntimeDirectory=(.*)$", UNIT.read_text(encoding="utf-8"))[0].split()
    paths = [f"/run/{name}" for name in (names if directories == "given" else names[::-1])]
    monkeypatch.setenv("RUNTIME_DIRECTORY", ":".join(paths))
    settings = tomllib.loads((UNIT.parents[1] / "config/systemd.toml").read_text(encoding="utf-8"))
    socket_of_apps = Path(settings["intake"]["unix_socket"])
    command = ["unshare", "--mount", "/bin/sh", "-c", _AS_THE_UNIT, "sh", *COMMAND]
    async with starting_daemon(
        tmp_path, "http://127.0.0.1:9/track/event", command, intake__unix_socket=socket_of_apps
    ) as daemon:
        assert await daemon.until_ready(), daemon.lines
        control = Path(daemon.ready["control"])
        assert control.parent != socket_of_apps.parent
        assert str(control.parent) in paths
        within = ["nsenter", f"--target={daemon.process.pid}", "--mount", *COMMAND]
        for arguments in (("status",), ("dead-letters", "export")):
            process = await asyncio.create_subprocess_exec(
                *within,
                *arguments,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            async with asyncio.timeout(60):
                out, err = await process.communicate()
            assert process.returncode == 0, (arguments, out.decode(), err.decode())


async def test_the_unit_leaves_little_to_attack() -> None:
    code, out = await analyze(
        "security", "--offline=true", "--no-pager", f"--threshold={MAX_EXPOSURE_TENTHS}", str(UNIT)
    )
    assert code == 0, out
