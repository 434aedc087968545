"""Who may operate the daemon over a Unix socket that every user may post to: its own user, root, a group, or the token."""

import array
import asyncio
import errno
import logging
import os
import pwd
import shutil
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from forwarder.host.sockets import Peer, peer_of
from forwarder.intake.locks import Operators
from forwarder.settings import ControlSettings, Group, IntakeSettings, Secret
from tests.fakes.http_intake_harness import serving
from tests.fakes.other_users import NEEDS_ROOT, User, open_directory

BOTH_LOOPS = True
GOOD = '{"customerId":"c","name":"n","time":1700000000000,"attributes":{"Price":1.50}}'
IDS = '{"ids":["1"]}'
POSTS = (("POST", "/track/event", GOOD), ("POST", "/v1/events", GOOD))
OPEN = (("GET", "/v1/status", ""), ("GET", "/v1/dead-letters", ""), ("GET", "/v1/dead-letters?payload=false", ""))
OPERATIONS = (
    ("GET", "/v1/dead-letters?payload=true", ""),
    ("GET", "/v1/dead-letters/1", ""),
    ("POST", "/v1/dead-letters/purge", IDS),
    ("POST", "/v1/dead-letters/replay", IDS),
)
ALLOWED = [(200, ""), (404, "not_found"), (200, ""), (200, "")]
FORBIDDEN = [(403, "forbidden_user")] * 4
TOKEN = Secret("s3cret-token")
GROUP = Group("operators", 54400)


@NEEDS_ROOT
async def test_who_may_post_only_does_not_see_payloads_or_change_anything(caplog: pytest.LogCaptureFixture) -> None:
    with open_directory() as directory:
        async with serving(unix=directory / "intake.sock", mode=0o666, group=GROUP) as served:
            answers = await User().ask(directory / "intake.sock", *POSTS, *OPEN, *OPERATIONS)
            assert answers == [(200, ""), (202, ""), *[(200, "")] * 3, *FORBIDDEN]
            assert served.counts().accepted == 2
            assert served.counts().rejected == {}
    (line,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert line.__dict__["fields"] == {"code": "forbidden_user", "user": 54321}, "and once, not for each"


@NEEDS_ROOT
@pytest.mark.parametrize(
    "user",
    [
        User(user=0, group=54322),
        User(group=GROUP.number),
        User(groups=(54401, GROUP.number)),
        User(groups=(*range(60_000, 60_200), GROUP.number)),
    ],
    ids=["root", "its group", "a supplementary group", "one of very many groups"],
)
async def test_root_and_the_members_of_the_group_may_operate(user: User) -> None:
    with open_directory() as directory:
        async with serving(unix=directory / "intake.sock", mode=0o666, group=GROUP):
            assert await user.ask(directory / "intake.sock", *OPERATIONS) == ALLOWED


@NEEDS_ROOT
async def test_without_a_group_nobody_is_a_member_of_it() -> None:
    with open_directory() as directory:
        async with serving(unix=directory / "intake.sock", mode=0o666):
            assert await User(groups=(GROUP.number,)).ask(directory / "intake.sock", *OPERATIONS) == FORBIDDEN
            assert await User(group=0, groups=(0,)).ask(directory / "intake.sock", *OPERATIONS) == FORBIDDEN


@NEEDS_ROOT
async def test_the_token_lets_anybody_operate_and_a_wrong_one_or_none_is_no_token() -> None:
    with open_directory() as directory:
        async with serving(unix=directory / "intake.sock", mode=0o666, token=TOKEN) as served:
            path = directory / "intake.sock"
            assert await User().ask(path, *OPERATIONS, token=TOKEN.reveal()) == ALLOWED
            assert await User().ask(path, *OPERATIONS, token="wrong") == FORBIDDEN
            assert await User().ask(path, *OPERATIONS) == FORBIDDEN
            assert await User().ask(path, *POSTS) == [(200, ""), (202, "")], "which needs no token"
            served.intake.use(IntakeSettings(token=Secret("new")))
            assert await User().ask(path, *OPERATIONS, token=TOKEN.reveal()) == FORBIDDEN
            assert await User().ask(path, *OPERATIONS, token="new") == ALLOWED
        async with serving(unix=directory / "other.sock", mode=0o666):
            assert await User().ask(directory / "other.sock", *OPERATIONS, token="") == FORBIDDEN
            assert await User().ask(directory / "other.sock", *OPERATIONS, token="any") == FORBIDDEN


@NEEDS_ROOT
async def test_another_group_counts_from_the_next_request_on() -> None:
    with open_directory() as directory:
        async with serving(unix=directory / "intake.sock", mode=0o666, group=GROUP) as served:
            served.intake.use_control(ControlSettings(group=Group("others", 54401)))
            assert await User(group=GROUP.number).ask(directory / "intake.sock", *OPERATIONS) == FORBIDDEN
            assert await User(group=54401).ask(directory / "intake.sock", *OPERATIONS) == ALLOWED


async def test_on_one_connection_events_and_operations_take_turns() -> None:
    with open_directory() as directory:
        async with serving(unix=directory / "intake.sock") as served, served.connection() as connection:
            for method, path, body in (*POSTS, *OPERATIONS, *OPERATIONS):
                answer = await connection.request(path, body.encode(), method=method, Content_Type="application/json")
                assert answer.status in (200, 202, 404)


def test_the_daemons_own_user_is_an_operator_and_who_is_not_known_is_none() -> None:
    operators = Operators(ControlSettings())
    assert operators.include(Peer(os.geteuid(), ()))
    assert operators.include(Peer(0, ()))
    assert not operators.include(Peer(54321, (0, 54322)))
    assert not operators.include(None)


def test_root_is_an_operator_of_a_daemon_that_runs_as_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 54321)
    operators = Operators(ControlSettings())
    assert operators.include(Peer(0, ()))
    assert operators.include(Peer(54321, ()))
    assert not operators.include(Peer(54322, ()))


