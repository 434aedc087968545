"""The limit of open files is told of in one line, and nothing else is taken for it."""

import asyncio
import errno
import logging
import os
from pathlib import Path

import pytest

from forwarder.host.open_files import OpenFiles
from forwarder.observing.telemetry import Telemetry
from tests.unit.test_telemetry import ManualClock


def about_files(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if "limit of open files is reached" in record.getMessage()]


def opened() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def failing(number: int) -> OpenFiles:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return OpenFiles(Telemetry(clock=ManualClock()).open_files_exhausted, try_one=fail)


@pytest.mark.parametrize(
    ("number", "fixes"),
    [
        (errno.EMFILE, ("ulimit -n", "LimitNOFILE=", "--ulimit nofile=")),
        (errno.ENFILE, ("machine", "sysctl fs.file-max")),
    ],
)
def test_when_none_can_be_opened_one_line_says_how_to_raise_the_limit(
    caplog: pytest.LogCaptureFixture, number: int, fixes: tuple[str, ...]
) -> None:
    files = failing(number)
    for _ in range(100):
        files.poll()
    (line,) = about_files(caplog)
    assert all(fix in line.getMessage() for fix in fixes)
    assert line.levelname == "ERROR"
    assert line.exc_info is None
    assert ("limit" in line.__dict__["fields"]) == (number == errno.EMFILE)


def test_the_line_is_repeated_every_ten_seconds_with_how_often_it_was_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = ManualClock()
    telemetry = Telemetry(clock=clock)
    for _ in range(100):
        telemetry.open_files_exhausted(limit=64)
    clock.now += 10
    telemetry.open_files_exhausted(limit=64)
    assert [line.__dict__["fields"] for line in about_files(caplog)] == [
        {"limit": 64},
        {"limit": 64, "repeats_not_logged": 99},
    ]


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT, errno.EIO])
def test_another_reason_why_a_file_cannot_be_opened_is_not_the_limit(
    caplog: pytest.LogCaptureFixture, number: int
) -> None:
    failing(number).poll()
    assert caplog.records == []


def test_while_files_can_be_opened_nothing_is_said_and_none_is_left_open(caplog: pytest.LogCaptureFixture) -> None:
    files = OpenFiles(Telemetry().open_files_exhausted)
    before = opened()
    for _ in range(10):
        files.poll()
    assert caplog.records == []
    assert opened() == before


async def test_what_the_loop_says_of_it_is_the_same_line_and_every_other_error_is_logged_as_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(failing(errno.EMFILE).on_loop_error)
    try:
        for _ in range(32):
            exhausted = OSError(errno.EMFILE, "Too many open files")
            loop.call_exception_handler({"message": "socket.accept() out of system resource", "exception": exhausted})
        for context in ({"exception": ConnectionResetError()}, {"exception": ValueError("a bug")}, {}):
            loop.call_exception_handler({"message": "another error", **context})
    finally:
        loop.set_exception_handler(before)
    assert len(about_files(caplog)) == 1
    assert [line.name for line in caplog.records] == ["forwarder", "asyncio", "asyncio", "asyncio"]
    assert "ValueError: a bug" in caplog.text
