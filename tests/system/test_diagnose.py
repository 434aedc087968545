"""The command `diagnose` with real daemons, disks and far sides: what it finds, and that it leaves no trace."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.other_users import NEEDS_ROOT, open_directory
from tests.fakes.raw_server import Connection, answer, answering, raw_server
from tests.system.hanging_disks import hanging_disk
from tests.system.processes import (
    COMMAND,
    KEY,
    clean_environment,
    example_event,
    run_command,
    running_daemon,
    running_sandbox,
    until,
)
from tests.system.small_disks import fill, make_read_only, small_disk

NOWHERE = "http://127.0.0.1:1/track/event"


class Diagnosis:
    """What the command found, as JSON."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.text, self.err = code, out, err
        self.content: dict[str, Any] = json.loads(out)
        assert (code == 0) is self.content["ok"], out
        assert (code == 0) is all(each["result"] != "fail" for each in self.content["checks"])

    def of(self, check: str) -> list[dict[str, Any]]:
        return [each for each in self.content["checks"] if each["check"] == check]

    def one(self, check: str) -> dict[str, Any]:
        (found,) = self.of(check)
        return found

    @property
    def untried(self) -> dict[str, str]:
        return {each["check"]: each["why"] for each in self.content["untried"]}


async def diagnosed(*arguments: str, environment: Mapping[str, str] | None = None) -> Diagnosis:
    return Diagnosis(*await run_command("diagnose", "--json", *arguments, environment=environment))


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Return a directory that other users may enter: pytest closes its own whenever another run begins."""
    with open_directory() as directory:
        yield directory


def settings(directory: Path, url: str = NOWHERE, **more: object) -> list[str]:
    """Return the arguments of settings that name a directory of this test alone."""
    chosen = {"growlytics.url": url, "buffer.directory": directory / "buffer", "intake.http": "127.0.0.1:1", **more}
    return [f"--set={path.replace('__', '.')}={value}" for path, value in chosen.items()]


async def test_a_daemon_that_delivers_is_found_healthy_and_no_event_is_made(tmp_path: Path) -> None:
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url) as daemon:
        async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(1)) as response:
            assert response.status == 200
        await until(daemon.drained, "it is delivered")
        before = (await sandbox.counters())["stored"], await daemon.ledger()
        found = await diagnosed(*settings(tmp_path, sandbox.url, control__socket=tmp_path / "buffer" / "control.sock"))
        counters = await sandbox.counters()
        assert (counters["stored"], await daemon.ledger()) == before
        assert counters["unauthorized"] == 0, "a request without a key, but not for an event"
        assert found.code == 0, found.text
        assert "1 event delivered" in found.one("key")["text"]
        assert found.one("daemon")["facts"]["state"] == "ready"
        assert found.one("descriptors")["facts"]["of"] == "the daemon"
        for check in ("dns", "connect", "answer", "clock", "disk", "fsync", "descriptors", "settings"):
            assert found.one(check)["result"] == "ok", found.text
        assert "plain http" in found.untried["tls"]
        assert KEY not in found.text


async def test_lines_for_people_end_with_how_many_failed(tmp_path: Path) -> None:
    code, out, _ = await run_command("diagnose", *settings(tmp_path))
    assert code == 1
    lines = out.splitlines()
    assert any(line.startswith("fail  connect: 127.0.0.1:1: connection refused") for line in lines)
    assert any(line.startswith("      fix: check host and port") for line in lines)
    assert any(line.startswith("warn  daemon: no daemon can be reached") for line in lines)
    assert any(line.startswith("warn  key: ") for line in lines)
    assert lines[-1] == "1 check failed"


async def test_it_works_without_a_daemon_and_without_a_key(tmp_path: Path) -> None:
    async with raw_server(answering(answer("200 OK", b"", "X: y"))) as server:
        found = await diagnosed(*settings(tmp_path, server.url))
        (request,) = server.requests
    assert request.line == "HEAD / HTTP/1.1"
    assert found.code == 0, "no daemon and no key here are warnings: an operator's shell has mostly neither"
    assert found.one("daemon")["result"] == "warn"
    assert found.one("key")["result"] == "warn"
    assert "no valid Date" in found.untried["clock"]


async def test_the_key_that_growlytics_refuses_is_told_by_the_daemon(tmp_path: Path) -> None:
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url) as daemon:
        await sandbox.use_key("another")
        async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(1)) as response:
            assert response.status == 200

        async def is_refused() -> bool:
            return "auth" in (await daemon.status())["holds"]

        await until(is_refused, "the key is refused")
        found = await diagnosed(*settings(tmp_path, sandbox.url))
    assert found.code == 1
    assert found.one("key")["text"] == "Growlytics refuses the daemon's API key"
    assert "auth" in found.one("delivery")["text"]


async def test_a_refusal_that_is_none_of_the_key_does_not_blame_the_key(tmp_path: Path) -> None:
    async with (
        raw_server(answering(answer("403 Forbidden", b"<html>"))) as far_side,
        running_daemon(tmp_path, f"http://127.0.0.1:{far_side.port}/track/event") as daemon,
    ):
        async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(1)) as response:
            assert response.status == 200

        async def is_refused() -> bool:
            return "auth" in (await daemon.status())["holds"]

        await until(is_refused, "delivery is paused")
        found = await diagnosed(*settings(tmp_path), f"--unix-socket={tmp_path}/buffer/control.sock")
    assert found.one("key")["result"] == "warn"
    assert found.one("key")["text"] == "the daemon was answered 403, so whether the API key is accepted is not known"
    assert not any("again and again" in each["text"] for each in found.of("daemon"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[delivery]\nmax_concurrency = 'x'\n[buffer]\nmax_events = 0\n", "delivery.max_concurrency"),
        ("not TOML CANARY", "is not TOML"),
        (b"\xff\xfe\x00", "UTF-16"),
    ],
)
async def test_with_settings_that_no_daemon_can_start_with_the_rest_is_checked_all_the_same(
    tmp_path: Path, content: str | bytes, words: str
) -> None:
    config = tmp_path / "config.toml"
    config.write_bytes(content.encode() if isinstance(content, str) else content)
    found = await diagnosed("--config", str(config), *settings(tmp_path), "--timeout=2")
    assert found.code == 1
    failed = [each for each in found.of("settings") if each["result"] == "fail"]
    assert any(words in each["text"] for each in failed)
    assert found.one("disk")["result"] == "ok"
    assert found.one("connect")["result"] == "fail"
    assert "CANARY" not in found.text


async def test_settings_that_are_missing_are_a_failure_and_the_rest_is_checked(tmp_path: Path) -> None:
    found = await diagnosed("--config", str(tmp_path / "gone.toml"), *settings(tmp_path))
    assert any("cannot be read" in each["text"] for each in found.of("settings"))
    assert found.one("connect")["result"] == "fail"


@NEEDS_ROOT
async def test_another_user_who_may_not_read_the_keys_file_can_diagnose(open_path: Path) -> None:
    key, directory = open_path / "key", open_path / "buffer"
    key.write_text(KEY)
    key.chmod(0o600)
    directory.mkdir(mode=0o700)
    async with raw_server(answering(answer("200 OK"))) as server:
        arguments = settings(open_path, server.url, growlytics__api_key_file=key)
        process = await asyncio.create_subprocess_exec(
            *("setpriv", "--reuid=54321", "--regid=54322", "--clear-groups"),
            *(*COMMAND, "diagnose", "--json", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=clean_environment(),
        )
        out, err = await process.communicate()
    assert process.returncode is not None
    found = Diagnosis(process.returncode, out.decode(), err.decode())
    (denied,) = found.of("settings")
    assert denied["result"] == "warn"
    assert "this user may not read it" in denied["text"]
    assert "growlytics.api_key_file" in found.untried["key"]
    assert found.one("answer")["result"] == "ok"
    assert "may not write" in found.one("disk")["text"]
    assert KEY not in found.text


@NEEDS_ROOT
async def test_another_user_than_the_daemons_sees_what_anybody_may_see(open_path: Path) -> None:
    async with raw_server(answering(answer("200 OK"))) as server, running_daemon(open_path, server.url) as daemon:
        process = await asyncio.create_subprocess_exec(
            *("setpriv", "--reuid=54321", "--regid=54322", "--clear-groups"),
            *(*COMMAND, "diagnose", "--json", f"--url={daemon.base}"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=clean_environment(),
        )
        out, err = await process.communicate()
    assert process.returncode is not None
    found = Diagnosis(process.returncode, out.decode(), err.decode())
    assert found.code == 0, found.text
    assert str(server.port) in found.one("connect")["text"], "it is where the daemon sends"
    assert "but a daemon runs" in found.untried["disk"]
    assert "whether the daemon uses a proxy is not shown" in found.untried["proxy"]


async def test_a_proxys_password_is_not_shown_wherever_it_fails(tmp_path: Path) -> None:
    async with raw_server(answering(answer("407 Proxy Authentication Required"))) as proxy:
        place = f"http://CANARY-user:CANARY%40word@127.0.0.1:{proxy.port}"
        for arguments in ([], ["--json"]):
            code, out, err = await run_command(
                "diagnose", *arguments, *settings(tmp_path, "https://dc.invalid/t?k=CANARY", growlytics__proxy=place)
            )
            assert code == 1
            assert "refuses the user or the password (407)" in out
            assert "CANARY" not in out + err


async def test_a_proxy_that_only_the_daemon_knows_is_told_and_nothing_else_is_tried(tmp_path: Path) -> None:
    async with raw_server(answering(answer("403 Forbidden"))) as proxy:
        place = f"http://CANARY:CANARY@127.0.0.1:{proxy.port}"
        async with running_daemon(tmp_path, "https://dc.invalid/t", growlytics__proxy=place):
            found = await diagnosed(f"--unix-socket={tmp_path}/buffer/control.sock")
    assert "--config" in found.untried["connect"]
    assert found.one("disk")["facts"]["directory"] == str(tmp_path / "buffer"), "it is that of the daemon"
    assert "CANARY" not in found.text


async def test_settings_of_this_command_that_the_daemon_does_not_use_are_told(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, NOWHERE):
        socket = tmp_path / "buffer" / "control.sock"
        same = await diagnosed(*settings(tmp_path), f"--unix-socket={socket}")
        other = await diagnosed(*settings(tmp_path, "http://127.0.0.1:2/CANARY"), f"--unix-socket={socket}")
    assert not any("other settings" in each["text"] for each in same.of("settings"))
    (warning,) = [each for each in other.of("settings") if "other settings" in each["text"]]
    assert warning["text"].endswith("growlytics.url")
    assert "CANARY" not in other.text


async def test_a_server_that_dislikes_the_harmless_request_but_takes_events_is_a_warning(tmp_path: Path) -> None:
    async def picky(connection: Connection) -> None:
        while (request := await connection.request()) is not None:
            if request.line.startswith("HEAD"):
                await connection.close()
                return
            await connection.send(answer("200 OK", b'{"success":true}', "Content-Type: application/json"))

    async with raw_server(picky) as server, running_daemon(tmp_path, server.url) as daemon:
        async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(1)) as response:
            assert response.status == 200
        await until(daemon.drained, "it is delivered")
        found = await diagnosed(f"--unix-socket={tmp_path}/buffer/control.sock")
    assert found.one("answer")["result"] == "warn"
    assert found.one("answer")["text"].endswith("but the daemon delivers")
    assert found.code == 0


# The disk


async def test_a_full_disk_a_disk_without_inodes_and_a_read_only_one_are_told(tmp_path: Path) -> None:
    async with small_disk(tmp_path / "full", mib=4) as disk:
        (disk / "buffer").mkdir()
        fill(disk)
        found = await diagnosed(*settings(disk))
        assert found.one("disk")["text"].endswith("is full")
        assert found.one("disk")["result"] == "fail"
    async with small_disk(tmp_path / "few", mib=4, max_files=2) as disk:
        (disk / "buffer").mkdir()
        found = await diagnosed(*settings(disk))
        assert "inodes" in found.one("disk")["text"]
    async with small_disk(tmp_path / "fixed", mib=4) as disk:
        (disk / "buffer").mkdir()
        await make_read_only(disk)
        found = await diagnosed(*settings(disk))
        assert found.one("disk")["text"].endswith("is read-only")
        assert list((disk / "buffer").iterdir()) == []


async def test_a_disk_that_is_too_small_for_the_buffer_is_a_warning(tmp_path: Path) -> None:
    async with small_disk(tmp_path / "small", mib=64) as disk:
        found = await diagnosed(*settings(disk))
        assert found.one("disk")["result"] == "ok"
        assert (disk / "buffer").exists() is False, "nothing is made"
        (disk / "buffer").mkdir()
        found = await diagnosed(*settings(disk))
        assert found.one("space")["result"] == "warn"
        assert "buffer.max_bytes" in found.one("space")["fix"]
        assert list((disk / "buffer").iterdir()) == []
        fits = settings(disk, buffer__max_bytes="1 MiB", buffer__max_events=10, dead_letters__max_bytes="1 MiB")
        more = ["--set=dead_letters.max_events=10", "--set=intake.duplicate_max_keys=10"]
        found = await diagnosed(*fits, *more)
        assert found.one("space")["result"] == "ok", found.text


async def test_a_disk_that_hangs_ends_the_check_in_time(tmp_path: Path) -> None:
    disk = hanging_disk(tmp_path)
    (tmp_path / "buffer").mkdir()
    with disk.hanging():
        process = await asyncio.create_subprocess_exec(
            *(*disk.command, *COMMAND, "diagnose", "--json", "--timeout=1", *settings(tmp_path)),
            stdout=asyncio.subprocess.PIPE,
            env=clean_environment(),
        )
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
        assert process.returncode == 1
        found = Diagnosis(1, out.decode(), "")
    assert found.one("disk")["text"].endswith("does not answer within 1 s")
    assert found.one("descriptors")["result"] == "ok", "the checks after it are made"
    assert list((tmp_path / "buffer").iterdir()) == [], "and nothing is left of what it wrote"


@NEEDS_ROOT
async def test_files_of_another_user_in_the_directory_are_told(tmp_path: Path) -> None:
    directory = tmp_path / "the buffer"
    directory.mkdir()
    os.chown(directory, 54321, 54322)
    (directory / "buffer.db").write_bytes(b"")
    found = await diagnosed(*settings(tmp_path, buffer__directory=directory))
    assert "buffer.db" in found.one("disk")["text"]
    assert f"chown 54321 '{directory}'/*" in found.one("disk")["fix"], "as it can be typed"


async def test_a_buffer_in_memory_has_no_disk_to_check(tmp_path: Path) -> None:
    found = await diagnosed(*settings(tmp_path, buffer__kind="memory"))
    assert "no disk is used" in found.untried["disk"]


@pytest.mark.parametrize("kind", ["file", "below a file", "dangling link"])
async def test_what_is_no_directory_is_told(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "dangling link":
        place.symlink_to(tmp_path / "gone")
    else:
        place.write_text("precious")
    directory = place / "buffer" if kind == "below a file" else place
    found = await diagnosed(*settings(tmp_path, buffer__directory=directory))
    assert found.one("disk")["text"].endswith(f"{place} is not a directory")
    assert found.one("disk")["result"] == "fail"


@pytest.mark.parametrize("setting", ["growlytics__api_key_file", "intake__token_file", "config"])
async def test_a_file_that_hangs_ends_the_check_of_settings_in_time(tmp_path: Path, setting: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    hanging = f"--set={setting.replace('__', '.')}={pipe}"
    named = [f"--config={pipe}"] if setting == "config" else [*settings(tmp_path), hanging]
    found = await diagnosed(*named, "--timeout=1")
    assert any("is it a pipe" in each["text"] for each in found.of("settings"))
    assert found.one("descriptors")["result"] == "ok"


# Daemons that do not answer


async def test_authorities_that_the_environment_names_and_nobody_can_read_are_told(tmp_path: Path) -> None:
    environment = clean_environment(SSL_CERT_FILE=str(tmp_path / "gone.pem"))
    found = await diagnosed(*settings(tmp_path, "https://127.0.0.1:1/"), environment=environment)
    told = [each["text"] for each in found.of("settings") if each["result"] == "warn"]
    assert any(text.startswith("SSL_CERT_FILE names a file that cannot be read") for text in told), told


async def test_events_that_wait_for_a_daemon_are_told(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, NOWHERE, shutdown__drain_seconds=0) as daemon:
        for number in range(3):
            async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(number)) as response:
                assert response.status == 200
        assert await daemon.stop() == 0
    found = await diagnosed(*settings(tmp_path))
    assert found.one("buffer")["text"] == f"3 events wait in {tmp_path}/buffer, and nobody delivers them"
    assert found.one("buffer")["facts"]["events"] == 3


async def test_a_process_that_uses_the_directory_but_does_not_answer_is_told(tmp_path: Path) -> None:
    off = {"intake__http": "", "control__socket": "", "intake__unix_socket": tmp_path / "other.sock"}
    async with running_daemon(tmp_path, NOWHERE, **off) as daemon:
        found = await diagnosed(*settings(tmp_path, intake__unix_socket=tmp_path / "gone.sock"))
        (text,) = [each["text"] for each in found.of("daemon")]
        assert text.startswith(f"process {daemon.process.pid} (")
        assert ") runs and does not answer: no daemon can be reached" in text
    assert found.code == 1


async def test_a_daemon_that_is_stopped_is_told_in_time_with_its_state(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, NOWHERE) as daemon:
        async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(1)) as response:
            assert response.status == 200
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            found = await diagnosed(*settings(tmp_path), "--timeout=1")
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        told = found.one("daemon")
    assert told["result"] == "fail"
    assert told["text"].startswith(f"process {daemon.process.pid} (T (stopped)) runs and does not answer")
    assert told["facts"]["process"]["threads_wait_in"]
    assert not found.of("buffer"), "events wait for this daemon; another one could not deliver them"


async def test_a_failure_after_the_last_delivery_is_a_warning(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, NOWHERE) as daemon:
        async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(1)) as response:
            assert response.status == 200

        async def has_failed() -> bool:
            return (await daemon.status())["delivery"]["last_failure"] is not None

        await until(has_failed, "an attempt fails")
        found = await diagnosed(*settings(tmp_path), f"--unix-socket={tmp_path}/buffer/control.sock")
    assert found.one("delivery")["result"] in {"warn", "fail"}
    assert "connection refused (127.0.0.1:1)" in found.one("delivery")["text"]


async def test_what_answers_like_no_forwarder_is_told_and_its_text_is_escaped(tmp_path: Path) -> None:
    hostile = json.dumps({"state": "\x1b[31mCANARY" * 1000, "ledger": {}, "problems": [{"what": "\x1b[2J"}] * 100})
    for body in (b"{}", b"<html>", hostile.encode(), b'{"state":"ready","ledger":{},"holds":[1],"delivery":5}'):
        async with raw_server(answering(answer("200 OK", body, "Content-Type: application/json"))) as server:
            code, out, err = await run_command("diagnose", f"--url=http://127.0.0.1:{server.port}", *settings(tmp_path))
        assert code == 1
        assert "\x1b" not in out + err
        assert len(out) < 20_000
        assert "Traceback" not in err


ODD_VALUES: tuple[object, ...] = (
    *(1e308, 10**400, True, [[]], {"a": {}}),
    *("\ud800", "/nul\0", "http://[::1", "http://x:99999/", "x" * 10_000),
)


@pytest.mark.parametrize("odd", ODD_VALUES, ids=lambda odd: ascii(odd)[:20])
async def test_whatever_a_strangers_daemon_says_each_check_ends(tmp_path: Path, odd: object) -> None:
    status = {
        "state": "ready",
        "ledger": {},
        "pid": odd,
        "instance": None,
        "uptime_seconds": odd,
        "buffer": {"directory": odd, "kind": odd},
        "delivery": {"destination": odd, "last_delivery_at": odd, "attempts": {"delivered": odd}},
        "holds": {"auth": odd},
        "problems": [{"kind": odd, "what": odd, "commands": [odd]}, odd],
        "settings": {"growlytics": {"ca_file": odd, "proxy": None}},
        "process": {"descriptors": {"open": odd, "soft_limit": odd}},
    }
    body = json.dumps(status).replace("1e+308", "1e400").encode()
    async with raw_server(answering(answer("200 OK", body, "Content-Type: application/json"))) as server:
        arguments = (f"--url=http://127.0.0.1:{server.port}", "--timeout=1")
        found = await diagnosed(*arguments)
        code, out, err = await run_command("bundle", str(tmp_path / "bundle.tar.gz"), *arguments)
    assert found.of("descriptors"), "the last of them"
    assert "Traceback" not in found.err + err
    assert code == 0, out


async def test_of_a_daemon_on_another_machine_the_disk_is_not_looked_for_here(tmp_path: Path) -> None:
    status = {"state": "ready", "ledger": {}, "instance": "elsewhere\x1b", "buffer": {"directory": "/proc/nowhere"}}
    async with raw_server(answering(answer("200 OK", json.dumps(status).encode()))) as server:
        found = await diagnosed(f"--url=http://127.0.0.1:{server.port}", f"--set=growlytics.url={NOWHERE}")
    assert found.untried["disk"] == "the daemon runs on elsewhere\\x1b, which has a disk of its own"
    assert any("may be another than the one tried here" in each["text"] for each in found.of("settings"))


async def test_it_ends_when_nobody_reads_its_lines(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_shell(
        f"{' '.join(COMMAND)} diagnose {' '.join(settings(tmp_path))} | true",
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    async with asyncio.timeout(60):
        _, err = await process.communicate()
    assert b"Traceback" not in err
