"""Log lines: their two forms, and a writer that may be stuck without stopping anybody."""

import asyncio
import io
import json
import logging
import os
import re
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import datetime
from pathlib import PurePath
from typing import Any, Literal, TextIO

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from forwarder.observing.logs import (
    MAX_KEPT_BYTES,
    MAX_KEPT_LINES,
    JsonFormatter,
    LastLines,
    TextFormatter,
    is_journal,
    last_lines,
    logging_to_stdout,
    with_priority,
)
from forwarder.settings import LogSettings

DEADLINE_SECONDS = 20.0
log = logging.getLogger("forwarder")


def nested(depth: int) -> object:
    value: object = "bottom"
    for _ in range(depth):
        value = [value]
    return value


HOSTILE_VALUES: Mapping[str, object] = {
    "newline": "a\nb\r\nc",
    "quote and brace": '"}\n{"level":"error"',
    "separators": "\u2028\u2029\x85\x0b\x1e",
    "escape sequence": "\x1b[31mred\x07",
    "lone surrogate": "\ud800",
    "surrogate in a list": ["fine", {"deep": "\udfff"}],
    "surrogate as a key": {"\ud800": 1},
    "number as a key": {1: 2, None: 3},
    "bytes": b"\xff\n\x00",
    "huge integer": 10**400,
    "integer beyond 64 bits": 2**64,
    "not a number": float("nan"),
    "infinite": float("-inf"),
    "a set": {"one"},
    "a path": PurePath("/tmp/x\ny"),
    "an exception": ValueError("a\nb"),
    "nothing": None,
    "deeply nested": nested(400),
    "a megabyte": "x" * 1_000_000,
}