class Connected:
    """What the kernel would tell of a socket; without `groups` it does not know of that option."""

    def __init__(self, user: int, group: int, groups: Sequence[int] | None = None) -> None:
        self._credentials = struct.pack("=iII", 1, user, group)
        self._groups = groups

    def getsockopt(self, _: int, option: int, __: int) -> bytes:
        if option == socket.SO_PEERCRED:
            return self._credentials
        if self._groups is None:
            raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
        return array.array("I", self._groups).tobytes()


@pytest.mark.parametrize("stand_in", [65534, 4000])
def test_a_number_that_stands_for_all_others_is_nobodys_in_a_namespace_and_a_user_outside_of_one(
    monkeypatch: pytest.MonkeyPatch, stand_in: int
) -> None:
    whole = Peer(stand_in, {7, stand_in})
    assert peer_of(Connected(stand_in, 7, [7, stand_in])) == whole
    told = {
        **{f"/proc/self/{kind}_map": "0 1000 1\n" for kind in ("uid", "gid")},
        **{f"/proc/sys/kernel/overflow{kind}": f"{stand_in}\n" for kind in ("uid", "gid")},
    }
    monkeypatch.setattr("pathlib.Path.read_text", lambda path, **_: told[str(path)])
    monkeypatch.setattr("os.geteuid", lambda: stand_in)
    peer = peer_of(Connected(stand_in, 7, [7, stand_in]))
    assert peer == Peer(None, {7})
    assert not Operators(ControlSettings()).include(peer), "though the daemon is one of them itself"
    assert peer_of(Connected(5, 7, [7, 8])) == Peer(5, {7, 8})


def test_where_the_system_does_not_tell_who_is_nobody_the_usual_number_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    assert peer_of(Connected(65534, 65534, [65534, 7])) == Peer(None, {7})


def test_where_the_system_does_not_tell_the_groups_of_a_socket_its_database_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = pwd.getpwuid(0).pw_name
    monkeypatch.setattr("os.getgrouplist", lambda who, group: [group, GROUP.number] if who == name else [])
    peer = peer_of(Connected(0, 7))
    assert peer == Peer(0, {7, GROUP.number})
    assert Operators(ControlSettings(group=GROUP)).include(peer)
    assert peer_of(Connected(54321, 7)) == Peer(54321, {7}), "whom the database does not know"


_IN_A_NAMESPACE = """
import socket, sys
from forwarder.host.sockets import peer_of
from forwarder.intake.locks import Operators
from forwarder.settings import ControlSettings, Group
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    __import__("os").chmod(sys.argv[1], 0o666)
    listener.listen()
    print("ready", flush=True)
    for _ in range(2):
        client, _ = listener.accept()
        with client:
            peer = peer_of(client)
            client.recv(65536)
            allowed = Operators(ControlSettings(group=Group("nogroup", 65534))).include(peer)
            client.sendall(b"HTTP/1.1 %d x\\r\\n\\r\\n{}" % (200 if allowed else 403))
"""


@NEEDS_ROOT
async def test_who_is_not_part_of_the_daemons_user_namespace_is_nobody_it_knows() -> None:
    """There the kernel tells 65534 for all of them, which may be the number of a group, or of the daemon itself."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is not installed")
    with open_directory() as directory:
        path = directory / "s"
        process = await asyncio.create_subprocess_exec(
            unshare, "--user", "--map-root-user", sys.executable, "-c", _IN_A_NAMESPACE, str(path),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        if await process.stdout.readline() != b"ready\n":
            await process.wait()
            pytest.skip("there are no user namespaces here")
        assert await User(groups=(54400,)).ask(path, ("GET", "/", "")) == [(403, "")]
        assert await User(user=0, group=0).ask(path, ("GET", "/", "")) == [(200, "")]
        assert await process.wait() == 0


async def test_of_a_socket_the_user_and_all_groups_are_told() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert peer_of(one) == Peer(os.geteuid(), {os.getegid(), *os.getgroups()})
    assert peer_of(one) is None, "it is closed"
    assert peer_of(None) is None
    with socket.socket(socket.AF_INET) as tcp:
        found = peer_of(tcp)
        assert found is None or not Operators(ControlSettings(group=GROUP)).include(found)
    await asyncio.sleep(0)
