"""The buffer's files, as an operator meets them: whose they are, a start without any room, and events out and in again."""

import asyncio
import fcntl
import json
import os
import resource
import signal
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.system.processes import (
    COMMAND,
    Daemon,
    Sandbox,
    clean_environment,
    example_event,
    run_command,
    running_daemon,
    running_sandbox,
    starting_daemon,
    until,
)
from tests.system.small_disks import bind_read_only, fill, make_larger, small_disk


async def have_the_next_rejected(sandbox: Sandbox, daemon: Daemon) -> str:
    """Reject everything from now on, for good, as one event was delivered before; return that."""
    delivered = json.dumps(example_event(99))
    async with daemon.http.post(f"{daemon.base}/track/event", data=delivered.encode()) as response:
        assert response.status == 200
    await until(daemon.drained, "one is delivered")
    assert await sandbox.raw() == [delivered]
    await sandbox.faults(fail_rate=1.0, fail_status=422)
    return delivered


async def test_events_at_rest_can_be_read_by_the_daemons_user_alone(tmp_path: Path) -> None:
    directory = tmp_path / "buffer"
    directory.mkdir()
    directory.chmod(0o777)
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url) as daemon:
        await sandbox.faults(down=True)
        async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(1)) as response:
            assert response.status == 200
        modes = {entry.name: entry.stat().st_mode & 0o077 for entry in os.scandir(directory)}
        assert {"buffer.db", "buffer.db-wal"} <= modes.keys()
        assert not any(modes.values()), modes
        assert daemon.unix_socket.stat().st_mode & 0o777 == 0o660, "that is what a setting says"
        warnings = [line for line in daemon.lines if "every user of this machine may write to" in line["message"]]
        assert [(line["level"], line["directory"]) for line in warnings] == [("warning", str(directory))]


async def refused(directory: Path) -> tuple[int, str]:
    """Run a daemon that is expected to refuse, and return exit code and standard error."""
    code, out, error = await run_command(
        "run",
        f"--set=buffer.directory={directory}",
        "--set=growlytics.url=http://127.0.0.1:9/track/event",
        "--set=intake.http=127.0.0.1:0",
        "--set=admin.http=127.0.0.1:0",
        environment=clean_environment(FORWARDER_GROWLYTICS__API_KEY="key"),
    )
    assert "Traceback" not in out + error
    return code, error


async def test_what_is_wrong_in_the_directory_is_named_and_in_use_is_told_from_unfit(tmp_path: Path) -> None:
    linked, piped, read, held = (tmp_path / name for name in ("linked", "piped", "read", "held"))
    for directory in (linked, piped, read, held):
        directory.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (linked / "reserve").symlink_to(victim)
    os.mkfifo(piped / "lock")
    (held / "lock").write_text("1 web-7f9c")
    reader = sqlite3.connect(read / "buffer.db", isolation_level=None)
    reader.execute("CREATE TABLE t (x)")
    reader.execute("BEGIN EXCLUSIVE")
    with (held / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = await asyncio.gather(*map(refused, (linked, piped, read, held)))
    reader.close()
    assert [code for code, _ in found] == [78, 78, 69, 69]
    for (_, error), told in zip(
        found,
        (
            f"{linked / 'reserve'} is a symbolic link, which is not followed",
            f"{piped / 'lock'} is a named pipe; remove it",
            f"{read / 'buffer.db'} is locked by another program, such as a backup",
            f"{held} is in use by process 1 on host 'web-7f9c', which is another machine or container",
        ),
        strict=True,
    ):
        assert told in error
    assert victim.read_text() == "precious"


async def test_events_that_wait_where_the_daemon_does_not_look_are_told_at_the_start_and_left_alone(
    tmp_path: Path,
) -> None:
    old = tmp_path / "old"
    systemd = ["env", f"STATE_DIRECTORY={old}", *COMMAND]

    def warnings(daemon: Daemon) -> list[tuple[str, str, int]]:
        told = [line for line in daemon.lines if "events wait in a directory that this process" in line["message"]]
        return [(line["level"], line["directory"], line["events"]) for line in told]

    async with running_sandbox() as sandbox:
        await sandbox.faults(down=True)
        async with running_daemon(tmp_path, sandbox.url, buffer__directory=old) as daemon:
            events = [example_event(number) for number in range(3)]
            async with daemon.http.post(f"{daemon.base}/v1/events", data=json.dumps(events).encode()) as response:
                assert response.status == 202
            await daemon.stop(signal.SIGKILL)
        before = {path.name: path.read_bytes() for path in old.iterdir() if path.is_file()}
        for settings in ({"buffer__kind": "memory", "buffer__directory": old}, {"buffer__directory": tmp_path / "new"}):
            async with starting_daemon(tmp_path, sandbox.url, systemd, **settings) as daemon:
                assert await daemon.until_ready()
                assert warnings(daemon) == [("warning", str(old), 3)]
                assert await daemon.stop() == 0
        assert {path.name: path.read_bytes() for path in old.iterdir() if path.is_file()} == before
        await sandbox.faults(down=False)
        async with running_daemon(tmp_path, sandbox.url, buffer__directory=old) as daemon:
            await until(daemon.drained, "they are delivered")
            assert warnings(daemon) == []
            assert len(await sandbox.raw()) == 3


async def test_it_starts_on_a_disk_that_is_full_to_the_last_byte_and_delivers_when_there_is_room(
    tmp_path: Path,
) -> None:
    async with small_disk(tmp_path / "disk", mib=28) as disk, running_sandbox() as sandbox:
        await sandbox.faults(down=True)
        events = [example_event(number) for number in range(1000)]
        async with running_daemon(disk, sandbox.url) as daemon:
            async with daemon.http.post(f"{daemon.base}/v1/events", data=json.dumps(events).encode()) as response:
                assert response.status == 202
            await daemon.stop(signal.SIGKILL)
        (disk / "buffer" / "reserve").unlink()
        ballast = fill(disk)
        async with running_daemon(
            disk, sandbox.url, delivery__retry_max_seconds=1, delivery__probe_max_seconds=1
        ) as daemon:
            status = await daemon.status()
            assert (status["ledger"]["for_ever"]["buffered"], status["buffer"]["available"]) == (1000, False)
            metrics = await daemon.metrics()
            assert metrics['growlytics_forwarder_buffer_errors_total{operation="commit"}'] > 0
            await sandbox.faults(down=False)
            ballast.unlink()
            await until(daemon.drained, "all is delivered", seconds=60)
            assert len(set(await sandbox.raw())) == 1000


async def one_at_a_time(daemon: Daemon, status: int) -> None:
    async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(1)) as response:
        assert response.status == status, await response.text()
        if status == 503:
            assert (await response.json())["errors"][0]["code"] == "buffer_unavailable"