def record(message: str = "hello", *args: object, level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("forwarder", level, __file__, 1, message, args, None)
    made.created = 1_700_000_000.25
    made.__dict__["fields"] = fields
    return made


def with_error(error: ValueError) -> logging.LogRecord:
    with pytest.raises(ValueError, match=re.escape(str(error))) as caught:
        raise error
    made = record("failed", level=logging.ERROR)
    made.exc_info = (caught.type, caught.value, caught.tb)
    return made


def as_json(of: logging.LogRecord) -> dict[str, Any]:
    """Format as JSON, and read it as whoever collects the lines would."""
    text = JsonFormatter().format(of)
    assert "\n" not in text
    assert "\r" not in text
    line: dict[str, Any] = json.loads(text.encode())
    return line


# JSON


def test_a_json_line_has_time_level_message_and_its_fields() -> None:
    line = as_json(record("ready", level=logging.WARNING, pid=7, http="127.0.0.1:1"))
    when = line.pop("time")
    assert line == {"level": "warning", "message": "ready", "pid": 7, "http": "127.0.0.1:1"}
    assert datetime.fromisoformat(when).timestamp() == 1_700_000_000.25


def test_a_json_line_carries_the_traceback_in_a_field() -> None:
    line = as_json(with_error(ValueError("two\nlines")))
    assert line["traceback"].startswith("Traceback")
    assert line["traceback"].endswith("ValueError: two\nlines")


@pytest.mark.parametrize("value", HOSTILE_VALUES.values(), ids=HOSTILE_VALUES)
def test_a_record_is_one_line_of_json_whatever_its_fields(value: object) -> None:
    line = as_json(record("hello", field=value, other=1))
    assert line["message"] == "hello"
    assert line["level"] == "info"
    assert line["other"] == 1
    assert "field" in line


@pytest.mark.parametrize("text", ["a\nb", "\ud800", "\x1b[0m\x00", '"}{"'])
def test_a_record_is_one_line_of_json_whatever_its_message_and_error(text: str) -> None:
    assert "hello" in as_json(record("hello %s", text))["message"]
    assert "ValueError" in as_json(with_error(ValueError(text)))["traceback"]


# Text


def test_a_text_line_has_time_level_message_and_its_fields() -> None:
    text = TextFormatter().format(record("ready", level=logging.WARNING, pid=7, http="127.0.0.1:1"))
    assert text == "2023-11-14T22:13:20.250+00:00 WARNING ready pid=7 http=127.0.0.1:1"


@pytest.mark.parametrize("value", HOSTILE_VALUES.values(), ids=HOSTILE_VALUES)
def test_a_record_is_one_printable_line_of_text_whatever_its_fields(value: object) -> None:
    text = TextFormatter().format(record("hello", field=value, other=1))
    assert text.isprintable()
    assert len(text) < 3000
    assert " hello field=" in text
    assert text.endswith(" other=1")


LINE = re.compile(
    r"""(?P<time>\S+) (?P<level>[A-Z]+) +(?P<message>"(?:[^"\\]|\\.)*"|[^"=]*?)(?P<fields>(?: \w+=.*)?)"""
)
FIELD = re.compile(r""" (\w+)=("(?:[^"\\]|\\.)*"|[^\s"=]+)""")


def read(line: str) -> tuple[str, str, dict[str, str]]:
    """Read a line of text as a person or a program would: the level, the message and the fields."""
    parts = LINE.fullmatch(line)
    assert parts is not None, line
    fields, rest = {}, parts["fields"]
    while rest:
        field = FIELD.match(rest)
        assert field is not None, rest
        assert field[1] not in fields
        fields[field[1]] = unquoted(field[2])
        rest = rest[field.end() :]
    return parts["level"], unquoted(parts["message"]), fields


def unquoted(text: str) -> str:
    return str(json.loads(text)) if text.startswith('"') else text


HOSTILE_NAMES = (
    *("x level=error y=", "x message=forged", "a b", " ", "", "\t", "x=y", "=", "=1", '"', 'a"b', '" other=2 z="', "'"),
    *("\\", '\\"', '\\" other=2', "x\\", "\\n", "\\u0020other=2", "a\nb", "x\r\n2026-01-01T00:00:00.000+00:00 ERROR forged"),
    *("\x00", "\x1b[2K\r", "\x7f", "\x85other=2", "\u2028other=2", "\u00a0other=2", "\u3000other=2", "\u202e=", "\ufeff"),
    *("\U0001f4a5", "\U000e0001", "Zahlung \u00fcber 5", "a,b;c", "/tmp/x", "127.0.0.1:1", "[::1]:1", "it's"),
    *("name", "-", "x" * 1000, " " * 1000),
)  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE_NAMES)
def test_no_value_and_no_message_forges_a_field_or_a_line(value: str) -> None:
    check_that_a_reader_gets_back("event rejected", {"first": 1, "name": value, "other": 1})
    check_that_a_reader_gets_back(value, {"name": value, "other": 1})
    check_that_a_reader_gets_back(value, {})


@given(st.text(max_size=50), st.dictionaries(st.sampled_from(["a", "level", "message", "z_9"]), st.text(max_size=50)))
@example("level=error", {"a": " level=error"})
def test_a_reader_gets_back_exactly_the_message_and_the_fields(message: str, fields: dict[str, str]) -> None:
    check_that_a_reader_gets_back(message, fields)


def check_that_a_reader_gets_back(message: str, fields: Mapping[str, object]) -> None:
    made = record("%s", message)
    made.__dict__["fields"] = fields
    line = TextFormatter().format(made)
    assert line.isprintable()
    assert read(line) == ("INFO", message, {name: str(value) for name, value in fields.items()})


def test_what_is_long_is_cut_before_it_is_quoted() -> None:
    _, message, fields = read(TextFormatter().format(record("m" * 2000, name=" " * 2000, other="n\n" * 2000)))
    assert (message, fields["name"]) == ("m" * 999 + "…", " " * 999 + "…")
    assert len(fields["other"]) == 1000


def test_only_what_could_be_mistaken_is_quoted() -> None:
    line = TextFormatter().format(
        record("the app's post: refused", pid=7, path="/tmp/x-1.db", at="[::1]:1", ok=True, name="Add To Cart")
    )
    assert line.endswith(
        ' INFO    the app\'s post: refused pid=7 path=/tmp/x-1.db at=[::1]:1 ok=True name="Add To Cart"'
    )


