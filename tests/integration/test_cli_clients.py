"""The commands that are clients, against a real daemon and against a server that does what a daemon rarely does."""

import asyncio
import gzip
import http.client
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from forwarder.cli import main
from forwarder.cli.lint import MAX_LISTED
from tests.fakes.commands import COMMAND, environment, exit_code, finish, run, start

MAX_BODY_BYTES = 4096


@dataclass(frozen=True)
class RunningDaemon:
    """A real daemon, whose Growlytics is never there."""

    http: str
    admin: str
    unix: str

    @property
    def url(self) -> str:
        return f"http://{self.http}"

    def ledger(self) -> dict[str, int]:
        connection = http.client.HTTPConnection(self.http, timeout=30)
        try:
            connection.request("GET", "/v1/status")
            ledger: dict[str, int] = json.load(connection.getresponse())["ledger"]["since_start"]
            return ledger
        finally:
            connection.close()


@pytest.fixture(autouse=True)
def no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    settings = {
        "intake.http": "127.0.0.1:0",
        "intake.unix_socket": tmp_path_factory.mktemp("daemon") / "intake.sock",
        "intake.max_body_bytes": MAX_BODY_BYTES,
        "admin.http": "127.0.0.1:0",
        "buffer.kind": "memory",
        "delivery.max_concurrency": 1,
        "shutdown.drain_seconds": 0,
        "log.format": "json",
    }
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    growlytics = {
        "FORWARDER_GROWLYTICS__API_KEY": "k",
        "FORWARDER_GROWLYTICS__URL": f"http://127.0.0.1:{port}/track/event",
    }
    command = [*COMMAND, "run", *(f"--set={name}={value}" for name, value in settings.items())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment() | growlytics) as process:
        assert process.stdout is not None
        try:
            ready = next(line for line in map(json.loads, process.stdout) if line["message"] == "ready")
            yield RunningDaemon(ready["http"], ready["admin"], ready["unix"])
        finally:
            process.kill()  # it has events that nobody takes


@dataclass
class Script:
    """A server that answers what it is told, one answer for each request; then it takes everything."""

    address: str
    bodies: list[bytes]
    asked: asyncio.Event
    """Set at each request."""

    @property
    def url(self) -> str:
        return f"http://{self.address}"


Step = Callable[[web.BaseRequest], web.StreamResponse | None]
"""Gives the answer; None leaves the client without one until it goes away."""


