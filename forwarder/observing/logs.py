"""The format of log lines, one JSON object or one readable line each, and the thread that writes them.

A pipe that nobody reads must neither stop the event loop nor keep the process from ending. So lines wait in a bounded queue;
when it is full, they are lost and counted. The last lines are also kept in memory, for an operator who asks the daemon. Used
by the commands that serve; nothing else configures logging.
"""

import io
import json
import logging
import os
import queue
import re
import select
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Final, TextIO

import orjson

from forwarder.settings import LogSettings
from forwarder.text import printable

_OURS: Final = "forwarder"
"""The logger whose messages and fields never show a value of an event."""
_MAX_WAITING_LINES: Final = 10_000
MAX_KEPT_LINES: Final = 1000
MAX_KEPT_BYTES: Final = 1024 * 1024
"""As Python holds them. With few long lines fewer are kept."""
_MAX_KEPT_CHARACTERS: Final = 16 * 1024
_MAX_VALUE_CHARACTERS: Final = 1000
_MAX_PLACES: Final = 100
_CLOSING_SECONDS: Final = 2.0
_VALUE: Final = re.compile(r"""[^\s"'=]+""")
_MESSAGE: Final = re.compile(r"""(?! )[^"=]+(?<! )""")
"""May contain spaces and apostrophes, and must not look like a field."""
_ARGUMENTS: Final = re.compile(r"[\n(]")
_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))
"""Of syslog, by the least level that has it."""


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "message", ...fields}` on one line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {"time": _time(record), "level": record.levelname.lower()}
        line |= {"message": record.getMessage(), **_fields(record)}
        if text := _traceback(record):
            line["traceback"] = text
        return orjson.dumps({name: _plain(value) for name, value in line.items()}).decode()


class TextFormatter(logging.Formatter):
    """`time LEVEL message field=value ...`, for a person at a terminal; a traceback follows, indented.

    The fields that `only_in_json` of a record names, which are too long to be read, are left out.

    Text that could be read as another field or line, such as a value with white space, is quoted as a JSON string.
    """

    def format(self, record: logging.LogRecord) -> str:
        words = [_time(record), f"{record.levelname:<7}", _unmistakable(record.getMessage(), _MESSAGE)]
        too_long = getattr(record, "only_in_json", ())
        words += [
            f"{name}={_unmistakable(str(_plain(value)), _VALUE)}"
            for name, value in _fields(record).items()
            if name not in too_long
        ]
        lines = (f"  {printable(line, _MAX_VALUE_CHARACTERS)}" for line in _traceback(record).splitlines())
        return "\n".join((" ".join(words), *lines))


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return dict(getattr(record, "fields", {}))


def _traceback(record: logging.LogRecord) -> str:
    return logging.Formatter().formatException(record.exc_info) if record.exc_info else ""


def _without_values(record: logging.LogRecord) -> logging.LogRecord:
    """Return a record without what an exception or a library may have quoted of an event.

    It has kinds and places of the exception and of those that caused it. Of a library's message it has the beginning, before
    values were put into it: asyncio writes a callback's arguments in brackets, and all else of it on further lines.
    """
    attributes = {**record.__dict__, "exc_info": None, "exc_text": None}
    if record.exc_info:
        attributes["fields"] = {**_fields(record), "exception": _kinds_and_places(record.exc_info[1])}
    if record.name != _OURS:
        attributes |= {"msg": _ARGUMENTS.split(str(record.msg), maxsplit=1)[0].rstrip(), "args": ()}
    return logging.makeLogRecord(attributes)


def _kinds_and_places(error: BaseException | None) -> list[str]:
    found: list[str] = []
    while error is not None and len(found) < _MAX_PLACES:
        found.append(type(error).__qualname__)
        frames = traceback.walk_tb(error.__traceback__)
        found += [f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}" for frame, line in frames]
        error = error.__cause__ or error.__context__
    return found[:_MAX_PLACES]


def _unmistakable(text: str, plain: re.Pattern[str]) -> str:
    """Return a text, cut if it is long, escaped where it is not printable, and in quotes unless it is `plain`."""
    cut = text if len(text) <= _MAX_VALUE_CHARACTERS else text[: _MAX_VALUE_CHARACTERS - 1] + "…"
    if cut.isprintable() and plain.fullmatch(cut):
        return cut
    quoted = json.dumps(cut, ensure_ascii=False)
    return quoted if quoted.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in quoted)


def _plain(value: object) -> object:
    """Return a value as JSON; as text if JSON cannot contain it."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    try:
        orjson.dumps(value)
    except TypeError:
        return printable(ascii(value), _MAX_VALUE_CHARACTERS)
    return value


class LastLines:
    """The last lines of the log, in at most `max_lines` and `max_bytes`. Only one thread at a time may use it."""

    def __init__(self, *, max_lines: int = MAX_KEPT_LINES, max_bytes: int = MAX_KEPT_BYTES) -> None:
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._lines: deque[str] = deque()
        self._bytes = 0

    def add(self, line: str) -> None:
        """Keep a line, cut if it is very long, and drop the oldest as needed."""
        if len(line) > _MAX_KEPT_CHARACTERS:
            line = line[: _MAX_KEPT_CHARACTERS - 1] + "…"
        lines = self._lines
        lines.append(line)
        self._bytes += sys.getsizeof(line)
        while self._bytes > self._max_bytes or len(lines) > self._max_lines:
            self._bytes -= sys.getsizeof(lines.popleft())

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)


class _Writer(logging.Handler):
    """Queues formatted lines for a thread that writes them, and keeps the last ones.

    `with_priorities` says that the journal reads them.
    """

    def __init__(self, stream: TextIO, formatter: logging.Formatter, *, with_priorities: bool) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._with_priorities = with_priorities
        self._write = _writer_to(stream)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._lost = 0
        self._first: Sequence[str] = ()
        self._has_begun = False
        self._last = LastLines()
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)

    def say(self, lines: Sequence[str]) -> None:
        """Write lines that are no log lines; before the first call none are written. Call this in one thread."""
        if self._has_begun:
            for line in lines:
                self._lines.put(line)
            return
        self._first, self._has_begun = lines, True
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            is_ours = record.exc_info is None and record.name == _OURS
            self._last.add(line if is_ours else self.format(_without_values(record)))
            if self._lines.qsize() < _MAX_WAITING_LINES:
                self._lines.put(self._prefixed(record, line))
            else:
                self._lost += 1
        except Exception:  # noqa: BLE001 - a bad log call must not fail its caller; logging says where it was
            self.handleError(record)

    def last_lines(self) -> list[str]:
        """Return the last lines, oldest first. Any thread may call this."""
        self.acquire()
        try:
            return list(self._last)
        finally:
            self.release()

    def finish(self) -> None:
        """Write the lines that wait, for a while; if nobody reads the pipe, the others are lost."""
        if not self._has_begun:
            self.say(())
        if self._lost:
            record = logging.makeLogRecord(
                {
                    "levelno": logging.WARNING,
                    "levelname": "WARNING",
                    "msg": "log lines were lost: nobody read them",
                    "fields": {"lines": self._lost},
                }
            )
            self._lines.put(self._prefixed(record, self.format(record)))
        self._lines.put(None)
        self._thread.join(_CLOSING_SECONDS)

    def _prefixed(self, record: logging.LogRecord, text: str) -> str:
        return with_priority(text, record.levelno) if self._with_priorities else text

    def _run(self) -> None:
        for first in self._first:
            with suppress(OSError):
                self._write(first + "\n")
        while (line := self._lines.get()) is not None:
            try:
                self._write(line + "\n")
            except OSError:
                self._lost += 1  # the reader has gone


def _writer_to(stream: TextIO) -> Callable[[str], object]:
    """Return a function that writes a whole text, past the stream's own buffer if the stream has a file.

    A stuck write would hold the lock of that buffer, and keep Python from ending.
    """
    try:
        descriptor = stream.fileno()
    except io.UnsupportedOperation:
        return stream.write
    return _Descriptor(descriptor).write


class _Descriptor:
    """Writes whole lines. A line that was cut off, for example by a full disk, does not run into the next."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._in_a_line = False

    def write(self, text: str) -> None:
        rest = (f"\n{text}" if self._in_a_line else text).encode()
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # another process that shares the file made it non-blocking
                select.select([], [self._descriptor], [])
            else:
                self._in_a_line = bool(rest)


def use_level(settings: LogSettings) -> None:
    """Write lines of this level and above from now on."""
    logging.getLogger().setLevel(settings.level.upper())


def last_lines() -> list[str]:
    """Return the last lines of this process's log, oldest first; none if it has no log.

    Of an exception they have the kind and the place, and not the text, which may quote what an app sent.
    """
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Writer):
            return handler.last_lines()
    return []


def write_out() -> None:
    """Write the lines that wait, for a while. For a process that ends without leaving `logging_to_stdout`."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Writer):
            handler.finish()


def with_priority(text: str, level: int) -> str:
    """Return a text for systemd's journal, which takes the priority from the start of each line and removes it."""
    priority = next(number for least, number in _PRIORITIES if level >= least)
    return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Return whether systemd's journal reads this stream.

    JOURNAL_STREAM in `environ` names the device and inode of such a stream. It may be another's: a file or a pipe that this
    one was redirected to must not get what only the journal removes.
    """
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def is_for_people(settings: LogSettings) -> bool:
    """Return whether the log is text on a terminal."""
    return settings.format != "json" and sys.stdout.isatty()


@contextmanager
def logging_to_stdout(settings: LogSettings, *, held: bool = False) -> Iterator[Callable[[Sequence[str]], None]]:
    """Write this process's log lines to standard output while the block runs; at its end write those that wait.

    Yield a function that writes other lines. With `held`, the log lines wait for its first call, so that its lines are the
    first.
    """
    as_json = settings.format == "json" or (settings.format == "auto" and not sys.stdout.isatty())
    formatter = JsonFormatter() if as_json else TextFormatter()
    writer = _Writer(sys.stdout, formatter, with_priorities=is_journal(sys.stdout, os.environ))
    if not held:
        writer.say(())
    root = logging.getLogger()
    root.addHandler(writer)
    use_level(settings)
    try:
        yield writer.say
    finally:
        root.removeHandler(writer)
        writer.finish()