@pytest.mark.parametrize("text", ["a\nb", "\r\n2026-01-01 ERROR forged", "\x1b[2J", "\ud800", "\u2028"])
def test_a_record_is_one_printable_line_of_text_whatever_its_message(text: str) -> None:
    assert TextFormatter().format(record("from a library: %s", text)).isprintable()


def test_a_text_line_is_followed_by_the_traceback_without_control_characters() -> None:
    text = TextFormatter().format(with_error(ValueError("\x1b[2J\x07 bell")))
    first, *more = text.split("\n")
    assert first.endswith("ERROR   failed")
    assert more[0] == "  Traceback (most recent call last):"
    assert "ValueError" in more[-1]
    assert all(line.isprintable() for line in more)


# The writer


class Pipe(io.StringIO):
    """Standard output that can be full: then a write waits until somebody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.flows = threading.Event()
        self.flows.set()
        self.waits = threading.Event()
        self.terminal = False

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str, /) -> int:
        if not self.flows.is_set():
            self.waits.set()
            self.flows.wait()
        return super().write(text)

    def lines(self) -> list[str]:
        """Return what was written, by newlines and nothing else."""
        return self.getvalue().split("\n")[:-1]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe that flows at the end, whatever happened; the root logger is then as it was."""
    made, root = Pipe(), logging.getLogger()
    level = root.level
    yield made
    made.flows.set()
    root.setLevel(level)


@contextmanager
def logging_into(pipe: Pipe, settings: LogSettings) -> Iterator[None]:
    with redirect_stdout(pipe), logging_to_stdout(settings):
        yield


def json_settings(level: Literal["debug", "info", "warning", "error"] = "info") -> LogSettings:
    return LogSettings(format="json", level=level)