@asynccontextmanager
async def scripted(*steps: Step) -> AsyncIterator[Script]:
    script = Script("", [], asyncio.Event())
    remaining = iter(steps)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        script.bodies.append(body)
        answer = next(remaining, lambda _: accepted(body))(request)
        script.asked.set()
        if answer is None:
            await asyncio.Event().wait()
        assert answer is not None
        return answer

    runner = web.ServerRunner(web.Server(handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        script.address = f"{host}:{port}"
        yield script
    finally:
        await runner.cleanup()


def accepted(body: bytes) -> web.Response:
    return web.json_response({"accepted": len(body.split(b"\n")), "duplicates": 0, "rejected": []}, status=202)


def later(status: int, retry_after: str) -> Step:
    errors = {"success": False, "errors": [{"code": "buffer_full", "field": None, "message": "no room"}]}
    return lambda _: web.json_response(errors, status=status, headers={"Retry-After": retry_after})


def hang_up(request: web.BaseRequest) -> web.StreamResponse | None:
    assert request.transport is not None
    request.transport.close()
    return None


def no_answer(_: web.BaseRequest) -> None:
    return None


def lines(*events: object) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def event(**changes: object) -> dict[str, object]:
    return {"name": "Add To Cart", "customerId": "c", "time": 1700000000000, "attributes": {"Price": 1.5}} | changes


# send


def test_send_posts_an_event_and_prints_its_id(daemon: RunningDaemon, tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text(f'[intake]\nunix_socket = "{daemon.unix}"\n')
    before = daemon.ledger()["accepted"]
    command = [
        "send",
        "--config",
        str(tmp_path / "f.toml"),
        "--customer",
        "c",
        "--name",
        "n",
        "--attribute",
        "Price=1.50",
    ]
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    assert out.startswith("accepted, id ")
    assert int(out.removeprefix("accepted, id ")) > 0
    assert daemon.ledger()["accepted"] == before + 1


async def test_send_keeps_the_digits_as_they_were_typed(capsys: pytest.CaptureFixture[str]) -> None:
    async with scripted(lambda _: web.json_response({"success": True, "id": "17"})) as server:
        command = ["send", "--url", server.url, "--customer=c", "--name=n", "--time=1700000000000"]
        assert await asyncio.to_thread(main, [*command, "--attribute", "Price=1.50"]) == 0
    assert capsys.readouterr() == ("accepted, id 17\n", "")
    assert server.bodies == [b'{"name": "n", "customerId": "c", "time": 1700000000000, "attributes": {"Price": 1.50}}']


def test_send_tells_every_error_of_an_event_on_a_line_of_its_own(
    daemon: RunningDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["send", "--url", daemon.url, "--customer", "", "--name", "x" * 50, "--time", "17"])
    out, err = capsys.readouterr()
    assert (code, out) == (1, "")
    assert [line.partition(":")[0] for line in err.splitlines()] == ["customerId", "name", "time"]
    assert [line.rpartition(" ")[2] for line in err.splitlines()] == [
        "(empty)",
        "(name_too_long)",
        "(time_not_milliseconds)",
    ]


def test_without_a_daemon_send_says_where_it_looked_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "no.sock")
    assert main(["send", "--unix-socket", missing, "--customer", "c", "--name", "n"]) == 1
    err = capsys.readouterr().err
    assert f"no daemon can be reached at the Unix socket {missing}: No such file or directory; start it" in err
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = "http://{}:{}".format(*server.getsockname())
    assert main(["send", "--url", url, "--customer", "c", "--name", "n"]) == 1
    assert capsys.readouterr().err.startswith(f"no daemon can be reached at {url}: Connection refused; start it")


def test_send_to_another_server_asks_whether_the_address_is_right(
    daemon: RunningDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["send", "--url", f"http://{daemon.admin}", "--customer", "c", "--name", "n"]) == 1
    assert "is this the address of the daemon's intake" in capsys.readouterr().err


async def test_send_says_that_an_event_without_an_answer_may_have_been_taken(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with scripted(hang_up) as server:
        assert await asyncio.to_thread(main, ["send", "--url", server.url, "--customer", "c", "--name", "n"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    fix = "the daemon may or may not have accepted what was sent"
    assert err == f"the answer of {server.url} was lost: the connection was closed; {fix}\n"


async def test_send_and_load_that_are_not_let_in_say_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "events.ndjson").write_bytes(lines(event()))
    errors = {"success": False, "errors": [{"code": "unauthorized", "field": None, "message": "no token"}]}
    for command in (["send", "--customer=c", "--name=n"], ["load", str(tmp_path / "events.ndjson")]):
        async with scripted(lambda _: web.json_response(errors, status=401)) as server:
            assert await asyncio.to_thread(main, [*command, "--url", server.url]) == 1
        err = capsys.readouterr().err
        assert "no token (unauthorized)" in err
        assert "use --unix-socket, or --token-file if the daemon has a token" in err


def test_with_json_send_prints_one_object_whatever_the_daemon_says(
    daemon: RunningDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["send", "--json", "--name=n", "--url", daemon.url]
    assert main([*command, "--customer=c"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("id").isdecimal()
    assert found == {"accepted": True, "status": 200, "errors": [], "retry_after_seconds": None, "error": None}
    assert main([*command, "--customer="]) == 1
    found = json.loads(capsys.readouterr().out)
    (error,) = found.pop("errors")
    assert (error["code"], error["field"]) == ("empty", "customerId")
    assert found == {"accepted": False, "id": None, "status": 422, "retry_after_seconds": None, "error": None}
    assert main([*command, "--customer=c", "--url", f"http://{daemon.admin}"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["accepted"], found["status"], found["errors"]) == (False, 404, [])
    assert "not like a growlytics-forwarder" in found["error"]


async def test_with_json_send_says_null_where_nobody_knows_whether_the_event_was_accepted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["send", "--json", "--customer=c", "--name=n", "--url"]
    async with scripted(hang_up) as server:
        assert await asyncio.to_thread(main, [*command, server.url]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["accepted"] is None
    assert err.startswith(json.loads(out)["error"])
    assert main([*command, "http://127.0.0.1:1"]) == 1
    assert json.loads(capsys.readouterr().out)["accepted"] is False


def test_arguments_that_cannot_be_meant_end_with_64(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("send", "--customer", "c", "--name", "n", "--attribute", "Price") == 64
    assert exit_code("load", "--batch-events", "0", "-") == 64
    assert exit_code("healthcheck", "--url", "127.0.0.1:9920") == 64


# load


def test_load_says_how_many_and_which_lines_were_refused_and_why(daemon: RunningDaemon, tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_bytes(b"\n" + lines(event(), event(name="")) + b"\n{\x1b\n" + lines(*[event()] * 200, event(time=17)))
    before = daemon.ledger()
    code, out, err = run("load", "--unix-socket", daemon.unix, str(file))
    assert (code, out) == (1, "read 204, accepted 201, refused 3\n")
    assert [line.partition(":")[0] for line in err.splitlines()] == ["line 3", "line 5", "line 206"]
    assert [line.rpartition(" ")[2] for line in err.splitlines()] == [
        "(empty)",
        "(malformed_json)",
        "(time_not_milliseconds)",
    ]
    assert "\x1b" not in err
    assert daemon.ledger()["accepted"] == before["accepted"] + 201


def test_load_from_a_pipe_ends_with_0_when_every_event_was_accepted(daemon: RunningDaemon) -> None:
    code, out, err = run("load", "--url", daemon.url, "-", "--batch-events", "3", stdin=lines(*[event()] * 10))
    assert (code, out, err) == (0, "read 10, accepted 10, refused 0\n", "")


def test_load_refuses_only_the_line_that_is_too_large_for_the_daemon(
    daemon: RunningDaemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "events.ndjson"
    large = event(attributes={"Text": "x" * MAX_BODY_BYTES * 300})
    file.write_bytes(lines(*[event()] * 100, large, *[event()] * 100))
    assert main(["load", "--url", daemon.url, str(file)]) == 1
    out, err = capsys.readouterr()
    assert out == "read 201, accepted 200, refused 1\n"
    assert err.startswith("line 101: the body exceeds intake.max_body_bytes")


def test_load_of_a_file_that_is_not_there_says_so(
    daemon: RunningDaemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["load", "--url", daemon.url, str(tmp_path / "no\x1b")]) == 1
    assert main(["load", "--url", daemon.url, str(tmp_path)]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"cannot read {tmp_path}/no\\x1b: No such file or directory"
    assert second == f"cannot read {tmp_path}: Is a directory"


def test_load_of_an_array_over_several_lines_as_gzip_from_a_pipe_keeps_every_digit(daemon: RunningDaemon) -> None:
    before = daemon.ledger()["accepted"]
    text = json.dumps([event(), event(name=""), event()], indent=2).replace("1.5", "1.50")
    code, out, err = run("load", "--url", daemon.url, "-", stdin=gzip.compress(text.encode()))
    assert (code, out) == (1, "read 3, accepted 2, refused 1\n")
    assert err == "line 10: name: name must not be empty (empty)\n"
    assert daemon.ledger()["accepted"] == before + 2


def test_with_json_load_prints_one_object(daemon: RunningDaemon, tmp_path: Path) -> None:
    content = b"[" + b",".join([*lines(event(), event(time=7)).splitlines(), b'{"name": }'])
    (tmp_path / "events.json").write_bytes(content)
    arguments = ("--json", "--batch-events=1", "--url", daemon.url, str(tmp_path / "events.json"))
    code, out, err = run("load", *arguments)
    found = json.loads(out)
    (refusal,) = found.pop("refusals")
    assert (refusal["line"], refusal["event"], refusal["errors"][0]["code"]) == (1, 2, "time_not_milliseconds")
    stopped = found.pop("stopped")
    assert "the array that begins at line 1 has no end" in stopped
    assert stopped in err
    assert code == 1
    assert found == {
        "file": str(tmp_path / "events.json"),
        "read": 3,
        "accepted": 1,
        "duplicates": 0,
        "refused": 1,
        "not_confirmed": 1,
        "possible_duplicates": 0,
        "left_out": 0,
        "last_line": 1,
    }


def test_with_json_load_of_a_file_that_is_not_there_prints_one_object(
    daemon: RunningDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["load", "--json", "--url", daemon.url, "/no/such/file"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["read"], found["stopped"]) == (0, "cannot read /no/such/file: No such file or directory")


def test_load_of_nothing_is_no_error(daemon: RunningDaemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").write_bytes(b"\n \n")
    assert main(["load", "--url", daemon.url, str(tmp_path / "empty")]) == 0
    assert capsys.readouterr() == ("read 0, accepted 0, refused 0\n", "")


async def test_load_waits_as_long_as_the_daemon_asks_and_sends_the_same_batch_again() -> None:
    async with scripted(later(429, "1"), later(503, "0")) as server:
        process = await start("load", "--url", server.url, "--batch-events=2", "-")
        began = time.monotonic()
        code, out, err = await finish(process, lines(event(), event(), event()))
    assert (code, out) == (0, "read 3, accepted 3, refused 0\n")
    first, *others = server.bodies
    assert others == [first, first, others[-1]]
    assert first.count(b"\n") == 1
    assert others[-1].count(b"\n") == 0
    assert "waiting 1 s: no room (buffer_full)" in err
    assert time.monotonic() - began > 1


async def test_load_sends_a_batch_again_whose_answer_was_lost_and_owns_up_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "events.ndjson").write_bytes(lines(event(), event(), event()))
    command = ["load", str(tmp_path / "events.ndjson"), "--batch-events=2"]
    async with scripted(hang_up) as server:
        assert await asyncio.to_thread(main, [*command, "--url", server.url]) == 0
    out, err = capsys.readouterr()
    assert out == "read 3, accepted 3, refused 0, possible duplicates up to 2\n"
    assert "they may have been accepted; sending lines 1 to 2 again in 0.2 s" in err
    assert server.bodies[0] == server.bodies[1]
    assert len(server.bodies) == 3


async def test_ctrl_c_ends_load_with_the_summary_while_it_waits_for_an_answer() -> None:
    async with scripted(no_answer) as server:
        code, out, err = await interrupted_load(server)
    assert (code, out) == (1, "read 2, accepted 0, refused 0, not confirmed 2\n")
    assert err == "interrupted\nthe file was not sent, or got no answer\n"


async def test_ctrl_c_ends_load_with_the_summary_while_it_waits_for_a_pipe() -> None:
    async with scripted() as server:
        code, out, err = await interrupted_load(server)
    assert code == 1
    # The signal may also come just before the answer does.
    assert out in {f"read 2, accepted {n}, refused 0, not confirmed {2 - n}\n" for n in (0, 1)}
    assert err.startswith("interrupted\n")


async def interrupted_load(server: Script) -> tuple[int, str, str]:
    """Give it two lines, of which it sends the first, and then nothing but Ctrl-C."""
    process = await start("load", "--url", server.url, "--batch-events=1", "-")
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(lines(event(), event()))
    try:
        async with asyncio.timeout(30):
            await server.asked.wait()
            process.send_signal(signal.SIGINT)
            out, err, code = await asyncio.gather(process.stdout.read(), process.stderr.read(), process.wait())
    finally:
        if process.returncode is None:
            process.kill()
        process.stdin.close()
    return code, out.decode(), err.decode()


async def test_on_a_terminal_load_shows_a_bar_and_why_it_waits_and_takes_it_away(tmp_path: Path) -> None:
    (tmp_path / "events.ndjson").write_bytes(lines(event(), event()))
    terminal, stderr = pty.openpty()
    try:
        async with scripted(lambda _: accepted(b""), later(429, "0")) as server:
            process = await start(
                "load", "--url", server.url, "--batch-events=1", str(tmp_path / "events.ndjson"), stderr=stderr
            )
            code, out, _ = await finish(process)
        shown = os.read(terminal, 65536).decode()
    finally:
        os.close(terminal)
        os.close(stderr)
    assert (code, out) == (0, "read 2, accepted 2, refused 0\n")
    assert f"\r\x1b[K[{'#' * 10}{' ' * 10}]  50 % " in shown
    assert "50 % waiting 0.2 s: no room (buffer_full); " in shown
    assert shown.endswith("\r\x1b[K")
    assert "\n" not in shown


# lint


def test_lint_tells_file_line_field_and_code_of_all_that_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_bytes(b"\n" + lines(event(), event(name="", time="x")) + b"\n7\n")
    code, out, err = run("lint", str(file))
    assert code == 1
    assert [line.partition(" ")[0] for line in out.splitlines()] == [f"{file}:3:", f"{file}:3:", f"{file}:5:"]
    assert out.splitlines()[0] == f"{file}:3: name: name must not be empty (empty)"
    assert err == f"{file}: 3 events, 2 violate the contract\n"


def test_lint_of_good_events_says_nothing_but_the_summary() -> None:
    assert run("lint", "-", stdin=lines(event())) == (0, "", "<stdin>: 1 event, 0 violate the contract\n")


def test_with_json_lint_prints_one_object_with_the_place_of_each_problem(tmp_path: Path) -> None:
    (tmp_path / "types.toml").write_text('["Add To Cart"]\nPrice = "string"\n')
    (tmp_path / "events.json").write_text(json.dumps([event(), event(name="")], indent=1))
    code, out, err = run("lint", "--json", "--types", str(tmp_path / "types.toml"), str(tmp_path / "events.json"))
    found = json.loads(out)
    assert (code, err) == (1, "")
    assert [(each["line"], each["code"], each["field"]) for each in found.pop("problems")] == [
        (2, "attribute_type_conflict", "attributes.Price"),
        (10, "empty", "name"),
    ]
    assert found == {
        "file": str(tmp_path / "events.json"),
        "events": 2,
        "invalid": 2,
        "notes": [],
        "left_out": 0,
        "ended": None,
    }


def test_with_json_lint_lists_a_bounded_number_of_problems() -> None:
    code, out, _ = run("lint", "--json", "-", stdin=b"7\n" * (MAX_LISTED + 5))
    found = json.loads(out)
    assert (code, found["invalid"], len(found["problems"]), found["left_out"]) == (1, MAX_LISTED + 5, MAX_LISTED, 5)


def test_lint_of_a_file_that_was_cut_off_says_how_far_it_came() -> None:
    code, out, err = run("lint", "-", stdin=gzip.compress(lines(event(), event()))[:-9])
    assert (code, out) == (1, "")
    assert "then stopped: cannot read <stdin> beyond line" in err
    assert "its gzip data has no end: the file was cut off" in err


def test_lint_of_a_file_that_is_not_there_is_its_no(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", str(tmp_path / "no")]) == 1
    assert "cannot read" in capsys.readouterr().err


def test_lint_ends_quietly_when_the_reader_of_its_output_has_seen_enough() -> None:
    with subprocess.Popen(
        [*COMMAND, "lint", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(b"7\n" * 10_000)
        process.stdin.close()
        err = process.stderr.read().decode()
    assert process.returncode == 1
    assert "then the reader of the output left" in err
    assert "Error" not in err


def test_lint_and_healthcheck_do_without_the_libraries_that_take_long_to_import() -> None:
    program = (
        "import sys; from forwarder.cli import main; main(['lint', '-']); "
        "main(['healthcheck', '--url', 'http://127.0.0.1:1']); "
        "print(sys.modules.keys() & {'aiohttp', 'asyncio', 'prometheus_client', 'tenacity', 'ssl'})"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environment(), check=True)
    assert done.stdout == b"set()\n"


def test_the_help_of_lint_needs_neither_the_daemon_nor_the_settings() -> None:
    program = (
        "import atexit, sys; from forwarder.cli import main; "
        "atexit.register(lambda: print(*sorted(m for m in sys.modules if m.startswith('forwarder.')))); "
        "main(['lint', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment(), check=True)
    assert {"forwarder.cli.lint", "forwarder.cli.options"} <= {*done.stdout.decode().split()}
    assert {"forwarder.cli.daemon", "forwarder.settings"}.isdisjoint(done.stdout.decode().split())


# healthcheck


def test_healthcheck_of_a_daemon_that_is_alive_ends_with_0(daemon: RunningDaemon) -> None:
    assert main(["healthcheck", "--url", f"http://{daemon.admin}"]) == 0


def test_healthcheck_finds_the_daemon_by_its_settings_whatever_else_is_wrong_with_them(
    daemon: RunningDaemon, tmp_path: Path
) -> None:
    port = daemon.admin.rpartition(":")[2]
    (tmp_path / "f.toml").write_text(f'[admin]\nhttp = "0.0.0.0:{port}"\n[no-such]\nsection = 1\n')
    assert main(["healthcheck", "--config", str(tmp_path / "f.toml")]) == 0
    assert main(["healthcheck", "--set", f"admin.http=localhost:{port}", "--set", "growlytics.api_key_file=/no"]) == 0


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("", "admin.http is off"),
        ("127.0.0.1:0", "admin.http has port 0"),
        ("nonsense", "admin.http is not an address"),
        ("127.0.0.1:{closed}", "no daemon can be reached at http://127.0.0.1:{closed}: Connection refused"),
        ("{intake}", "http://{intake}/livez answered 404, not 200; is this the daemon's admin.http?"),
    ],
)
def test_healthcheck_says_on_one_line_why_it_is_not_well(
    setting: str, why: str, daemon: RunningDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        names = {"closed": server.getsockname()[1], "intake": daemon.http}
    assert main(["healthcheck", "--set", f"admin.http={setting.format(**names)}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"healthcheck: {why.format(**names)}")


def test_healthcheck_with_a_file_that_cannot_be_used_is_its_no(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "f.toml").write_bytes(b"\xff")
    assert main(["healthcheck", "--config", str(tmp_path / "f.toml")]) == 1
    assert main(["healthcheck", "--config", str(tmp_path / "no")]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "is not TOML" in first
    assert "cannot be read: No such file or directory" in second


async def test_healthcheck_by_a_name_that_the_daemon_refuses_says_where_to_allow_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with scripted(lambda _: web.Response(status=403)) as server:
        assert await asyncio.to_thread(main, ["healthcheck", "--url", server.url]) == 1
    assert capsys.readouterr().err.endswith("/livez answered 403: add 127.0.0.1 to the daemon's intake.allowed_hosts\n")


@pytest.mark.timeout(20)
def test_healthcheck_waits_two_seconds_for_an_answer_and_no_longer(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        assert main(["healthcheck", "--url", "http://{}:{}".format(*silent.getsockname())]) == 1
        assert time.monotonic() - began > 1.9
    assert capsys.readouterr().err.endswith("no answer in time\n")