@pytest.mark.parametrize(
    ("max_files", "place"),
    [(0, "a/b"), (2, "a/b"), (3, "a/b"), (4, "a/b"), (5, "a/b"), (2, ""), (3, ""), (4, "")],
)
async def test_the_very_first_start_on_a_full_disk_answers_503_until_there_is_room(
    tmp_path: Path, max_files: int, place: str
) -> None:
    async with small_disk(tmp_path / "disk", mib=24, max_files=max_files) as disk, running_sandbox() as sandbox:
        ballast = disk / "ballast"
        if not max_files:
            fill(disk)
        async with running_daemon(
            tmp_path, sandbox.url, buffer__directory=disk / place, shutdown__drain_seconds=0
        ) as daemon:
            await one_at_a_time(daemon, 503)
            status = await daemon.status()
            assert (status["buffer"]["available"], status["ledger"]["for_ever"]["buffered"]) == (False, 0)
            assert (await daemon.metrics())['growlytics_forwarder_buffer_errors_total{operation="commit"}'] > 0
            ballast.unlink(missing_ok=True)
            if max_files:
                await make_larger(disk, max_files=100)

            async def available() -> bool:
                return bool((await daemon.status())["buffer"]["available"])

            await until(available, "it has noticed that there is room", seconds=30)
            await sandbox.faults(down=True)
            await one_at_a_time(daemon, 200)
            assert await daemon.stop(signal.SIGKILL) == -signal.SIGKILL
        await sandbox.faults(down=False)
        async with running_daemon(tmp_path, sandbox.url, buffer__directory=disk / place) as daemon:
            await until(daemon.drained, "it is delivered")
            assert await sandbox.raw() == [json.dumps(example_event(1))]
            assert not [line for line in daemon.lines if line["level"] == "error"]


async def told_on_refusing(directory: Path, command: Sequence[str] = COMMAND) -> str:
    """Return what a daemon writes that exits 78, as one line on standard error."""
    process = await asyncio.create_subprocess_exec(
        *command, "run", f"--set=buffer.directory={directory}", "--set=intake.http=127.0.0.1:0", "--set=admin.http=",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=clean_environment(FORWARDER_GROWLYTICS__API_KEY="k"),
    )  # fmt: skip
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    assert process.returncode == 78, out + err
    assert b"Traceback" not in out + err
    assert err.count(b"\n") == 1
    return err.decode()


@pytest.mark.parametrize("name", ["buffer.db", "lock", ""])
async def test_what_is_immutable_is_named_as_that(tmp_path: Path, name: str) -> None:
    place = tmp_path / "buffer"
    place.mkdir()
    (place / name).touch()
    process = await asyncio.create_subprocess_exec("chattr", "+i", place / name, stderr=asyncio.subprocess.DEVNULL)
    if await process.wait():
        pytest.skip("nothing can be made immutable here")
    try:
        error = await told_on_refusing(place)
    finally:
        process = await asyncio.create_subprocess_exec("chattr", "-i", place / name)
        await process.wait()
    what = f"{place / name} may not be written" if name else "nothing can be created in it"
    assert f"cannot use {place}: {what}: Operation not permitted (it may be immutable, as lsattr shows);" in error