def ends_in_time(pipe: Pipe, log_something: Callable[[], None]) -> bool:
    """Log in a thread into the pipe, and return whether the block ended in time; raises what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            with logging_to_stdout(json_settings()):
                log_something()
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    with redirect_stdout(pipe):
        thread.start()
        thread.join(DEADLINE_SECONDS)
    if raised:
        raise raised[0]
    return not thread.is_alive()


def test_every_line_is_written_in_order_by_the_end_of_the_block(pipe: Pipe) -> None:
    before = list(logging.getLogger().handlers)
    with logging_into(pipe, json_settings()):
        for number in range(500):
            log.info("line", extra={"fields": {"number": number}})
    assert [json.loads(line)["number"] for line in pipe.lines()] == list(range(500))
    log.info("after the block")
    assert len(pipe.lines()) == 500
    assert logging.getLogger().handlers == before


def test_lines_below_the_level_are_not_written(pipe: Pipe) -> None:
    with logging_into(pipe, json_settings("warning")):
        log.info("too quiet")
        log.warning("loud enough")
    assert [json.loads(line)["message"] for line in pipe.lines()] == ["loud enough"]


def test_auto_is_json_unless_on_a_terminal(pipe: Pipe) -> None:
    with logging_into(pipe, LogSettings(format="auto")):
        log.info("piped")
    assert json.loads(pipe.getvalue())["message"] == "piped"
    pipe.terminal = True
    with logging_into(pipe, LogSettings(format="auto")):
        log.info("shown")
    assert pipe.lines()[1].endswith("INFO    shown")


def test_lines_of_the_libraries_look_the_same(pipe: Pipe) -> None:
    with logging_into(pipe, json_settings()):
        logging.getLogger("asyncio").error("Task exception was never retrieved\nfuture: %r", "x")
    assert json.loads(pipe.getvalue())["message"] == "Task exception was never retrieved\nfuture: 'x'"


@pytest.mark.parametrize("value", HOSTILE_VALUES.values(), ids=HOSTILE_VALUES)
def test_no_hostile_field_keeps_a_line_from_being_written(
    pipe: Pipe, capsys: pytest.CaptureFixture[str], value: object
) -> None:
    with logging_into(pipe, json_settings()):
        log.info("before")
        log.info("hostile", extra={"fields": {"field": value}})
        log.info("after")
    assert [json.loads(line)["message"] for line in pipe.lines()] == ["before", "hostile", "after"]
    assert not capsys.readouterr().err


def test_a_line_with_an_error_and_a_stack_is_still_one_line_of_json(pipe: Pipe) -> None:
    with logging_into(pipe, json_settings()):
        try:
            int("wrong")
        except ValueError:
            log.exception("failed", stack_info=True)
    assert [json.loads(line)["message"] for line in pipe.lines()] == ["failed"]


def test_a_stuck_writer_blocks_nobody_and_the_lost_lines_are_counted(pipe: Pipe) -> None:
    """12,000 lines into a pipe that nobody reads; then somebody does, and the block ends."""
    written = 12_000
    with logging_into(pipe, json_settings()):
        pipe.flows.clear()
        log.info("the writer gets stuck with this line")
        assert pipe.waits.wait(DEADLINE_SECONDS)
        started = time.perf_counter()
        for number in range(written):
            log.info("line", extra={"fields": {"number": number}})
        assert time.perf_counter() - started < DEADLINE_SECONDS
        pipe.flows.set()
    *_, last = lines = [json.loads(line) for line in pipe.lines()]
    kept = [line["number"] for line in lines if "number" in line]
    assert kept == list(range(len(kept))), "what is kept is what came first"
    assert len(kept) >= 1000
    assert str(written - len(kept)) in json.dumps(last), f"the last line, {last}, should say how many were lost"


def test_the_note_about_lost_lines_is_json_too_where_lines_are_json(pipe: Pipe) -> None:
    with logging_into(pipe, json_settings()):
        pipe.flows.clear()
        for _ in range(12_000):
            log.info("line")
        pipe.flows.set()
        wait_until(lambda: len(pipe.lines()) > 5000)
    assert all(json.loads(line)["message"] for line in pipe.lines())


def test_the_block_ends_without_an_error_although_the_queue_is_full_at_that_moment(pipe: Pipe) -> None:
    def lose_lines() -> None:
        pipe.flows.clear()
        for _ in range(12_000):
            log.info("line")
        threading.Timer(0.1, pipe.flows.set).start()

    assert ends_in_time(pipe, lose_lines)


def test_the_block_ends_although_the_writer_stays_stuck(pipe: Pipe) -> None:
    """A daemon whose standard output nobody reads must still be able to stop."""

    def log_one_line() -> None:
        pipe.flows.clear()
        log.info("line")

    assert ends_in_time(pipe, log_one_line)


def test_a_record_that_cannot_be_formatted_harms_neither_its_caller_nor_the_next_line(
    pipe: Pipe, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slip in a library's log call, as in `log.info("%d", "x")`, must not raise in the middle of its work."""
    with logging_into(pipe, json_settings()):
        ours = logging.getLogger().handlers[-1]  # pytest's own would raise
        ours.handle(record("%d events", "no number"))
        ours.handle(record("%s and %s", "one"))
        log.info("after")
    assert json.loads(pipe.lines()[-1])["message"] == "after"
    capsys.readouterr()


# A real pipe


@pytest.fixture
def real_pipe() -> Iterator[tuple[int, TextIO]]:
    """The descriptor to read from, and standard output that writes to it."""
    read_end, write_end = os.pipe()
    stream = os.fdopen(write_end, "w")
    yield read_end, stream
    stream.close()
    with suppress(OSError):
        os.close(read_end)


def read_all(descriptor: int, stream: TextIO) -> str:
    """Read until the writer's end is closed, in a thread that must end in time."""
    parts: list[bytes] = []

    def read() -> None:
        while part := os.read(descriptor, 65536):
            parts.append(part)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    stream.close()
    thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()
    return b"".join(parts).decode()


