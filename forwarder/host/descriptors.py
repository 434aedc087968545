"""The standard descriptors 0, 1 and 2: always open, and never the cause of a traceback.

If one were missing, the next file or socket that is opened would get its number, and others would print into it or close it.
A log that cannot be written, because the disk is full or the reader has left, must not end the daemon. Used by the command
line, before anything else is opened.
"""

from __future__ import annotations

import io
import os
import select
import sys

TYPE_CHECKING = False  # as mypy knows it; this module is part of every command's start
if TYPE_CHECKING:
    from typing import TextIO

    from _typeshed import ReadableBuffer


class Output(io.FileIO):
    """A standard descriptor for writing that remembers its first error. If it is `silent`, it raises nothing."""

    def __init__(self, descriptor: int, *, silent: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.silent = silent
        """Whether text that cannot be written is thrown away."""
        self.fault: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        """Write some of the data, as FileIO does."""
        try:
            written: int | None = super().write(data)
            while written is None and not self.silent:  # another process that shares the file made it non-blocking
                select.select([], [self], [])
                written = super().write(data)
        except OSError as error:
            self.fault = self.fault or error
            if not self.silent:
                raise
            written = None
        return memoryview(data).nbytes if written is None else written


def prepare() -> Output:
    """Open missing descriptors on /dev/null, make standard error silent, and return the descriptor of standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            _open_null(number)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for the whole process
    errors = Output(2, silent=True)
    sys.stderr = _text(errors, sys.stderr, errors="backslashreplace", line_buffering=True)
    output = Output(1, silent=False)
    sys.stdout = _text(output, sys.stdout, errors="backslashreplace", line_buffering=output.isatty())
    return output


def _open_null(number: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    os.set_inheritable(number, True)


def _text(raw: Output, like: TextIO | None, *, errors: str, line_buffering: bool) -> io.TextIOWrapper:
    """Return a text stream on `raw`, with the properties of `like`, the stream that Python made, if any.

    With PYTHONUNBUFFERED, each line is written when it is complete. `errors` says what becomes of text that its encoding
    cannot say, unless Python or its user chose more than to fail.
    """
    is_unbuffered = getattr(like, "write_through", False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding="utf-8" if like is None else like.encoding,
        errors=errors if like is None or like.errors in {None, "strict"} else like.errors,
        line_buffering=is_unbuffered or getattr(like, "line_buffering", line_buffering),
    )
