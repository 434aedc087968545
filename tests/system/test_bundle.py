"""The command `bundle`: what is in the archive, what never is, and how it is written."""

import asyncio
import json
import os
import signal
import stat
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Final

import pytest

from forwarder.cli.bundling import NotWrittenError, check_target
from tests.fakes.other_users import NEEDS_ROOT, not_root, open_directory
from tests.fakes.raw_server import Connection, answer, answering, raw_server
from tests.system.processes import (
    COMMAND,
    clean_environment,
    example_event,
    run_command,
    running_daemon,
    until,
)
from tests.system.small_disks import fill, small_disk
from tests.system.test_secrets import everything_happens

NOWHERE: Final = "http://127.0.0.1:1/track/event"
ODD_KEY: Final = "CANARY\"key\\with'odd$%s{chars}&=+/"
ODD_TOKEN: Final = "CANARY token/with:@?#[]"
FILES_OF_DAEMON: Final = {
    f"daemon/{name}"
    for name in (
        "status.json",
        "process.json",
        "versions.json",
        "settings.json",
        "metrics.txt",
        "tasks.json",
        "threads.json",
        "log.txt",
    )
}
OWN_FILES: Final = {"about.json", "diagnose.json", "diagnose.txt", "settings.toml"}


def unpacked(path: Path) -> dict[str, bytes]:
    """Return the content of an archive by the names of its files, without the directory that all are in."""
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        found = {}
        for member in members:
            assert member.isfile()
            assert member.mode == 0o600
            file = archive.extractfile(member)
            assert file is not None
            top, _, name = member.name.partition("/")
            assert top == "bundle"
            assert not name.startswith(("/", ".."))
            found[name] = file.read()
        return found


async def bundled(directory: Path, *arguments: str, environment: dict[str, str] | None = None) -> dict[str, bytes]:
    path = directory / "bundle.tar.gz"
    code, out, err = await run_command("bundle", str(path), *arguments, environment=environment)
    assert code == 0, err
    assert str(path) in out
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "CANARY" not in out + err
    return unpacked(path)


def settings(directory: Path, url: str = NOWHERE) -> list[str]:
    return [f"--set=growlytics.url={url}", f"--set=buffer.directory={directory}/buffer", "--timeout=2"]


def assert_nowhere(secrets: tuple[str, ...], files: dict[str, bytes]) -> None:
    for name, content in files.items():
        for secret in secrets:
            place = content.find(secret.encode())
            assert place < 0, f"{name}: {content[max(0, place - 200) : place + 100]!r}"


# What is in it


async def echo(connection: Connection) -> None:
    """Accept most events and reject some, each with an answer that quotes it."""
    while (request := await connection.request()) is not None:
        said = request.body
        status = "400 Bad Request" if b'-3"' in said or b'CANARY-5"' in said else "200 OK"
        body = b'{"success":true}' if status == "200 OK" else said
        await connection.send(answer(status, body, f"X-Echo: {said[:60]!r}", "Content-Type: application/json"))