def test_lines_arrive_whole_through_a_real_pipe(real_pipe: tuple[int, TextIO]) -> None:
    descriptor, stream = real_pipe
    with redirect_stdout(stream), logging_to_stdout(json_settings()):
        for number in range(100):
            log.info("näme 💥", extra={"fields": {"number": number}})
    lines = [json.loads(line) for line in read_all(descriptor, stream).split("\n")[:-1]]
    assert [line["number"] for line in lines] == list(range(100))
    assert {line["message"] for line in lines} == {"näme 💥"}


def test_a_real_pipe_that_nobody_reads_blocks_neither_the_lines_nor_the_end(real_pipe: tuple[int, TextIO]) -> None:
    descriptor, stream = real_pipe
    before = set(threading.enumerate())
    started = time.monotonic()
    with redirect_stdout(stream), logging_to_stdout(json_settings()):
        for _ in range(3000):
            log.info("x" * 100)
        assert time.monotonic() - started < DEADLINE_SECONDS
        ended = time.monotonic()
    assert time.monotonic() - ended < DEADLINE_SECONDS
    os.set_blocking(descriptor, False)
    wait_until(lambda: drained(descriptor) and set(threading.enumerate()) <= before)


def drained(descriptor: int) -> bool:
    """Read what there is."""
    with suppress(BlockingIOError):
        while os.read(descriptor, 65536):
            pass
    return True


def test_a_reader_that_goes_away_harms_nobody(real_pipe: tuple[int, TextIO]) -> None:
    descriptor, stream = real_pipe
    with redirect_stdout(stream), logging_to_stdout(json_settings()):
        log.info("read")
        os.close(descriptor)
        for _ in range(100):
            log.info("not read")


def test_a_pipe_that_does_not_block_gets_every_line_whole(real_pipe: tuple[int, TextIO]) -> None:
    """Whoever shares standard output with us may have made it so; when it fills, it takes only a part of a long line."""
    descriptor, stream = real_pipe
    os.set_blocking(stream.fileno(), False)
    with redirect_stdout(stream), logging_to_stdout(json_settings()):
        for _ in range(20):
            log.info("x" * 10_000)
        wait_until(lambda: not select.select([], [stream], [], 0)[1])
        text = ""
        while text.count("\n") < 20:
            text += os.read(descriptor, 65536).decode()
    assert [json.loads(line)["message"] for line in text.splitlines()] == ["x" * 10_000] * 20


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


# The last lines


@pytest.mark.parametrize("form", ["json", "text"])
def test_the_last_lines_can_be_read_while_the_log_is_written(pipe: Pipe, form: Literal["json", "text"]) -> None:
    with logging_into(pipe, LogSettings(format=form)):
        for number in range(MAX_KEPT_LINES + 500):
            log.info("line", extra={"fields": {"number": number}})
        last = last_lines()
    assert last == pipe.lines()[-MAX_KEPT_LINES:]
    assert last_lines() == [], "nobody writes a log now"


def test_the_last_lines_are_kept_if_nobody_reads_the_log(pipe: Pipe) -> None:
    with logging_into(pipe, json_settings()):
        pipe.flows.clear()
        for number in range(11_000):
            log.info("line", extra={"fields": {"number": number}})
        assert json.loads(last_lines()[-1])["number"] == 10_999
        pipe.flows.set()


def test_the_last_lines_take_a_bounded_number_of_bytes_however_long_they_are() -> None:
    last = LastLines()
    for number in range(3000):
        last.add(f"{number} " + "\U0001f600" * (number * 7 % 20_000))
        assert sum(sys.getsizeof(line) for line in last) <= MAX_KEPT_BYTES
    assert next(iter(reversed(list(last)))).startswith("2999 ")
    assert max(map(len, last)) <= 16 * 1024


@pytest.mark.parametrize("form", ["json", "text"])
def test_the_last_lines_tell_an_exception_without_its_text(pipe: Pipe, form: Literal["json", "text"]) -> None:
    with logging_into(pipe, LogSettings(format=form)):
        try:
            try:
                int("CANARY")
            except ValueError as error:
                raise KeyError("CANARY") from error
        except KeyError:
            log.exception("failed", extra={"fields": {"code": "internal_error"}})
        (line,) = last_lines()
    assert "CANARY" not in line
    assert "internal_error" in line
    assert "KeyError" in line
    assert "ValueError" in line
    assert "in test_the_last_lines_tell_an_exception_without_its_text" in line
    assert "CANARY" in pipe.getvalue(), "the log itself has all"


