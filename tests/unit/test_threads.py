"""Work in a thread of its own: its outcome comes back, and nobody waits for it at the end."""

import asyncio
import subprocess
import sys
import threading

import pytest

from forwarder.host.threads import NoThreadError, end_threads, in_own_thread

ENDS_WHILE_IT_IS_STUCK = """
import asyncio, threading
from forwarder.host.threads import in_own_thread

async def main():
    working = asyncio.create_task(in_own_thread(threading.Event().wait, name="stuck"))
    await asyncio.sleep(0)
    working.cancel()

asyncio.run(main())
"""


async def test_what_it_returns_or_raises_comes_back_and_it_has_a_thread_of_its_own() -> None:
    assert await in_own_thread(lambda: threading.current_thread().name, name="mine") == "mine"

    def fail() -> None:
        raise ValueError("as it was")

    with pytest.raises(ValueError, match="as it was"):
        await in_own_thread(fail, name="failing")


async def test_where_the_system_has_no_thread_left_that_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", cannot)
    with pytest.raises(NoThreadError):
        await in_own_thread(lambda: None, name="one too many")


async def test_nobody_is_told_of_work_that_nobody_waits_for_any_more() -> None:
    may_end, ended = threading.Event(), threading.Event()

    def work() -> None:
        may_end.wait(10)
        ended.set()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await in_own_thread(work, name="late")
    may_end.set()
    assert await asyncio.to_thread(ended.wait, 10)


def test_the_process_ends_although_the_work_does_not() -> None:
    subprocess.run([sys.executable, "-c", ENDS_WHILE_IT_IS_STUCK], check=True, timeout=20)


async def test_the_end_waits_for_work_that_is_about_to_end_and_not_for_what_hangs() -> None:
    may_end, ended, hangs = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        may_end.wait(10)
        ended.set()

    for name, each in (("late", work), ("stuck", lambda: hangs.wait(10))):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await in_own_thread(each, name=name)
    end_threads(within_seconds=0.01)
    assert not ended.is_set()
    may_end.set()
    hangs.set()
    end_threads(within_seconds=30)
    assert ended.is_set()