async def test_all_parts_are_in_it_and_no_secret_no_customer_and_no_value(tmp_path: Path) -> None:
    config, key, token = tmp_path / "config.toml", tmp_path / "key", tmp_path / "token"
    key.write_text(ODD_KEY)
    token.write_text(ODD_TOKEN)
    lines, datagram = tmp_path / "lines", tmp_path / "datagram"
    async with raw_server(echo) as far_side:
        config.write_text(
            f'[growlytics]\nurl = "{far_side.url}?project=CANARY-query"\napi_key_file = "{key}"\n'
            f'[intake]\ntoken_file = "{token}"\nlines_socket = "{lines}"\ndatagram_socket = "{datagram}"\n'
            f'[buffer]\ndirectory = "{tmp_path}/buffer"\n[log]\nlevel = "debug"\n'
            "[delivery]\nretry_initial_seconds = 0.01\nretry_max_seconds = 0.02\n"
        )
        async with running_daemon(
            tmp_path,
            f"{far_side.url}?project=CANARY-query",
            config=config,
            growlytics__api_key_file=key,
            loop="asyncio",
        ) as daemon:
            daemon.http.headers["x-growlytics-key"] = ODD_TOKEN
            await everything_happens(daemon)
            for number in range(200):
                body = json.loads(json.dumps(example_event(number)).replace("YOUR_APP", "CANARY"))
                async with daemon.http.post(f"{daemon.base}/track/event", json=body) as response:
                    assert response.status == 200

            async def has_dead_letters() -> bool:
                return bool((await daemon.status())["dead_letters"]["events"])

            await until(has_dead_letters, "some are dead letters")
            assert any(request.body.count(b"CANARY") for request in far_side.requests), "it echoes canaries"
            files = await bundled(tmp_path, f"--config={config}", f"--unix-socket={tmp_path}/buffer/control.sock")
            assert json.loads(files["daemon/process.json"])["pid"] == daemon.process.pid
    assert files.keys() == FILES_OF_DAEMON | OWN_FILES
    assert_nowhere(("CANARY", "odd$", "with:@"), files)
    assert b"growlytics_forwarder_events_accepted_total" in files["daemon/metrics.txt"]
    log = [json.loads(line) for line in files["daemon/log.txt"].splitlines()]
    assert {"starting", "ready"} <= {line["message"] for line in log}
    assert any(line["level"] == "debug" for line in log)
    assert b'api_key_file = "' in files["settings.toml"]
    assert json.loads(files["diagnose.json"])["checks"]
    assert json.loads(files["daemon/status.json"])["ledger"]["since_start"]["accepted"] > 50
    assert {"delivery", "buffer"} <= {task["name"] for task in json.loads(files["daemon/tasks.json"])}
    assert json.loads(files["about.json"])["lacks"] == []


async def test_user_and_password_of_a_proxy_are_nowhere_in_it(tmp_path: Path) -> None:
    async with raw_server(answering(answer("407 Proxy Authentication Required", b"CANARY"))) as proxy:
        place = f"http://CANARY-user:CANARY%2Fword@127.0.0.1:{proxy.port}"
        url = "https://dc.invalid/track?k=CANARY"
        async with running_daemon(tmp_path, url, growlytics__proxy=place) as daemon:
            async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(1)) as response:
                assert response.status == 200
            await until(lambda: any("407" in str(line) for line in daemon.lines), "the proxy refuses")
            files = await bundled(
                tmp_path,
                *settings(tmp_path, url),
                f"--set=growlytics.proxy={place}",
                f"--unix-socket={tmp_path}/buffer/control.sock",
            )
    assert_nowhere(("CANARY", "Q0FOQVJZ"), files)  # the second begins its base64
    assert b"127.0.0.1" in files["diagnose.txt"]


async def test_without_a_daemon_it_has_what_is_known_and_says_what_it_lacks(tmp_path: Path) -> None:
    files = await bundled(tmp_path, *settings(tmp_path), "--set=intake.http=127.0.0.1:1")
    assert files.keys() == OWN_FILES | {"versions.json"}
    (lack,) = json.loads(files["about.json"])["lacks"]
    assert set(lack["files"]) == FILES_OF_DAEMON
    assert "no daemon can be reached" in lack["why"]
    assert json.loads(files["versions.json"])["libraries"]["aiohttp"]


