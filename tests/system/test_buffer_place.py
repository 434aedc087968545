"""The buffer's file is removed, renamed, replaced or unmounted while the daemon runs: no promise is made that it breaks."""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.system.processes import Daemon, Sandbox, example_event, running_daemon, running_sandbox, until
from tests.system.small_disks import small_disk

DIRECTORY_ERRORS = 'growlytics_forwarder_buffer_errors_total{operation="directory"}'
GONE = "the buffer's file is gone from its place"
FAST_RETRIES = {
    "delivery__retry_initial_seconds": 0.05,
    "delivery__retry_max_seconds": 0.2,
    "delivery__probe_initial_seconds": 0.05,
    "delivery__probe_max_seconds": 0.2,
}


async def post(daemon: Daemon, *numbers: int) -> int:
    events = [example_event(number) for number in numbers]
    async with daemon.http.post(f"{daemon.base}/v1/events", data=json.dumps(events).encode()) as response:
        if response.status == 503:
            assert (await response.json())["errors"][0]["code"] == "buffer_unavailable"
            assert int(response.headers["Retry-After"]) >= 1
        return response.status


async def available(daemon: Daemon) -> bool:
    return bool((await daemon.status())["buffer"]["available"])


async def until_noticed(daemon: Daemon) -> None:
    async def noticed() -> bool:
        return not await available(daemon)

    await until(noticed, "it is noticed", seconds=30)
    assert await post(daemon, 99) == 503
    assert (await daemon.metrics())[DIRECTORY_ERRORS] >= 1
    assert [line["level"] for line in daemon.lines if line["message"].startswith(GONE)] == ["error"]


async def numbers_at(sandbox: Sandbox) -> list[int]:
    return sorted(json.loads(body)["time"] - 1700000000000 for body in await sandbox.raw())


def remove_directory(directory: Path) -> None:
    shutil.rmtree(directory)


def remove_file(directory: Path) -> None:
    (directory / "buffer.db").unlink()


def rename_directory(directory: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))


def put_an_empty_directory_in_its_place(directory: Path) -> None:
    rename_directory(directory)
    directory.mkdir()


async def test_what_was_buffered_is_delivered_although_its_file_is_gone_and_then_nothing_is_lost(
    tmp_path: Path,
) -> None:
    async with running_sandbox() as sandbox:
        await sandbox.faults(down=True)
        async with running_daemon(tmp_path, sandbox.url, **FAST_RETRIES) as daemon:
            assert await post(daemon, 1, 2, 3) == 202
            remove_directory(tmp_path / "buffer")
            await until_noticed(daemon)
            await sandbox.faults(down=False)
            await until(daemon.drained, "all is delivered")
            assert await numbers_at(sandbox) == [1, 2, 3]
            assert (await daemon.metrics())["growlytics_forwarder_events_unaccounted"] == 0
            assert await daemon.stop() == 0
        assert not (tmp_path / "buffer").exists(), "nothing was put in its place"


