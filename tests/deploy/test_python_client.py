"""deploy/clients/growlytics_forwarder.py, beside a real daemon and beside servers that misbehave."""

import ast
import asyncio
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from growlytics_forwarder import Forwarder, ForwarderError, Result

from tests.deploy.far_sides import (
    ACCEPTED,
    Behaviour,
    answers,
    closes,
    far_side,
    floods,
    hangs,
    resets,
    sends,
    trickles,
)
from tests.deploy.tools import DEPLOY, ROOT, run
from tests.system.processes import Daemon, running_daemon, running_sandbox, until

CLIENT = DEPLOY / "clients/growlytics_forwarder.py"
ENOUGH_SECONDS = 60.0
"""A deadline that a test never reaches."""
SHORT_SECONDS = 0.25
LATE_SECONDS = 30.0
"""What a busy machine may add to a short deadline. Servers here go on for longer than that."""
EVENT = {"name": "Add To Cart", "customerId": "c-1", "time": 1_700_000_000_000, "attributes": {"Quantity": 3}}

accepts = sends(ACCEPTED)


def ends_in_time(call: Callable[[], Result]) -> Result:
    began = time.monotonic()
    result = call()
    assert time.monotonic() - began < SHORT_SECONDS + LATE_SECONDS
    return result


async def track(daemon: Daemon, address: str, **options: Any) -> Result:
    """Post an event from a thread, as an app with asyncio does."""
    forwarder = Forwarder(address, **{"timeout_seconds": ENOUGH_SECONDS, **options})
    return await asyncio.to_thread(forwarder.track, "Add To Cart", "c-1", {"Quantity": 3}, time_ms=1_700_000_000_000)


@pytest.mark.parametrize("way", ["tcp", "unix"])
async def test_an_event_arrives_as_it_was_given(way: str, tmp_path: Path) -> None:
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url) as daemon:
        result = await track(daemon, daemon.base if way == "tcp" else f"unix:{daemon.unix_socket}")
        assert (result.ok, result.status, result.error, result.attempts) == (True, 200, "", 1)
        async with daemon.http.get(f"{daemon.base}/v1/events/{result.id}") as receipt:
            assert receipt.status == 200
        await until(daemon.drained, "it is delivered")
        assert [json.loads(event) for event in await sandbox.raw()] == [EVENT]


async def test_the_time_is_now_unless_it_is_given(tmp_path: Path) -> None:
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url) as daemon:
        before = int(time.time() * 1000)
        assert (await asyncio.to_thread(Forwarder(daemon.base).track, "Login", "c-1")).ok
        await until(daemon.drained, "it is delivered")
        (event,) = map(json.loads, await sandbox.raw())
        assert before <= event["time"] <= time.time() * 1000
        assert event["attributes"] == {}


async def test_what_the_forwarder_refuses_is_said_and_not_tried_again(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, "http://127.0.0.1:9/track/event") as daemon:
        forwarder = Forwarder(daemon.base, timeout_seconds=ENOUGH_SECONDS)
        result = await asyncio.to_thread(forwarder.post, {**EVENT, "name": ""})
        assert (result.ok, result.status, result.attempts, result.retry_later) == (False, 422, 1, False)
        assert result.error.startswith("answered 422: ")
        assert "name" in result.error
        large = {**EVENT, "attributes": {"Text": "x" * 3_000_000}}
        result = await asyncio.to_thread(forwarder.post, large)
        assert (result.status, result.attempts) == (413, 1), result


async def test_the_same_key_in_another_call_is_the_same_event(tmp_path: Path) -> None:
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url) as daemon:
        forwarder = Forwarder(daemon.base, timeout_seconds=ENOUGH_SECONDS)
        first = await asyncio.to_thread(forwarder.post, EVENT)
        second = await asyncio.to_thread(forwarder.post, EVENT, idempotency_key=first.idempotency_key)
        third = await asyncio.to_thread(forwarder.post, EVENT)
        assert first.id == second.id != third.id
        assert third.idempotency_key != first.idempotency_key
        ledger = await daemon.ledger()
        assert (ledger["accepted"], ledger["duplicates"]) == (2, 1)