async def test_a_file_on_a_read_only_mount_is_named_as_that(tmp_path: Path) -> None:
    async with small_disk(tmp_path / "disk", mib=12) as disk:
        (disk / "buffer.db").touch()
        await bind_read_only(disk / "buffer.db")  # it goes with the disk
        error = await told_on_refusing(disk)
    assert f"{disk / 'buffer.db'} may not be written: Read-only file system; make it writable for this" in error


async def test_a_limit_of_open_files_that_is_too_low_is_one_clear_error(tmp_path: Path) -> None:
    for number in (10, 16, 31):
        command = ["sh", "-c", f'ulimit -n {number}; exec "$@"', "sh", *COMMAND]
        error = await told_on_refusing(tmp_path, command)
        assert f"limit of open files (RLIMIT_NOFILE) is {number}, and the daemon needs at least 32: raise it" in error


async def test_a_low_soft_limit_of_open_files_is_raised(tmp_path: Path) -> None:
    command = ["sh", "-c", 'ulimit -S -n 12; exec "$@"', "sh", *COMMAND]
    async with running_sandbox() as sandbox, starting_daemon(tmp_path, sandbox.url, command) as daemon:
        assert await daemon.until_ready()
        await one_at_a_time(daemon, 200)
        await until(daemon.drained, "it is delivered")


async def test_a_limit_on_the_size_of_files_at_the_very_first_start_is_taken_for_a_full_disk(tmp_path: Path) -> None:
    """As a quota is, which SQLite does not tell from a disk that fails. It needs no root."""
    command = ["sh", "-c", 'ulimit -S -f 0; exec "$@"', "sh", *COMMAND]
    async with running_sandbox() as sandbox, starting_daemon(tmp_path, sandbox.url, command) as daemon:
        assert await daemon.until_ready()
        await one_at_a_time(daemon, 503)
        hard = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (hard, hard))

        async def available() -> bool:
            return bool((await daemon.status())["buffer"]["available"])

        await until(available, "it has noticed that there is room", seconds=30)
        await one_at_a_time(daemon, 200)
        await until(daemon.drained, "it is delivered")
        assert await daemon.stop() == 0


async def test_what_growlytics_rejected_can_be_exported_purged_and_loaded_again(tmp_path: Path) -> None:
    texts = [json.dumps(example_event(number), indent=1 if number == 2 else None) for number in range(4)]
    texts.append(texts[3].replace("4531", "123456789012345678901234567890.10").replace("number-3", "\\ud800"))
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url) as daemon:
        delivered = await have_the_next_rejected(sandbox, daemon)
        where = ("--unix-socket", str(daemon.unix_socket))
        async with daemon.http.post(f"{daemon.base}/v1/events", data=f"[{','.join(texts)}]".encode()) as response:
            assert response.status == 202
        await until(daemon.drained, "all is rejected")
        code, listed, _ = await run_command("dead-letters", "list", *where)
        assert code == 0
        assert "shown 5 of 5 dead letters" in listed
        code, exported, _ = await run_command("dead-letters", "export", *where)
        assert (code, exported.count("\n")) == (0, 5)
        code, purged, _ = await run_command("dead-letters", "purge", "--all", *where)
        assert code == 0, purged
        assert (await daemon.status())["dead_letters"]["events"] == 0
        await sandbox.faults(fail_rate=0.0)
        file = tmp_path / "events.ndjson"
        file.write_text(exported, encoding="utf-8")
        code, out, err = await run_command("load", str(file), *where)
        assert code == 0, out + err
        await until(daemon.drained, "all is delivered")
        stored = sorted(await sandbox.raw())
    assert stored == sorted([delivered, *(text.replace("\n", " ") for text in texts)]), (
        "but for line breaks it is byte for byte the same"
    )


async def test_a_replay_with_the_command_sends_each_event_once_however_often_it_is_repeated(tmp_path: Path) -> None:
    async with (
        running_sandbox() as sandbox,
        # else a row of them is no longer believed: tests/system/test_refusals.py
        running_daemon(tmp_path, sandbox.url, delivery__systemic_rejections=1000) as daemon,
    ):
        await have_the_next_rejected(sandbox, daemon)
        where = ("--unix-socket", str(daemon.unix_socket))
        events = [example_event(number) for number in range(50)]
        async with daemon.http.post(f"{daemon.base}/v1/events", data=json.dumps(events).encode()) as response:
            assert response.status == 202
        await until(daemon.drained, "all is rejected")
        await sandbox.faults(fail_rate=0.0)
        for _ in range(2):
            code, out, err = await run_command("dead-letters", "replay", "--all", "--rate", "1000", *where)
            assert code == 0, out + err
        await until(daemon.drained, "all is delivered")
        stored = [json.loads(body)["time"] - 1700000000000 for body in await sandbox.raw()]
        assert sorted(stored) == [*range(50), 99]
        assert (await daemon.ledger())["unaccounted"] == 0
