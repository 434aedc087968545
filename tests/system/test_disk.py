"""The disk buffer's disk: in use, not usable, full, damaged; and how much of it the buffer takes."""

import asyncio
import json
import os
import resource
import signal
import sqlite3
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.system.processes import (
    KEY,
    Daemon,
    Sandbox,
    clean_environment,
    example_event,
    run_command,
    running_daemon,
    running_sandbox,
    until,
)
from tests.system.small_disks import fill, free_bytes, make_read_only, small_disk

MIB = 1024 * 1024
PAGE = 4096
RESERVE_BYTES = 4000 * 1024 + 4 * MIB
LOG_AND_RESERVE_BYTES = 26 * MIB
"""As the README says."""
NOWHERE = "http://127.0.0.1:9/track/event"
UNAVAILABLE = 'growlytics_forwarder_events_rejected_total{reason="buffer_unavailable"}'
COMMIT_FAILURES = 'growlytics_forwarder_buffer_errors_total{operation="commit"}'
FAST_RETRIES = {
    "delivery__retry_initial_seconds": 0.05,
    "delivery__retry_max_seconds": 0.5,
    "delivery__breaker_failures": 1_000_000,  # so that the disk is not left alone, as it would be in a hold
}


async def run_on(directory: Path | str, *arguments: str) -> tuple[int, str, str]:
    """Run a daemon that is expected to refuse, and return exit code and output."""
    chosen = [
        f"--set=buffer.directory={directory}",
        f"--set=growlytics.url={NOWHERE}",
        "--set=intake.http=127.0.0.1:0",
        "--set=admin.http=127.0.0.1:0",
        *arguments,
    ]
    return await run_command("run", *chosen, environment=clean_environment(FORWARDER_GROWLYTICS__API_KEY=KEY))


def event(number: int, padding: int = 0) -> dict[str, Any]:
    found = example_event(number)
    attributes = found["attributes"]
    assert isinstance(attributes, dict)
    attributes["Padding"] = "x" * padding
    return found


async def post(daemon: Daemon, events: Sequence[dict[str, Any]]) -> int:
    """Post events in one request, and return the status."""
    async with daemon.http.post(f"{daemon.base}/v1/events", data=json.dumps(events).encode()) as response:
        answer = await response.json()
        if response.status == 503:
            assert answer["errors"][0]["code"] == "buffer_unavailable"
            assert int(response.headers["Retry-After"]) >= 1
        return response.status


class Flood:
    """Posts batches, and knows the numbers of those that were acknowledged."""

    def __init__(self, daemon: Daemon, *, padding: int = 6000, batch: int = 50) -> None:
        self.daemon = daemon
        self.acknowledged: list[int] = []
        self._padding = padding
        self._batch = batch
        self._next = 0

    async def post_one(self) -> int:
        numbers = range(self._next, self._next + self._batch)
        self._next += self._batch
        status = await post(self.daemon, [event(number, self._padding) for number in numbers])
        if status == 202:
            self.acknowledged += numbers
        return status

    async def until(self, status: int) -> None:
        """Post until this is the answer."""

        async def answered() -> bool:
            return await self.post_one() == status

        await until(answered, f"a post is answered {status}")


async def numbers_at(sandbox: Sandbox) -> Counter[int]:
    """Return how often each event was stored."""
    return Counter(json.loads(body)["time"] - 1700000000000 for body in await sandbox.raw())


async def available(daemon: Daemon) -> bool:
    return bool((await daemon.status())["buffer"]["available"])


async def assert_all_is_accounted_for(daemon: Daemon) -> None:
    assert (await daemon.metrics())["growlytics_forwarder_events_unaccounted"] == 0


def sizes(directory: Path) -> dict[str, int]:
    """Return what each file takes up on the disk; one that goes meanwhile takes nothing."""
    found = {}
    for entry in os.scandir(directory):
        try:
            found[entry.name] = entry.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return found


# Whose directory it is


async def test_a_second_process_exits_69_and_says_who_holds_the_directory(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, NOWHERE) as daemon:
        code, out, error = await run_on(tmp_path / "buffer")
        assert code == 69
        assert (
            f"{tmp_path / 'buffer'} is in use by process {daemon.process.pid}; stop it, or give each process" in error
        )
        assert "Traceback" not in out + error
        assert await post(daemon, [event(1)]) == 202, "the first one is not disturbed"
        assert await daemon.stop(signal.SIGKILL) == -signal.SIGKILL
    async with running_daemon(tmp_path, NOWHERE) as daemon:
        assert (await daemon.ledger())["buffered"] == 1, "a killed process holds nothing"