@pytest.mark.parametrize("lose", [remove_file, put_an_empty_directory_in_its_place])
async def test_what_is_left_in_a_file_that_is_gone_is_counted_and_the_exit_code_is_75(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    async with running_sandbox() as sandbox:
        async with running_daemon(tmp_path, sandbox.url, shutdown__drain_seconds=0, **FAST_RETRIES) as daemon:
            assert await post(daemon, 1) == 202
            await until(daemon.drained, "one is delivered")
            await sandbox.faults(fail_rate=1.0, fail_status=422)
            assert await post(daemon, 2) == 202
            await until(daemon.drained, "one is rejected")
            await sandbox.faults(fail_rate=0.0, fail_status=503, down=True)
            assert await post(daemon, 3, 4, 5) == 202
            lose(tmp_path / "buffer")
            await until_noticed(daemon)
            assert await daemon.stop() == 75
            last = daemon.lines[-1]
            assert (last["lost_events"], last["lost_dead_letters"]) == (3, 1)
            assert (last["dropped"]["shutdown"], last["buffered"], last["unaccounted"]) == (3, 0, 0)
        if lose is put_an_empty_directory_in_its_place:
            assert list((tmp_path / "buffer").iterdir()) == [], "the other directory is nobody's business"


async def test_a_file_that_goes_as_the_daemon_is_told_to_stop_is_noticed_at_the_end(tmp_path: Path) -> None:
    async with running_sandbox() as sandbox:
        await sandbox.faults(down=True)
        async with running_daemon(tmp_path, sandbox.url, shutdown__drain_seconds=0, **FAST_RETRIES) as daemon:
            assert await post(daemon, 1, 2) == 202
            remove_directory(tmp_path / "buffer")
            assert await daemon.stop() == 75
            assert daemon.lines[-1]["lost_events"] == 2


async def test_a_directory_that_is_renamed_back_is_used_again_and_nothing_is_lost(tmp_path: Path) -> None:
    directory = tmp_path / "buffer"
    async with running_sandbox() as sandbox:
        await sandbox.faults(down=True)
        async with running_daemon(tmp_path, sandbox.url, **FAST_RETRIES) as daemon:
            assert await post(daemon, 1, 2) == 202
            rename_directory(directory)
            await until_noticed(daemon)
            (tmp_path / "elsewhere").rename(directory)
            await until(lambda: available(daemon), "it is noticed that it is back", seconds=30)
            assert await post(daemon, 3) == 202
            await daemon.stop(signal.SIGKILL)
        await sandbox.faults(down=False)
        async with running_daemon(tmp_path, sandbox.url, **FAST_RETRIES) as daemon:
            await until(daemon.drained, "all is delivered")
            assert await numbers_at(sandbox) == [1, 2, 3]
            assert (await daemon.metrics())["growlytics_forwarder_events_unaccounted"] == 0


async def test_a_disk_that_is_unmounted_is_noticed_and_what_it_had_is_delivered(tmp_path: Path) -> None:
    async with running_sandbox() as sandbox, small_disk(tmp_path / "disk", mib=24) as disk:
        await sandbox.faults(down=True)
        async with running_daemon(disk, sandbox.url, intake__unix_socket="", **FAST_RETRIES) as daemon:
            assert await post(daemon, 1, 2) == 202
            await unmount(disk)
            await until_noticed(daemon)
            await sandbox.faults(down=False)
            await until(daemon.drained, "all is delivered")
            assert await numbers_at(sandbox) == [1, 2]
            assert await daemon.stop() == 0
        await mount_something(disk)  # as small_disk is about to unmount it


async def unmount(disk: Path) -> None:
    process = await asyncio.create_subprocess_exec("umount", "--lazy", str(disk))
    assert await process.wait() == 0


async def mount_something(disk: Path) -> None:
    process = await asyncio.create_subprocess_exec("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk))
    assert await process.wait() == 0


async def test_a_log_that_is_removed_is_made_anew_and_what_was_in_it_survives_a_kill(tmp_path: Path) -> None:
    log = tmp_path / "buffer" / "buffer.db-wal"
    async with running_sandbox() as sandbox:
        await sandbox.faults(down=True)
        async with running_daemon(tmp_path, sandbox.url, **FAST_RETRIES) as daemon:
            assert await post(daemon, 1, 2) == 202
            log.unlink()
            await until(lambda: recreated(daemon), "it is made anew", seconds=30)
            assert log.exists()
            assert (await daemon.metrics())[DIRECTORY_ERRORS] == 1
            assert await post(daemon, 3) == 202
            await daemon.stop(signal.SIGKILL)
        await sandbox.faults(down=False)
        async with running_daemon(tmp_path, sandbox.url, **FAST_RETRIES) as daemon:
            await until(daemon.drained, "all is delivered")
            assert await numbers_at(sandbox) == [1, 2, 3]
            assert not [line for line in daemon.lines if line["level"] == "error"]


def recreated(daemon: Daemon) -> list[dict[str, Any]]:
    return [line for line in daemon.lines if "it was recreated, and nothing is lost" in line["message"]]


async def test_posts_that_wait_while_the_directory_goes_are_answered_and_what_was_acknowledged_arrives(
    tmp_path: Path,
) -> None:
    async with running_sandbox() as sandbox:
        await sandbox.faults(down=True)
        async with running_daemon(tmp_path, sandbox.url, **FAST_RETRIES) as daemon:
            acknowledged: list[int] = []
            refused: list[int] = []

            async def client(first: int) -> None:
                number = first
                while not refused:
                    status = await post(daemon, number)
                    assert status in (202, 503)
                    (acknowledged if status == 202 else refused).append(number)
                    number += 10

            async with asyncio.TaskGroup() as tasks:
                for first in range(5):
                    tasks.create_task(client(first))
                await until(lambda: len(acknowledged) > 20, "they post")
                os.rename(tmp_path / "buffer", tmp_path / "elsewhere")  # noqa: PTH104 - at once
            await sandbox.faults(down=False)
            await until(daemon.drained, "all is delivered")
            assert await numbers_at(sandbox) == sorted(acknowledged)
            assert await daemon.stop() == 0
