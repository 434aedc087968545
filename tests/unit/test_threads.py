"""Work in a thread of its own: its outcome comes back, and nobody waits for it at the end."""

import asyncio
import subprocess
import sys
import threading

import pytest

from forwarder.host.threads import JobThread, NoThreadError, end_threads, in_own_thread

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


async def test_the_end_waits_for_work_that_is_about_to_end_and_not_for_what_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    all_threads, others = threading.enumerate, threading.enumerate()  # those that other tests left do not count
    monkeypatch.setattr(threading, "enumerate", lambda: [each for each in all_threads() if each not in others])
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


def test_jobs_run_in_their_order_in_one_thread_and_a_bug_in_one_stops_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda hooked: told.append(hooked.exc_type))
    thread = JobThread("jobs")
    found: list[int] = []
    for number in range(5):
        thread.post(found.append, number)
        thread.post(int, "no number")
    assert thread.submit(lambda: threading.current_thread().name).result(30) == "jobs"
    assert found == [0, 1, 2, 3, 4]
    assert told == [ValueError] * 5
    with pytest.raises(ValueError, match="no number"):
        thread.submit(int, "no number").result(30)
    thread.end()


def test_a_thread_ends_after_its_jobs_and_the_next_job_begins_another() -> None:
    thread = JobThread("jobs")
    thread.end()  # it has not begun
    first = thread.submit(threading.current_thread)
    may_go_on = threading.Event()
    thread.post(may_go_on.wait, 30)
    last = thread.submit(threading.current_thread)
    thread.end()
    second = thread.submit(threading.current_thread)
    assert second.result(30) is not first.result(30)
    may_go_on.set()
    assert last.result(30) is first.result(30)
    first.result().join(30)
    assert not first.result().is_alive()
    thread.end()


def test_a_job_that_was_cancelled_in_time_is_not_run() -> None:
    thread, may_go_on = JobThread("jobs"), threading.Event()
    found: list[int] = []
    thread.post(may_go_on.wait, 30)
    assert thread.submit(found.append, 1).cancel()
    after = thread.submit(found.append, 2)
    may_go_on.set()
    after.result(30)
    assert found == [2]
    thread.end()