async def test_what_is_no_directory_or_may_not_be_written_exits_78_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    directories = (tmp_path / "file", tmp_path / "file" / "below", "/proc/growlytics-forwarder")
    found = await asyncio.gather(*(run_on(each) for each in directories))
    for directory, (code, out, error) in zip(directories, found, strict=True):
        assert code == 78, directory
        assert f"buffer.directory: cannot use {directory}: " in error
        assert 'name a directory that this user may write to, or set buffer.kind = "memory"' in error
        assert "Traceback" not in out + error


async def test_a_read_only_disk_exits_78_with_the_mend(tmp_path: Path) -> None:
    async with small_disk(tmp_path / "disk", mib=12) as disk:
        async with running_daemon(disk, NOWHERE) as daemon:
            assert await post(daemon, [event(1)]) == 202
            await daemon.stop(signal.SIGKILL)
        await make_read_only(disk)
        code, out, error = await run_on(disk / "buffer")
        assert code == 78
        assert "Read-only file system; name a directory that this user may write to" in error
        assert "Traceback" not in out + error


async def test_a_file_of_a_newer_version_exits_78_and_is_left_alone(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, NOWHERE) as daemon:
        await daemon.stop()
    path = tmp_path / "buffer" / "buffer.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 77")
    connection.close()
    before = path.read_bytes()
    code, _, error = await run_on(tmp_path / "buffer")
    assert code == 78
    assert "was written by a newer growlytics-forwarder (its format is 77" in error
    assert path.read_bytes() == before


# A full disk


async def test_a_full_disk_refuses_new_events_and_delivers_what_it_has_until_there_is_room_again(
    tmp_path: Path,
) -> None:
    async with small_disk(tmp_path / "disk", mib=24) as disk, running_sandbox() as sandbox:
        await sandbox.faults(down=True)
        async with running_daemon(disk, sandbox.url, **FAST_RETRIES) as daemon:
            flood = Flood(daemon)
            await flood.until(503)
            assert len(flood.acknowledged) > 1000
            assert not await available(daemon)
            fill(disk)
            assert free_bytes(disk) == 0
            for _ in range(3):
                assert await flood.post_one() == 503
            metrics = await daemon.metrics()
            assert metrics[COMMIT_FAILURES] > 0
            assert metrics[UNAVAILABLE] >= 200
            assert metrics["growlytics_forwarder_buffer_events" + '{state="ready"}'] > 0
            await sandbox.faults(down=False)
            await until(daemon.drained, "all is delivered and acked, although the disk is full", seconds=60)
            assert await numbers_at(sandbox) == Counter(flood.acknowledged), "each once, and none that was refused"
            await until(lambda: available(daemon), "what was delivered has freed its space", seconds=20)
            await sandbox.faults(down=True)  # or it may free as much as the flood takes
            fill(disk)
            await flood.until(503)
            (disk / "ballast").unlink()
            await until(lambda: available(daemon), "it has noticed that there is room", seconds=30)
            assert await flood.post_one() == 202
            await sandbox.faults(down=False)
            await until(daemon.drained, "all is delivered")
            assert await numbers_at(sandbox) == Counter(flood.acknowledged)
            await assert_all_is_accounted_for(daemon)
            assert any(line["message"].startswith("the buffer's disk works again") for line in daemon.lines)
            assert not [line for line in daemon.lines if line["level"] in ("error", "critical")]
            assert await daemon.stop() == 0


@pytest.mark.parametrize("full_at_restart", [pytest.param(False, marks=pytest.mark.soak), True])
async def test_a_kill_while_the_disk_is_full_loses_nothing_that_was_acknowledged(
    tmp_path: Path, full_at_restart: bool
) -> None:
    async with small_disk(tmp_path / "disk", mib=24) as disk, running_sandbox() as sandbox:
        await sandbox.faults(down=True)
        async with running_daemon(disk, sandbox.url, **FAST_RETRIES) as daemon:
            flood = Flood(daemon)
            await flood.until(503)
            fill(disk)
            await daemon.stop(signal.SIGKILL)
        if not full_at_restart:
            (disk / "ballast").unlink()
        async with running_daemon(disk, sandbox.url, **FAST_RETRIES) as daemon:
            flood.daemon = daemon
            assert (await daemon.ledger())["buffered"] == len(flood.acknowledged)
            await sandbox.faults(down=False)
            await until(daemon.drained, "all is delivered", seconds=60)
            assert await numbers_at(sandbox) == Counter(flood.acknowledged)
            if full_at_restart:
                (disk / "ballast").unlink()
            await flood.until(202)
            await until(daemon.drained, "the last one is delivered")
            await assert_all_is_accounted_for(daemon)