async def test_a_token_opens_a_forwarder_that_demands_one(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, "http://127.0.0.1:9/track/event", intake__token="s3cret-token") as daemon:
        assert (await track(daemon, daemon.base)).status == 401
        wrong = await track(daemon, daemon.base, token="other-token")
        assert (wrong.status, wrong.attempts) == (401, 1)
        assert "other-token" not in wrong.error
        assert (await track(daemon, daemon.base, token="s3cret-token")).ok


async def test_while_the_buffer_is_full_it_tries_again_until_there_is_room(tmp_path: Path) -> None:
    settings = {"buffer__max_events": 1, "delivery__retry_max_seconds": 0.5, "delivery__probe_max_seconds": 1}
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url, **settings) as daemon:
        await sandbox.faults(down=True)
        assert (await track(daemon, daemon.base)).ok
        refused = await track(daemon, daemon.base, timeout_seconds=0.5)
        assert (refused.status, refused.retry_later, refused.attempts) == (429, True, 1), (
            "Retry-After is a second or more"
        )
        waiting = asyncio.create_task(track(daemon, daemon.base))

        async def was_refused_again() -> bool:
            return int((await daemon.ledger())["rejected"]) >= 2

        await until(was_refused_again, "the third event is refused, too")
        await sandbox.faults(down=False)
        result = await waiting
        assert result.ok
        assert result.attempts >= 2


async def test_an_event_posted_while_the_forwarder_starts_anew_arrives_once(tmp_path: Path) -> None:
    async with running_sandbox() as sandbox:
        address = f"unix:{tmp_path / 'intake.sock'}"
        async with running_daemon(tmp_path, sandbox.url) as daemon:
            assert (await track(daemon, address)).ok
            daemon.process.kill()
            await daemon.process.wait()
        assert (tmp_path / "intake.sock").is_socket(), "a dead one"
        waiting = asyncio.create_task(track(daemon, address))
        async with running_daemon(tmp_path, sandbox.url) as daemon:
            result = await waiting
            assert result.ok
            await until(daemon.drained, "it is delivered")
            assert len(await sandbox.raw()) == 2