async def test_with_settings_that_cannot_be_used_it_is_made_all_the_same(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[growlytics]\nurl = 'ftp://CANARY:CANARY@x'\napi_key = 'CANARY CANARY\\u00e9'\n[nonsense]\n")
    files = await bundled(tmp_path, f"--config={config}", *settings(tmp_path), "--set=intake.http=127.0.0.1:1")
    assert b"growlytics.api_key" in files["diagnose.txt"]
    assert_nowhere(("CANARY",), files)


async def test_who_may_only_see_the_status_gets_that_and_is_told(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, NOWHERE) as daemon:
        path = tmp_path / "bundle.tar.gz"
        code, _, err = await run_command("bundle", str(path), f"--url={daemon.base}", *settings(tmp_path))
    assert code == 0
    assert "without the daemon's inside" in err
    files = unpacked(path)
    assert "daemon/status.json" in files
    assert "daemon/log.txt" not in files


async def test_of_a_strange_daemon_only_what_is_harmless_is_in_it(tmp_path: Path) -> None:
    deep: Any = "bottom"
    for _ in range(100):
        deep = {"deep": deep}
    status = {
        "state": "ready",
        "ledger": {},
        "customer": "CANARY",
        "a": [{"Event": "CANARY", "payload": {"x": "CANARY"}, "name": "n", "long": "x" * 10_000}],
        "deep": deep,
    }
    content = json.dumps(status).encode()
    async with raw_server(answering(answer("200 OK", content, "Content-Type: application/json"))) as server:
        files = await bundled(tmp_path, f"--url=http://127.0.0.1:{server.port}", *settings(tmp_path))
    assert_nowhere(("CANARY", "x" * 1000, "bottom"), files)
    assert json.loads(files["daemon/status.json"])["a"][0]["name"] == "n"


# How it is written


async def test_it_can_be_sent_to_standard_output_where_no_file_can_be_written(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "bundle", "-", *settings(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode == 0
    assert b"bundle: " in err
    (tmp_path / "sent.tar.gz").write_bytes(out)
    assert unpacked(tmp_path / "sent.tar.gz").keys() >= OWN_FILES


async def test_it_ends_when_nobody_reads_what_it_sends(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_shell(
        f"{' '.join(COMMAND)} bundle - {' '.join(settings(tmp_path))} | true",
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    async with asyncio.timeout(60):
        _, err = await process.communicate()
    assert b"Traceback" not in err


async def test_it_replaces_no_file_unless_it_is_told_to(tmp_path: Path) -> None:
    path = tmp_path / "bundle.tar.gz"
    path.write_text("precious")
    arguments = ("bundle", str(path), *settings(tmp_path))
    code, _, err = await run_command(*arguments)
    assert code == 1
    assert "--force" in err
    assert path.read_text() == "precious"
    path.chmod(0o644)
    code, _, _ = await run_command(*arguments, "--force")
    assert code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "about.json" in unpacked(path)


@pytest.mark.parametrize("kind", ["directory", "fifo", "link", "no directory", "dangling link"])
async def test_what_is_no_plain_file_is_left_alone(tmp_path: Path, kind: str) -> None:
    path, precious = tmp_path / "bundle.tar.gz", tmp_path / "precious"
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "link":
            precious.write_text("precious")
            path.symlink_to(precious)
        case "dangling link":
            path.symlink_to(precious)
        case _:
            path = tmp_path / "gone" / "bundle.tar.gz"
    code, out, err = await run_command("bundle", str(path), *settings(tmp_path), "--force")
    assert code == 1
    assert out == ""
    assert str(path) in err or str(path.parent) in err
    assert not precious.exists() or precious.read_text() == "precious"


@NEEDS_ROOT
def test_who_may_not_write_there_learns_it_before_all_checks_are_made() -> None:
    with open_directory() as directory, not_root():
        with pytest.raises(NotWrittenError, match=f"^this user may not write to {directory}; name a file in another"):
            check_target(directory / "bundle.tar.gz", force=False)
        check_target(Path(tempfile.gettempdir()) / f"no-such-bundle-{os.getpid()}.tar.gz", force=False)


async def test_where_there_is_no_room_there_is_no_half_file(tmp_path: Path) -> None:
    async with small_disk(tmp_path / "full", mib=1) as disk:
        ballast = fill(disk)
        code, _, err = await run_command("bundle", str(disk / "bundle.tar.gz"), *settings(tmp_path))
        assert code == 1
        assert "No space left on device" in err
        assert list(disk.iterdir()) == [ballast]


async def test_whoever_stops_it_leaves_no_file_of_its_name(tmp_path: Path) -> None:
    async def silent(connection: Connection) -> None:
        await connection.reader.read()

    async with raw_server(silent) as server:
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, "bundle", str(tmp_path / "bundle.tar.gz"), *settings(tmp_path, server.url), "--timeout=60"),
            env=clean_environment(),
            stderr=asyncio.subprocess.PIPE,
        )
        await until(lambda: len(server.connections) > 1, "it waits for an answer")
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(30):
            _, err = await process.communicate()
    assert process.returncode == 1
    assert b"Traceback" not in err
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - at once


async def test_its_mode_is_for_the_owner_alone_whatever_the_umask_is(tmp_path: Path) -> None:
    for umask in ("000", "777"):
        path = tmp_path / f"bundle.{umask}.tar.gz"
        script = f"umask {umask}; exec {' '.join(COMMAND)} bundle {path} {' '.join(settings(tmp_path))}"
        process = await asyncio.create_subprocess_exec(
            "sh",
            "-c",
            script,
            env=clean_environment(),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert await process.wait() == 0
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