async def test_where_not_even_acks_can_be_committed_delivery_stops_and_sends_nothing_twice(tmp_path: Path) -> None:
    max_concurrency = 16
    async with small_disk(tmp_path / "disk", mib=24) as disk, running_sandbox() as sandbox:
        await sandbox.faults(down=True)
        async with running_daemon(
            disk, sandbox.url, delivery__max_concurrency=max_concurrency, **FAST_RETRIES
        ) as daemon:
            flood = Flood(daemon)
            await flood.until(503)
            (disk / "buffer" / "reserve").unlink()
            fill(disk)
            await sandbox.faults(down=False)
            await until_it_stands_still(sandbox)
            assert len(await sandbox.raw()) < len(flood.acknowledged), "not all was sent"
            in_flight = (await daemon.metrics())['growlytics_forwarder_buffer_events{state="in_flight"}']
            assert in_flight == 2 * max_concurrency, "as many as there are workers wait for the commit of their acks"
            assert max((await numbers_at(sandbox)).values()) == 1
            (disk / "ballast").unlink()
            await until(daemon.drained, "it goes on by itself", seconds=60)
            assert await numbers_at(sandbox) == Counter(flood.acknowledged), "each once: nothing was sent again"
            await flood.until(202)
            await assert_all_is_accounted_for(daemon)


@pytest.mark.soak
async def test_a_disk_that_fails_to_write_costs_nothing_and_nothing_is_sent_twice_when_it_works_again(
    tmp_path: Path,
) -> None:
    """No file may grow, not even the log, by a limit that is set on the running process: so it needs no root."""
    async with running_sandbox() as sandbox:
        await sandbox.faults(down=True)
        async with running_daemon(tmp_path, sandbox.url, **FAST_RETRIES) as daemon:
            flood = Flood(daemon)
            path = tmp_path / "buffer" / "buffer.db"
            limit = RESERVE_BYTES + MIB

            async def nearly_as_large() -> bool:
                await flood.post_one()
                return path.stat().st_size > limit - 2 * MIB

            await until(nearly_as_large, "there is something to deliver")
            without = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (limit, without[1]))
            await flood.until(503)
            assert not await available(daemon)
            assert (await daemon.metrics())[COMMIT_FAILURES] > 0
            await sandbox.faults(down=False)
            await until_it_stands_still(sandbox)
            assert (await daemon.ledger())["buffered"] > 0, "acks wait, too"
            resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, without)
            await until(lambda: available(daemon), "it has noticed that the disk works", seconds=30)
            assert await flood.post_one() == 202
            await until(daemon.drained, "the last ones are delivered")
            assert await numbers_at(sandbox) == Counter(flood.acknowledged)
            await assert_all_is_accounted_for(daemon)


async def until_it_stands_still(sandbox: Sandbox, *, seconds: float = 1.5) -> None:
    """Wait until something has arrived, and then nothing for a while."""
    last, since = 0, time.monotonic()

    async def still() -> bool:
        nonlocal last, since
        stored = len(await sandbox.raw())
        if stored != last:
            last, since = stored, time.monotonic()
        return stored > 0 and time.monotonic() - since > seconds

    await until(still, "nothing arrives any more")


# How much of it is taken


def drops_to(directory: Path, limit: int) -> bool:
    return sum(sizes(directory).values()) <= limit


@pytest.mark.parametrize(
    ("max_events", "max_bytes", "paddings"),
    [
        pytest.param(3000, 2 * MIB, [0], id="many small events", marks=pytest.mark.soak),
        pytest.param(3000, 4 * MIB, [1700], id="half a page each", marks=pytest.mark.soak),
        pytest.param(2000, 4 * MIB, [3600, 7700], id="a little over a page each", marks=pytest.mark.soak),
        pytest.param(3000, 4 * MIB, [0, 1700, 3600, 40_000, 0, 200], id="all sizes"),
    ],
)
async def test_the_directory_stays_within_its_bound_under_a_flood_and_delivered_events_free_their_space(
    tmp_path: Path, max_events: int, max_bytes: int, paddings: list[int]
) -> None:
    """The bound is that of the README. Many attempts fail for as long as the flood lasts, so that holes remain."""
    letters_events, letters_bytes = 500, MIB
    file_bytes = 3 * (max_bytes + letters_bytes) + 2048 * (max_events + letters_events)
    bound = file_bytes + LOG_AND_RESERVE_BYTES
    async with (
        running_sandbox("--fail-rate", "0.4") as sandbox,
        running_daemon(
            tmp_path,
            sandbox.url,
            buffer__max_events=max_events,
            buffer__max_bytes=max_bytes,
            dead_letters__max_events=letters_events,
            dead_letters__max_bytes=letters_bytes,
            **FAST_RETRIES,
        ) as daemon,
    ):
        directory = tmp_path / "buffer"
        largest: Counter[str] = Counter()
        events = [event(number, paddings[number % len(paddings)]) for number in range(90)]
        for first in range(0, 90, 30):
            assert await post(daemon, events[first : first + 30]) == 202
        full = 0
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline or not full:
            assert time.monotonic() < deadline + 20, "the buffer was never full"
            if time.monotonic() > deadline:  # however fast this machine delivers
                await sandbox.faults(fail_rate=1)
            statuses = await asyncio.gather(*(post(daemon, events[first : first + 30]) for first in (0, 30, 60)))
            assert set(statuses) <= {202, 429}
            full += statuses.count(429)
            largest |= Counter(sizes(directory))
        print({name: f"{size / MIB:.1f} MiB" for name, size in largest.items()}, f"of {bound / MIB:.1f} MiB")
        assert largest["buffer.db"] <= file_bytes
        assert sum(largest.values()) <= bound
        assert (await daemon.metrics())[COMMIT_FAILURES] == 0
        await sandbox.faults(fail_rate=0)
        await until(daemon.drained, "all is delivered", seconds=60)
        await until(
            lambda: drops_to(directory, RESERVE_BYTES + 12 * MIB), "delivered events free their space", seconds=30
        )
        await assert_all_is_accounted_for(daemon)


