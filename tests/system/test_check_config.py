"""`check-config` beside real files, sockets, ports and daemons: it finds what keeps `run` from starting, without a trace."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.other_users import NEEDS_ROOT, open_directory
from tests.system.processes import COMMAND, KEY, Daemon, clean_environment, example_event, running_daemon
from tests.system.tools import needs

FAR_SIDE = "http://127.0.0.1:9/track/event"
NOBODY = 65534


class Checked:
    """What the command found."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.err = err
        content: Mapping[str, Any] = json.loads(out)
        self.ok = content["ok"]
        self.process = content["process"]
        self.errors = {each["setting"]: each["message"] for each in content["errors"]}
        self.warnings = {each["setting"]: each["message"] for each in content["warnings"]}


def check(
    *overrides: str,
    options: Sequence[str] = (),
    prefix: Sequence[str] = (),
    as_nobody: bool = False,
    **environment: str,
) -> Checked:
    command = [sys.executable, "-c", AS_NOBODY] if as_nobody else COMMAND
    arguments = [f"--set={each}" for each in (f"growlytics.url={FAR_SIDE}", *overrides)]
    done = subprocess.run(
        [*prefix, *command, "check-config", "--json", *options, *arguments],
        env=clean_environment(FORWARDER_GROWLYTICS__API_KEY=KEY, **environment),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    found = Checked(done.returncode, done.stdout, done.stderr)
    assert found.err == ""
    assert found.code == (0 if found.ok else 78)
    assert found.ok == (not found.errors and not ("--strict" in options and found.warnings))
    return found


def new(directory: Path) -> list[str]:
    """Return settings that use nothing but this directory."""
    return [f"buffer.directory={directory / 'buffer'}", "intake.http=127.0.0.1:0", "admin.http=127.0.0.1:0"]


def trace(directory: Path) -> list[tuple[str, os.stat_result]]:
    """Return all that the file system tells of a directory's files, but for when they were last read."""
    found = []
    for path in sorted([directory, *directory.rglob("*")]):
        status = list(path.lstat())
        status[7] = 0
        found.append((str(path), os.stat_result(status)))
    return found


@pytest.fixture
def ready() -> Iterator[Callable[[Path], None]]:
    """Return what is called when a directory is ready. At the end of the test it must be as it was then."""
    found: list[tuple[Path, list[tuple[str, os.stat_result]]]] = []
    yield lambda directory: found.append((directory, trace(directory)))
    assert found
    for directory, before in found:
        assert trace(directory) == before


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory in which every user may make files."""
    with open_directory() as directory:
        directory.chmod(0o777)
        yield directory


AS_NOBODY = """
import contextlib, io, os, sys
from forwarder.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    main(sys.argv[1:])  # Python itself cannot be read by every user everywhere, so all is imported now
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.exit(main(sys.argv[1:]))
"""


# The directory


def test_a_directory_that_can_be_made_is_fine_and_is_not_made(tmp_path: Path, ready: Callable[[Path], None]) -> None:
    ready(tmp_path)
    assert check(*new(tmp_path / "a" / "b"), f"intake.unix_socket={tmp_path / 'i.sock'}").ok


def test_a_socket_in_a_directory_that_the_daemon_makes_is_fine(tmp_path: Path) -> None:
    assert check(*new(tmp_path), f"intake.unix_socket={tmp_path / 'buffer' / 'i.sock'}").ok


@pytest.mark.parametrize(
    ("kind", "why"),
    {
        "file": "cannot use {path}: it is not a directory; name a directory that this user may write to, or set",
        "below a file": "cannot use {path}: {parent}/file is not a directory; ",
        "link to nothing": "cannot use {path}: it is a symbolic link to nothing; ",
        "link to itself": "cannot use {path}: Too many levels of symbolic links; ",
        "very long": "cannot use {path}: File name too long; name a directory with a shorter path, or set",
        "too long for SQLite": "cannot use {path}: its path is too long for SQLite; ",
    }.items(),
)
def test_what_can_be_no_directory_is_a_problem(
    kind: str, why: str, tmp_path: Path, ready: Callable[[Path], None]
) -> None:
    path = tmp_path / "buffer"
    match kind:
        case "file":
            path.touch()
        case "below a file":
            (tmp_path / "file").touch()
            path = tmp_path / "file" / "buffer"
        case "link to nothing":
            path.symlink_to(tmp_path / "none")
        case "link to itself":
            path.symlink_to(path)
        case "very long":
            path = tmp_path / ("x" * 300)
        case "too long for SQLite":
            path = tmp_path.joinpath(*["y" * 200] * 3)
    ready(tmp_path)
    found = check(*new(tmp_path), f"buffer.directory={path}").errors
    assert found.keys() == {"buffer.directory"}
    assert found["buffer.directory"].startswith(why.format(path=path, parent=tmp_path))


@NEEDS_ROOT
@pytest.mark.parametrize("there", [True, False])
def test_a_directory_that_may_not_be_written_is_a_problem(
    there: bool, home: Path, ready: Callable[[Path], None]
) -> None:
    if there:
        (home / "buffer").mkdir()
    else:
        home.chmod(0o755)
    ready(home)
    found = check(*new(home), as_nobody=True).errors
    where = "nothing can be created in it" if there else f"it cannot be made in {home}"
    assert found.keys() == {"buffer.directory"}
    assert found["buffer.directory"].startswith(f"cannot use {home / 'buffer'}: {where}: Permission denied; name a ")


@NEEDS_ROOT
def test_a_file_of_another_user_or_of_another_kind_is_a_problem(home: Path, ready: Callable[[Path], None]) -> None:
    (home / "buffer").mkdir()
    (home / "buffer" / "buffer.db").touch()
    shutil.chown(home / "buffer", NOBODY, NOBODY)
    ready(home)
    assert (
        "belongs to another user (uid 0, and this process"
        in check(*new(home), as_nobody=True).errors["buffer.directory"]
    )


@pytest.mark.parametrize("name", ["lock", "buffer.db", "buffer.db-wal"])
def test_a_link_or_a_directory_in_the_place_of_a_file_is_a_problem(
    name: str, tmp_path: Path, ready: Callable[[Path], None]
) -> None:
    (tmp_path / "buffer").mkdir()
    (tmp_path / "buffer" / name).symlink_to("/dev/null")
    ready(tmp_path)
    assert f"{name} is a symbolic link, which is not followed" in check(*new(tmp_path)).errors["buffer.directory"]


def test_a_directory_that_everybody_may_write_to_is_a_doubt(tmp_path: Path, ready: Callable[[Path], None]) -> None:
    (tmp_path / "buffer").mkdir()
    (tmp_path / "buffer").chmod(0o777)
    ready(tmp_path)
    found = check(*new(tmp_path))
    assert found.ok
    assert found.warnings["buffer.directory"].endswith("chmod o-w")
    assert not check(*new(tmp_path), options=["--strict"]).ok


@NEEDS_ROOT
def test_a_disk_without_room_for_the_reserve_is_a_doubt_as_the_daemon_starts_there(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        found = check(*new(small))
        assert found.ok
        assert "has 1.0 MiB free, and the daemon accepts no event with less than" in found.warnings["buffer.directory"]
    finally:
        subprocess.run(["umount", small], check=True)


# Sockets


def test_a_socket_in_no_directory_and_a_file_in_its_place_are_problems(
    tmp_path: Path, ready: Callable[[Path], None]
) -> None:
    (tmp_path / "file").touch()
    ready(tmp_path)
    found = check(
        *new(tmp_path),
        f"intake.unix_socket={tmp_path}/none/i.sock",
        f"intake.lines_socket={tmp_path}/file",
        f"intake.datagram_socket={tmp_path}/file/d.sock",
    ).errors
    assert found == {
        "intake.unix_socket": f"cannot listen on {tmp_path}/none/i.sock: its directory does not exist (No such file or "
        "directory); make it, or name a path in another one",
        "intake.lines_socket": f"{tmp_path}/file exists and is not a socket; name another path or remove it",
        "intake.datagram_socket": f"cannot listen on {tmp_path}/file/d.sock: a part of its path is no directory (Not a "
        "directory); name another path",
    }


@NEEDS_ROOT
def test_a_socket_in_a_directory_that_may_not_be_written_is_a_problem(
    home: Path, ready: Callable[[Path], None]
) -> None:
    (home / "closed").mkdir(mode=0o755)
    ready(home)
    found = check(*new(home), f"intake.unix_socket={home}/closed/i.sock", as_nobody=True).errors
    assert "this user may not make a file in its directory (Permission denied)" in found["intake.unix_socket"]


@NEEDS_ROOT
def test_a_stale_socket_of_another_user_in_a_shared_directory_is_a_problem(
    home: Path, ready: Callable[[Path], None]
) -> None:
    (home / "shared").mkdir()
    (home / "shared").chmod(0o1777)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(f"{home}/shared/i.sock")
    (home / "shared" / "i.sock").chmod(0o777)
    ready(home)
    found = check(*new(home), f"intake.unix_socket={home}/shared/i.sock", as_nobody=True).errors
    assert "is left of a daemon that has ended, and cannot be removed" in found["intake.unix_socket"]
    assert check(*new(home), f"intake.unix_socket={home}/shared/i.sock").ok


def test_a_stale_socket_is_fine_and_stays(tmp_path: Path, ready: Callable[[Path], None]) -> None:
    for name, kind in (("s", socket.SOCK_STREAM), ("d", socket.SOCK_DGRAM)):
        with socket.socket(socket.AF_UNIX, kind) as stale:
            stale.bind(str(tmp_path / name))
    ready(tmp_path)
    sockets = [f"intake.unix_socket={tmp_path / 's'}", f"intake.datagram_socket={tmp_path / 'd'}"]
    assert check(*new(tmp_path), *sockets).ok


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_of_another_process_is_a_problem_that_names_it(
    kind: socket.SocketKind, tmp_path: Path, ready: Callable[[Path], None]
) -> None:
    with socket.socket(socket.AF_UNIX, kind) as taken:
        taken.bind(str(tmp_path / "i.sock"))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        ready(tmp_path)
        setting = "intake.lines_socket" if kind == socket.SOCK_STREAM else "intake.datagram_socket"
        found = check(*new(tmp_path), f"{setting}={tmp_path / 'i.sock'}").errors[setting]
    assert found.startswith(f"another process (process {os.getpid()}, ")
    assert found.endswith(f"listens on {tmp_path / 'i.sock'}; stop it or name another path")


@NEEDS_ROOT
def test_a_group_that_cannot_reach_the_control_socket_is_a_doubt() -> None:
    with open_directory() as directory:
        own, shared = directory / "own", directory / "shared"
        own.mkdir(mode=0o700)
        shared.mkdir()
        shared.chmod(0o710)
        os.chown(shared, -1, NOBODY)
        for at, closed in (
            ([], directory / "buffer"),
            ([f"control.socket={own}/c.sock"], own),
            ([f"control.socket={shared}/c.sock"], None),
            (["control.socket="], None),
            ([f"intake.unix_socket={directory}/i.sock"], None),
        ):
            found = check(*new(directory), f"control.group={NOBODY}", *at)
            if closed is None:
                assert found.warnings == {}
            else:
                assert f"may not enter {closed}, so they cannot use" in found.warnings["control.group"]


def test_a_control_socket_that_cannot_be_made_is_a_doubt_as_the_daemon_starts_without_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    long = tmp_path / ("x" * 100)
    long.mkdir()
    for directory, path, why in (
        (long, "auto", "bytes, and the path of a socket at most 107; name a shorter one; commands then need --url"),
        (tmp_path, str(tmp_path / "file"), "exists and is not a socket; name another path or remove it; commands then"),
        (tmp_path, str(tmp_path / "no" / "c"), "its directory does not exist"),
    ):
        found = check(*new(tmp_path), f"buffer.directory={directory}", f"control.socket={path}")
        assert found.ok
        assert why in found.warnings["control.socket"], found.warnings
    assert check(*new(tmp_path), f"buffer.directory={long}", "control.socket=").warnings == {}
    shared = check(*new(tmp_path), f"control.socket={tmp_path}/s", f"intake.unix_socket={tmp_path}/s")
    assert "is the path of a socket for apps, too" in shared.warnings["control.socket"]
    inside = check("buffer.kind=memory", *new(tmp_path), f"intake.unix_socket={tmp_path}/buffer/s", "intake.http=")
    assert "intake.unix_socket" in inside.errors


# Ports


def test_a_port_of_another_process_is_a_problem_that_names_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        found = check(*new(tmp_path), f"intake.http={address}").errors
        taken.setblocking(False)
        with pytest.raises(BlockingIOError):
            taken.accept()
    assert found["intake.http"].startswith(f"cannot listen on {address}: another process (process {os.getpid()}, ")
    assert found["intake.http"].endswith(") listens there (Address already in use); stop it, or choose another port")


def test_a_port_is_taken_by_a_listener_on_all_addresses_and_free_beside_one_on_another(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        assert check(*new(tmp_path), f"admin.http=127.0.0.1:{port}").ok
        assert "admin.http" in check(*new(tmp_path), f"admin.http=0.0.0.0:{port}").errors


def test_a_port_is_free_at_once_after_the_check(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    assert check(*new(tmp_path), f"intake.http={address}").ok
    with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
        pass


@pytest.mark.parametrize(
    ("address", "why"),
    {
        "198.51.100.7:8920": "this machine has no such address (Cannot assign requested address); use one that it has",
        "[2001:db8::1]:8920": "",
        "no-such-host.invalid:8920": "; name an address of this machine, such as 127.0.0.1",
    }.items(),
)
def test_an_address_that_this_machine_does_not_have_is_a_problem(address: str, why: str, tmp_path: Path) -> None:
    found = check(*new(tmp_path), f"admin.http={address}").errors
    assert found["admin.http"].startswith(f"cannot listen on {address}: ")
    assert why in found["admin.http"]


@NEEDS_ROOT
def test_a_port_for_root_is_a_problem_for_others(home: Path) -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80:
        pytest.skip("others may listen there, too")
    found = check(*new(home), "intake.http=127.0.0.1:80", as_nobody=True).errors
    assert found["intake.http"] == (
        "cannot listen on 127.0.0.1:80: ports below 1024 are for root (Permission denied); choose a higher one"
    )


def test_two_listeners_on_one_port_are_a_problem_also_if_one_has_all_addresses(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found = check(*new(tmp_path), f"intake.http=127.0.0.1:{port}", f"admin.http=0.0.0.0:{port}").errors
    assert found == {
        "admin.http": f"0.0.0.0:{port} has the port of intake.http, 127.0.0.1:{port}, too; choose another port"
    }


# Daemons


@asynccontextmanager
async def a_daemon(directory: Path, **settings: object) -> AsyncIterator[tuple[Daemon, list[str]]]:
    """Run a daemon with each kind of listener; yield it with its configuration, in which its ports are fixed."""
    chosen = {
        "intake__lines_socket": directory / "l.sock",
        "intake__datagram_socket": directory / "d.sock",
        "admin__http": "127.0.0.1:0",
        **settings,
    }
    async with running_daemon(directory, FAR_SIDE, **chosen) as daemon:
        fixed = {
            **chosen,
            "buffer__directory": chosen.get("buffer__directory", directory / "buffer"),
            "intake__unix_socket": daemon.unix_socket,
            "intake__http": daemon.ready["http"],
        }
        if "admin" in daemon.ready:
            fixed["admin__http"] = daemon.ready["admin"]
        yield daemon, [f"{name.replace('__', '.')}={value}" for name, value in fixed.items()]


def sockets_in(directory: Path) -> list[tuple[str, int]]:
    return [(path.name, path.lstat().st_ino) for path in sorted(directory.glob("*.sock"))]


def succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


async def checked(*overrides: str, **options: Any) -> Checked:
    return await asyncio.to_thread(check, *overrides, **options)


async def test_what_the_configurations_own_daemon_has_is_fine_and_it_is_not_disturbed(tmp_path: Path) -> None:
    async with a_daemon(tmp_path) as (daemon, configuration):
        before = sockets_in(tmp_path)
        found = await checked(*configuration)
        assert found.ok, found.errors
        assert found.warnings == {}
        assert found.process == daemon.process.pid
        assert sockets_in(tmp_path) == before
        assert len(before) == 3
        assert not [line for line in daemon.lines if line["level"] in {"warning", "error"}]
        async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(1)) as response:
            assert response.status == 200
        assert (await daemon.ledger())["received"] == 1


async def test_a_reload_with_other_ports_and_sockets_is_fine(tmp_path: Path) -> None:
    async with a_daemon(tmp_path) as (daemon, configuration):
        port = daemon.ready["http"].rpartition(":")[2]
        changed = (f"intake.http=0.0.0.0:{port}", "intake.allow_remote_without_token=true", "intake.lines_socket=")
        found = await checked(*configuration, *changed)
        assert found.ok, found.errors
        assert found.warnings == {}


USER_NAMESPACE = ["unshare", "--user", "--map-root-user"]
INVISIBLE = [
    "unshare", "--mount", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh", *USER_NAMESPACE,
]  # fmt: skip


@pytest.mark.parametrize("knows", ["nothing", "MAINPID"])
@pytest.mark.parametrize("hidden", [USER_NAMESPACE, INVISIBLE], ids=["PrivateUsers", "PrivateUsers and ProtectProc"])
async def test_its_own_daemon_is_found_where_another_user_namespace_hides_its_sockets(
    hidden: Sequence[str], knows: str, tmp_path: Path
) -> None:
    needs("unshare")
    if not succeeds(*hidden, "true"):
        pytest.skip("there are no user namespaces here")
    async with a_daemon(tmp_path) as (daemon, configuration):
        process = daemon.process.pid
        assert not succeeds(*hidden, "readlink", f"/proc/{process}/fd/0"), "its descriptors are hidden"
        environment = {"MAINPID": str(process)} if knows == "MAINPID" else {}
        found = await checked(*configuration, prefix=hidden, **environment)
        assert found.ok, found.errors
        assert (found.warnings, found.process) == ({}, process)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            busy = f"admin.http=127.0.0.1:{taken.getsockname()[1]}"
            assert (await checked(*configuration, busy, prefix=hidden, **environment)).errors.keys() == {"admin.http"}


async def test_a_daemon_of_another_configuration_on_a_port_or_a_socket_is_a_problem(tmp_path: Path) -> None:
    async with a_daemon(tmp_path) as (daemon, configuration):
        (tmp_path / "other").mkdir()
        found = await checked(*configuration, f"buffer.directory={tmp_path / 'other'}")
        assert found.process is None
        assert found.errors.keys() == {
            "intake.http", "admin.http", "intake.unix_socket", "intake.lines_socket", "intake.datagram_socket",
        }  # fmt: skip
        assert all(f"(process {daemon.process.pid}, " in message for message in found.errors.values())
        assert not [*(tmp_path / "other").iterdir()]


async def test_the_directory_of_a_daemon_that_listens_elsewhere_is_a_doubt(tmp_path: Path) -> None:
    async with a_daemon(tmp_path) as (daemon, _):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        other = [*new(tmp_path), f"intake.http=127.0.0.1:{port}"]
        found = await checked(*other)
        assert found.ok
        assert found.warnings["buffer.directory"].startswith(
            f"process {daemon.process.pid} uses it, and listens on none"
        )
        assert not (await checked(*other, options=["--strict"])).ok
        assert (await checked(*other, options=["--strict"], MAINPID=str(daemon.process.pid))).ok


async def test_the_directory_of_a_daemon_that_is_not_the_services_is_a_problem(tmp_path: Path) -> None:
    async with a_daemon(tmp_path) as (daemon, configuration):
        found = await checked(*configuration, MAINPID=str(os.getpid()))
        assert f"is in use by process {daemon.process.pid}; stop it" in found.errors["buffer.directory"]
        gone = await checked(*configuration, MAINPID="999999999")
        assert gone.ok, "systemd may name a process that has just ended"


async def test_a_buffer_in_memory_is_known_by_its_addresses(tmp_path: Path) -> None:
    async with a_daemon(tmp_path, buffer__kind="memory") as (daemon, configuration):
        found = await checked(*configuration)
        assert found.ok, found.errors
        assert found.process == daemon.process.pid
        other = await checked(*configuration, f"intake.unix_socket={tmp_path / 'other.sock'}")
        assert other.process is None
        assert {"intake.http", "admin.http"} <= other.errors.keys()


async def test_a_buffer_in_memory_without_a_unix_socket_is_known_by_what_its_port_tells(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef0123456789abcdef")
    async with a_daemon(
        tmp_path,
        buffer__kind="memory",
        control__socket="",
        intake__unix_socket="",
        intake__lines_socket="",
        intake__datagram_socket="",
        intake__token_file=tmp_path / "token",
    ) as (_, configuration):
        found = await checked(*configuration, "intake.unix_socket=")
        assert found.ok, found.errors


async def test_a_daemon_that_hangs_is_still_known(tmp_path: Path) -> None:
    async with a_daemon(tmp_path) as (daemon, configuration):
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            found = await checked(*configuration)
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        assert found.ok, found.errors
        assert found.process == daemon.process.pid


@pytest.mark.skipif(not Path("/proc/sys/net/ipv6").exists(), reason="this machine has no IPv6")
async def test_an_ipv6_listener_and_a_name_are_known_too(tmp_path: Path) -> None:
    async with a_daemon(tmp_path, intake__http="[::1]:0", admin__http="localhost:0") as (daemon, configuration):
        port = daemon.ready["admin"].rpartition(":")[2]
        found = await checked(*configuration, f"admin.http=localhost:{port}")
        assert found.ok, found.errors
        assert found.process == daemon.process.pid


async def test_after_a_killed_daemon_all_is_free_and_its_files_stay(
    tmp_path: Path, ready: Callable[[Path], None]
) -> None:
    async with a_daemon(tmp_path) as (daemon, configuration):
        assert await daemon.stop(signal.SIGKILL) == -signal.SIGKILL
        ready(tmp_path)
        found = await checked(*configuration)
    assert found.ok, found.errors
    assert found.process is None


# The options


def test_the_way_to_growlytics_is_tried_if_asked_for(tmp_path: Path) -> None:
    assert check(*new(tmp_path)).ok
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"growlytics.url=http://127.0.0.1:{server.getsockname()[1]}/track/event"
        assert check(*new(tmp_path), url, options=["--connect"]).ok
    refused = check(*new(tmp_path), url, options=["--connect"])
    assert "connection refused" in refused.errors["growlytics.url"]
    proxy = ("growlytics.url=https://example.com/track/event", "growlytics.proxy=http://user:CANARY@127.0.0.1:9")
    through = check(*new(tmp_path), *proxy, options=["--connect"])
    assert "connection refused" in through.errors["growlytics.proxy"]
    assert "CANARY" not in str(through.errors)


def test_tls_that_fails_is_a_problem_of_the_url(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for _ in range(2):  # one connection is only to see whether there can be one
                with server.accept()[0] as connection:
                    connection.sendall(b"220 not TLS\r\n")

        threading.Thread(target=answer, daemon=True).start()
        url = f"growlytics.url=https://127.0.0.1:{server.getsockname()[1]}/track/event"
        found = check(*new(tmp_path), url, options=["--connect"])
    assert found.errors.keys() == {"growlytics.url"}


def test_what_config_init_writes_passes_the_check_without_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    assert succeeds(*COMMAND, "config", "init", str(file))
    found = check(*new(tmp_path), options=["--strict", f"--config={file}"])
    assert found.ok, (found.errors, found.warnings)


def test_a_warning_names_its_setting_if_it_has_one(tmp_path: Path) -> None:
    found = check(
        *new(tmp_path), "intake.allowed_hosts=*", "growlytics.url=http://127.0.0.1:9", FORWARDER_PORT="tcp://x"
    )
    assert found.ok
    assert found.warnings.keys() == {"intake.allowed_hosts", "growlytics.url", None}
    assert found.warnings["growlytics.url"].startswith("growlytics.url has no path, ")


def test_people_read_the_problems_first_and_then_the_warnings(tmp_path: Path) -> None:
    arguments = [f"--set={each}" for each in (*new(tmp_path), "intake.lines_socket=/nowhere/l.sock")]
    done = subprocess.run(
        [*COMMAND, "check-config", *arguments],
        env=clean_environment(GROWLYTICS_API_KEY=KEY, FORWARDER_LOG_LEVEL="debug"),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    heading, problem, warning = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (78, "")
    assert heading == "configuration: 1 problem:"
    assert problem.startswith("  intake.lines_socket: cannot listen on /nowhere/l.sock: ")
    assert warning == (
        "configuration: warning: FORWARDER_LOG_LEVEL is not a setting and was ignored. Did you mean FORWARDER_LOG__LEVEL?"
    )