def test_the_last_lines_have_no_values_of_the_messages_of_libraries(pipe: Pipe) -> None:
    with logging_into(pipe, json_settings()):
        logging.getLogger("asyncio").error("Task exception was never retrieved\nfuture: 100 %% of CANARY")
        logging.getLogger("asyncio").error("Executing %r took %.3f seconds", "CANARY", 0.2)
        lines = [json.loads(line)["message"] for line in last_lines()]
    assert lines == ["Task exception was never retrieved", "Executing %r took %.3f seconds"]


def test_the_last_lines_have_no_arguments_of_a_callback_that_failed(pipe: Pipe) -> None:
    def deliver(*_: object) -> None:
        raise ValueError("CANARY")

    async def main() -> None:
        asyncio.get_running_loop().call_soon(deliver, b"CANARY")
        await asyncio.sleep(0)

    with logging_into(pipe, json_settings()), asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())
        (line,) = last_lines()
    assert json.loads(line)["message"].startswith("Exception in callback ")
    assert json.loads(line)["exception"][0] == "ValueError"
    assert "CANARY" not in line
    assert "CANARY" in pipe.getvalue(), "the log itself has all"


def test_the_last_lines_can_be_read_while_other_threads_write(pipe: Pipe) -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            log.info("line")

    with logging_into(pipe, json_settings()):
        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(200):
            assert len(last_lines()) <= MAX_KEPT_LINES
        stop.set()
        for thread in threads:
            thread.join()


# Lines that are held back, and priorities


def test_held_lines_come_after_those_that_are_said_first(pipe: Pipe) -> None:
    with redirect_stdout(pipe), logging_to_stdout(json_settings(), held=True) as say:
        log.info("one")
        assert pipe.lines() == []
        say(["first", "second"])
        log.info("two")
        say(["third"])
    first, second, one, two, third = pipe.lines()
    assert (first, second, third) == ("first", "second", "third")
    assert [json.loads(line)["message"] for line in (one, two)] == ["one", "two"]


def test_held_lines_are_written_at_the_end_if_nothing_is_ever_said(pipe: Pipe) -> None:
    with redirect_stdout(pipe), logging_to_stdout(json_settings(), held=True):
        log.info("one")
    assert [json.loads(line)["message"] for line in pipe.lines()] == ["one"]


def test_held_lines_are_written_while_the_block_runs_once_nothing_is_said_first(pipe: Pipe) -> None:
    with redirect_stdout(pipe), logging_to_stdout(json_settings(), held=True) as say:
        log.info("one")
        say(())
        wait_until(lambda: len(pipe.lines()) == 1)


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.DEBUG, 7), (logging.INFO, 6), (logging.INFO + 1, 6), (logging.WARNING, 4), (logging.ERROR, 3),
        (logging.CRITICAL, 2), (1, 7), (99, 2),
    ],
)  # fmt: skip
def test_each_line_of_a_text_gets_the_priority_of_its_level(level: int, priority: int) -> None:
    assert with_priority("one\n  two\n", level) == f"<{priority}>one\n<{priority}>  two\n<{priority}>"


def test_only_the_file_that_systemd_names_is_the_journal(real_pipe: tuple[int, TextIO]) -> None:
    _, stream = real_pipe
    found = os.fstat(stream.fileno())
    own = f"{found.st_dev}:{found.st_ino}"
    assert is_journal(stream, {"JOURNAL_STREAM": own})
    for other in ({}, {"JOURNAL_STREAM": ""}, {"JOURNAL_STREAM": f"{own}0"}, {"JOURNAL_STREAM": "0:0"}):
        assert not is_journal(stream, other)
    assert not is_journal(io.StringIO(), {"JOURNAL_STREAM": own})