# Damage, and a clock that is wrong


def messages(lines: Iterable[dict[str, Any]]) -> str:
    return "\n".join(line["message"] for line in lines)


async def test_a_file_that_lost_half_of_itself_is_set_aside_and_salvaged_while_new_events_are_served(
    tmp_path: Path,
) -> None:
    number = 8000
    async with running_sandbox() as sandbox:
        async with running_daemon(tmp_path, NOWHERE, shutdown__drain_seconds=0) as daemon:
            for first in range(0, number, 1000):
                assert await post(daemon, [event(each, 300) for each in range(first, first + 1000)]) == 202
            assert await daemon.stop() == 0
        path = tmp_path / "buffer" / "buffer.db"
        os.truncate(path, path.stat().st_size // 2)
        async with running_daemon(tmp_path, sandbox.url) as daemon:
            assert await post(daemon, [event(number + each, 300) for each in range(100)]) == 202

            async def salvaged() -> bool:
                return "salvage ended" in messages(daemon.lines)

            await until(salvaged, "the salvage has ended")
            told = messages(daemon.lines)
            assert told.index("ready") < told.index("salvage ended"), "the start does not wait for it"
            await until(daemon.drained, "all is delivered")
            metrics = await daemon.metrics()
            lost = metrics['growlytics_forwarder_events_dropped_total{reason="corrupt"}']
            delivered = metrics["growlytics_forwarder_events_delivered_total"]
            assert delivered + lost == number + 100
            assert 0.3 * number < delivered < 0.9 * number
            assert metrics["growlytics_forwarder_events_unaccounted"] == 0
            stored = await numbers_at(sandbox)
            assert len(stored) == delivered == sum(stored.values()), "none altered, none twice"
            assert set(range(number, number + 100)) <= set(stored)
            text = messages(daemon.lines)
            assert text.count("was renamed; what can be read of it is restored, and may follow newer events") == 1
            assert [line["lost"] for line in daemon.lines if line["message"] == "salvage ended"] == [lost]
            assert await daemon.stop() == 0
        names = sizes(tmp_path / "buffer")
        assert sum(name.startswith("buffer.db.salvaged-") for name in names) == 1
        assert not any("damaged" in name for name in names)


async def test_a_clock_that_was_set_back_loses_nothing_and_ids_go_on_rising(tmp_path: Path) -> None:
    """The file was written under a clock that was years ahead."""
    far = (time.time_ns() // 1000) + 10 * 365 * 86_400 * 10**6
    async with running_daemon(tmp_path, NOWHERE, shutdown__drain_seconds=0) as daemon:
        await daemon.stop()
    set_last_id(tmp_path / "buffer" / "buffer.db", far)
    async with running_sandbox() as sandbox:
        async with running_daemon(tmp_path, NOWHERE, shutdown__drain_seconds=0) as daemon:
            first = await ids_of(daemon, [event(1), event(2)])
            assert first == [far + 1, far + 2]
            await daemon.stop(signal.SIGKILL)
        async with running_daemon(tmp_path, sandbox.url) as daemon:
            assert await ids_of(daemon, [event(3)]) == [far + 3]
            await until(daemon.drained, "all is delivered")
            assert await numbers_at(sandbox) == Counter([1, 2, 3])


async def ids_of(daemon: Daemon, events: Sequence[dict[str, Any]]) -> list[int]:
    async with daemon.http.post(f"{daemon.base}/v1/events?ids=true", data=json.dumps(events).encode()) as response:
        return [int(each) for each in (await response.json())["ids"]]


def set_last_id(path: Path, last_id: int) -> None:
    """Write a ledger as a daemon with a later clock would have."""
    content = json.dumps({"last_id": last_id}).encode()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("REPLACE INTO ledger VALUES (1, ?, ?)", (content, zlib.crc32(content)))
    connection.close()
