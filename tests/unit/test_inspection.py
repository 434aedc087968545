"""What an operator sees of the tasks and threads of a process, without what they work on."""

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

from forwarder import __version__
from forwarder.host import inspection

SECRET = "CANARY"


async def inner(event: asyncio.Event, value: str) -> None:
    await event.wait()


async def outer(event: asyncio.Event, value: str) -> None:
    local = value * 2
    await inner(event, local)


def named(found: list[dict[str, object]], name: str) -> dict[str, object]:
    (one,) = [each for each in found if each["name"] == name]
    return one


async def test_tasks_that_wait_at_the_same_place_are_counted_with_all_their_frames() -> None:
    event = asyncio.Event()
    waiting = [asyncio.create_task(outer(event, SECRET), name=f"worker {number}") for number in range(30)]
    await asyncio.sleep(0)
    found = inspection.tasks()
    event.set()
    await asyncio.gather(*waiting)
    assert SECRET not in json.dumps(found)
    worker = named(found, "worker")
    assert worker["tasks"] == 30
    stack = worker["stack"]
    assert isinstance(stack, list)
    assert [each.rpartition(" in ")[2] for each in stack[:3]] == ["outer", "inner", "Event.wait"]
    assert "test_inspection.py:" in stack[0]
    assert not stack[0].startswith("/")


async def test_an_asynchronous_generator_that_a_task_reads_is_part_of_its_stack() -> None:
    event = asyncio.Event()

    async def items() -> AsyncIterator[int]:
        await event.wait()
        yield 1

    async def read() -> None:
        async for _ in items():
            pass

    task = asyncio.create_task(read(), name="reader")
    await asyncio.sleep(0)
    stack = named(inspection.tasks(), "reader")["stack"]
    event.set()
    await task
    assert isinstance(stack, list)
    assert stack[0].endswith("read")


async def test_very_many_different_tasks_are_bounded() -> None:
    event = asyncio.Event()
    waiting = [
        asyncio.create_task(outer(event, SECRET), name=f"{chr(0x4E00 + number)}\x1b[2J{'x' * 1000}")
        for number in range(inspection.MAX_STACKS * 2)
    ]
    await asyncio.sleep(0)
    found = inspection.tasks()
    event.set()
    await asyncio.gather(*waiting)
    assert len(found) == inspection.MAX_STACKS
    assert len(json.dumps(found)) < inspection.MAX_STACKS * 1000


def test_threads_are_shown_where_they_are() -> None:
    stop, started = threading.Event(), threading.Event()

    def wait_here(value: str) -> None:
        started.set()
        stop.wait()

    thread = threading.Thread(target=wait_here, args=(SECRET,), name="waits")
    thread.start()
    started.wait()
    found = inspection.threads()
    stop.set()
    thread.join()
    assert SECRET not in json.dumps(found)
    stack = named(found, "waits")["stack"]
    assert isinstance(stack, list)
    assert any(each.endswith("wait_here") for each in stack)


def test_versions_name_all_that_matters() -> None:
    found = inspection.versions(sqlite="3.0")
    assert found["growlytics-forwarder"] == __version__
    assert found["sqlite"] == "3.0"
    libraries = found["libraries"]
    assert isinstance(libraries, dict)
    assert {"aiohttp", "orjson", "msgspec", "uvloop", "prometheus-client"} <= libraries.keys()
    assert json.dumps(found)


def test_open_files_are_counted_with_the_limit() -> None:
    null = Path(os.devnull)
    before = inspection.descriptors()["open"]
    assert before is not None
    with null.open(), null.open():
        assert inspection.descriptors()["open"] == before + 2
    facts = inspection.process_facts()
    assert isinstance(facts["resident_bytes"], int)
    assert facts["resident_bytes"] > 1_000_000