AGAIN: dict[str, Behaviour] = {
    "429": answers("429 Too Many Requests", b"", "Retry-After: 0"),
    "429 without Retry-After": answers("429 Too Many Requests"),
    "429 with a date": answers("429 Too Many Requests", b"", "Retry-After: Wed, 21 Oct 2065 07:28:00 GMT"),
    "503": answers("503 Service Unavailable", b'{"success":false,"errors":[]}'),
    "reset": resets,
    "closed without an answer": closes,
    "ends in the word HTTP": sends(ACCEPTED[:3]),
    "ends in the status": sends(ACCEPTED[:10]),
    "ends after the status": sends(ACCEPTED[:12]),
    "ends in the head": sends(ACCEPTED[:30]),
    "ends before the body": sends(ACCEPTED[:-27]),
    "ends in the body": sends(ACCEPTED[:-5]),
    "ends in a chunk": sends(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1b\r\n{"succ'),
}


@pytest.mark.parametrize("way", ["tcp", "unix"])
@pytest.mark.parametrize("kind", AGAIN)
def test_a_failure_that_may_pass_is_tried_again_with_the_same_key(kind: str, way: str, tmp_path: Path) -> None:
    path = tmp_path / "s" if way == "unix" else None
    with far_side(AGAIN[kind], AGAIN[kind], accepts, path=path) as server:
        result = Forwarder(server.address, timeout_seconds=ENOUGH_SECONDS).post(EVENT)
        assert (result.ok, result.id, result.attempts, result.error) == (True, "1-1", 3, "")
        assert server.keys() == [result.idempotency_key] * 3
        assert len({each.partition(b"\r\n\r\n")[2] for each in server.requests}) == 1


FINAL: dict[str, tuple[Behaviour, str]] = {
    "another status": (answers("418 I'm a Teapot"), "answered 418"),
    "500": (answers("500 Internal Server Error", b"[1]"), "answered 500"),
    "a redirect": (answers("302 Found", b"", "Location: http://127.0.0.1:9/"), "answered 302"),
    "a page": (answers("200 OK", b"<html>Welcome</html>"), "answered 200, but not as the forwarder does"),
    "success false": (answers("200 OK", b'{"success":false}'), "answered 200, but not"),
    "a list": (answers("200 OK", b"[[]]"), "answered 200, but not"),
    "nested too deeply": (answers("200 OK", b"[" * 60_000), "answered 200, but not"),
    "no HTTP": (sends(b"220 mail.example ESMTP\r\n"), "the answer is not HTTP"),
    "TLS": (sends(b"\x15\x03\x01\x00\x02\x02\x46"), "the answer is not HTTP"),
    "a long line": (sends(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000 + b"\r\n\r\n"), "the answer is not HTTP"),
    "many headers": (sends(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"), "the answer is not HTTP"),
    "an endless body": (floods(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536), "answered 200, but not"),
    "a message of no text": (answers("422 Unprocessable", b'{"errors":[{"message":{"a":1}}]}'), "answered 422"),
}


@pytest.mark.parametrize("kind", FINAL)
def test_a_failure_that_stays_is_said_at_once(kind: str) -> None:
    behaviour, error = FINAL[kind]
    with far_side(behaviour) as server:
        result = Forwarder(server.address, timeout_seconds=ENOUGH_SECONDS).post(EVENT)
        assert (result.ok, result.attempts, result.retry_later) == (False, 1, False)
        assert result.error.startswith(error)
        assert len(result.error) <= 300


SLOW: dict[str, Behaviour] = {
    "hangs": hangs,
    "trickles the status": trickles(b"HTTP/1.1", b" "),
    "trickles headers": trickles(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "trickles one header": trickles(b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "trickles the body": trickles(b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n", b" "),
    "trickles chunks": trickles(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "says 100 for ever": trickles(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "says 100 for ever, fast": floods(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "refuses again and again": answers("503 Service Unavailable"),
    "resets again and again": resets,
}


@pytest.mark.parametrize("way", ["tcp", "unix"])
@pytest.mark.parametrize("kind", SLOW)
def test_a_call_ends_by_its_deadline_however_the_server_trickles(kind: str, way: str, tmp_path: Path) -> None:
    with far_side(SLOW[kind], path=tmp_path / "s" if way == "unix" else None) as server:
        result = ends_in_time(lambda: Forwarder(server.address, timeout_seconds=SHORT_SECONDS).post(EVENT))
        assert not result.ok
        assert result.retry_later
        assert result.error in ("no answer in time", "answered 503: Service Unavailable") or "failed" in result.error


def test_a_server_that_reads_nothing_does_not_hold_up_a_large_event() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        event = {**EVENT, "attributes": {"Text": "x" * 30_000_000}}
        result = ends_in_time(lambda: Forwarder(address, timeout_seconds=SHORT_SECONDS).post(event))
        assert (result.error, result.retry_later) == ("no answer in time", True)


@pytest.mark.parametrize("seconds", [5, 999_999_999])
def test_a_wait_beyond_the_deadline_is_not_begun(seconds: int) -> None:
    with far_side(answers("429 Too Many Requests", b"", f"Retry-After: {seconds}")) as server:
        result = Forwarder(server.address, timeout_seconds=4).post(EVENT)
        assert (result.status, result.attempts, result.retry_later) == (429, 1, True)


def test_retry_after_is_waited_for() -> None:
    with far_side(answers("429 Too Many Requests", b"", "Retry-After: 1"), accepts) as server:
        began = time.monotonic()
        assert Forwarder(server.address, timeout_seconds=ENOUGH_SECONDS).post(EVENT).attempts == 2
        assert time.monotonic() - began >= 1


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def dead(tmp_path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "dead"))
    return f"unix:{tmp_path / 'dead'}"


@pytest.fixture
def full(tmp_path: Path) -> Iterator[str]:
    """A socket of which nobody accepts connections, and whose queue is full."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind(str(tmp_path / "full"))
        listener.listen(0)
        other.connect(str(tmp_path / "full"))
        yield f"unix:{tmp_path / 'full'}"


def test_a_forwarder_that_is_not_there_is_tried_until_the_deadline(tmp_path: Path, dead: str, full: str) -> None:
    for address in (f"http://127.0.0.1:{unused_port()}", f"unix:{tmp_path}/none", dead, full):
        forwarder = Forwarder(address, timeout_seconds=1)  # enough for a second attempt on a busy machine
        result = ends_in_time(lambda forwarder=forwarder: forwarder.post(EVENT))  # type: ignore[misc] # its type is lost
        assert (result.ok, result.status, result.retry_later) == (False, None, True), address
        assert result.attempts >= 2, address
        assert result.error.startswith("the connection failed: "), address


def test_localhost_is_tried_at_each_of_its_addresses() -> None:
    with far_side(accepts) as server:
        assert (
            Forwarder(server.address.replace("127.0.0.1", "localhost"), timeout_seconds=ENOUGH_SECONDS).post(EVENT).ok
        )


def test_an_ipv6_address_is_one() -> None:
    result = Forwarder(f"http://[::1]:{unused_port()}", timeout_seconds=SHORT_SECONDS).post(EVENT)
    assert "the connection failed: " in result.error


def circular() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["again"] = found
    return found


def deep() -> Any:
    found: Any = None
    for _ in range(100_000):
        found = [found]
    return found


class Hostile(dict[str, Any]):
    """What a proxy object of some framework may do."""

    def items(self) -> Any:
        raise RuntimeError("detached")


NO_EVENTS: list[Any] = [
    {**EVENT, "attributes": {"x": math.nan}},
    {**EVENT, "attributes": {"x": math.inf}},
    {**EVENT, "attributes": {"x": object()}},
    {**EVENT, "attributes": {"x": b"bytes"}},
    {**EVENT, "attributes": {b"x": 1}},
    {**EVENT, "attributes": {"x": 10**6000}},
    {**EVENT, "attributes": circular()},
    {**EVENT, "attributes": {"x": deep()}},
    {**EVENT, "attributes": Hostile(x=1)},
]
NO_ADDRESSES: list[Any] = [
    "", "localhost:8920", "https://127.0.0.1:8920", "http://", "http://127.0.0.1:99999", "http://127.0.0.1:x",
    "http://[::1", "http://127.0.0.1:8920/v1", "http://user:pass@127.0.0.1:8920", "http://127.0.0.1:8920/?a=b", "unix:",
    "unix:/" + "x" * 107, "unix:/" + "ä" * 60, "http://\n127.0.0.1\r\nX: y", "http://" + "x" * 300, "http://\ud800",
    "unix:\udcff\ud800", None, 8920,
]  # fmt: skip


@pytest.mark.parametrize("event", NO_EVENTS, ids=range(len(NO_EVENTS)))
def test_what_is_no_event_is_said_and_not_raised(event: Any) -> None:
    with far_side(accepts) as server:
        result = Forwarder(server.address).post(event)
        assert (result.ok, result.attempts, result.retry_later) == (False, 0, False)
        assert result.error
        with pytest.raises(ForwarderError):
            Forwarder(server.address, raise_errors=True).post(event)
        assert server.requests == []


@pytest.mark.parametrize("address", NO_ADDRESSES, ids=range(len(NO_ADDRESSES)))
def test_what_is_no_address_is_said_and_not_raised(address: Any) -> None:
    result = ends_in_time(lambda: Forwarder(address, timeout_seconds=SHORT_SECONDS).post(EVENT))
    assert (result.ok, result.retry_later) == (False, False)
    assert result.attempts <= 1
    assert result.error
    assert "pass@" not in result.error
    with pytest.raises(ForwarderError) as raised:
        Forwarder(address, timeout_seconds=SHORT_SECONDS, raise_errors=True).post(EVENT)
    assert raised.value.result.error == result.error == str(raised.value)


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, 1e9, "2", None])
def test_what_is_no_deadline_is_said_and_not_raised(seconds: Any) -> None:
    result = Forwarder(timeout_seconds=seconds).post(EVENT)
    assert (result.ok, result.attempts) == (False, 0)
    assert result.error


@pytest.mark.parametrize("secret", ["s3cret\r\nX: y", "s3cr\u00e9t", "s3cret\x00"])
def test_a_token_or_key_that_no_header_may_have_is_refused_and_not_shown(secret: str) -> None:
    with far_side(accepts) as server:
        for result in (
            Forwarder(server.address, token=secret).post(EVENT),
            Forwarder(server.address).post(EVENT, idempotency_key=secret),
        ):
            assert (result.ok, result.attempts) == (False, 0)
            assert "s3cr" not in result.error
        assert server.requests == []


def test_many_threads_share_one(tmp_path: Path) -> None:
    with far_side(accepts) as server, ThreadPoolExecutor(8) as pool:
        forwarder = Forwarder(server.address, timeout_seconds=ENOUGH_SECONDS)
        results = list(pool.map(lambda _: forwarder.post(EVENT), range(80)))
        assert all(result.ok for result in results)
        assert len(set(server.keys())) == 80


FORKED = """
import os, sys
from growlytics_forwarder import Forwarder
forwarder = Forwarder(sys.argv[1], timeout_seconds=60)
assert forwarder.track("before", "c-1").ok
children = []
for _ in range(4):
    child = os.fork()
    if not child:
        os._exit(0 if forwarder.track("child", "c-1").ok else 1)
    children.append(child)
assert forwarder.track("after", "c-1").ok
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
"""


def python(executable: str, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(executable, "-W", "error", "-c", text, *arguments, environment={"PYTHONPATH": str(CLIENT.parent)})


def test_forked_processes_share_one() -> None:
    with far_side(accepts) as server:
        done = python(sys.executable, FORKED, server.address)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(set(server.keys())) == 6


def test_nothing_stays_open_after_a_call(dead: str) -> None:
    """Warnings are errors here, so that a socket which the collector closes fails the test, too."""
    with far_side(
        accepts, closes, answers("400 Bad Request"), sends(b"?\r\n"), trickles(b"HTTP/1.1 200 OK\r\n", b"a")
    ) as server:
        threads = threading.active_count()
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for _ in range(4):
            Forwarder(server.address, timeout_seconds=SHORT_SECONDS).post(EVENT)
        for _ in range(4):
            Forwarder(dead, timeout_seconds=0.1).post(EVENT)
        ours = len(os.listdir("/proc/self/fd")) - before  # noqa: PTH208
        assert ours <= threading.active_count() - threads, "each of the rest is the server's"


def test_it_needs_the_standard_library_alone_and_starts_no_thread() -> None:
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(CLIENT.read_text(encoding="utf-8")))
        for name in (
            [each.name for each in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "")]
        )
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported <= sys.stdlib_module_names
    assert imported.isdisjoint({"threading", "asyncio", "concurrent", "multiprocessing", "subprocess"})


def test_a_system_without_unix_sockets_posts_over_tcp() -> None:
    """As Windows is, on which apps are written that run elsewhere."""
    text = """
import socket, sys
del socket.AF_UNIX
from growlytics_forwarder import Forwarder
assert Forwarder(sys.argv[1], timeout_seconds=60).track("a", "b").ok
assert "AF_UNIX" in Forwarder("unix:/run/x").track("a", "b").error
"""
    with far_side(accepts) as server:
        done = python(sys.executable, text, server.address)
        assert (done.returncode, done.stderr) == (0, "")


def test_python_3_8_can_read_it() -> None:
    ast.parse(CLIENT.read_text(encoding="utf-8"), feature_version=(3, 8))


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.13"])
def test_older_and_newer_pythons_run_it(version: str, dead: str) -> None:
    found = run(ROOT / ".ci/python", version)
    if found.returncode:
        pytest.skip(f"Python {version} is not installed")
    with far_side(AGAIN["429"], resets, AGAIN["ends in the body"], accepts) as server:
        done = python(found.stdout.strip(), FORKED, server.address)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(server.keys()) == 9
    with far_side(trickles(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n")) as server:
        text = """
import sys
from growlytics_forwarder import Forwarder
for address in sys.argv[1:]:
    result = Forwarder(address, timeout_seconds=0.4).track("a", "b")
    assert not result.ok and result.retry_later, result
"""
        done = python(found.stdout.strip(), text, server.address, dead)
        assert (done.returncode, done.stderr) == (0, "")
