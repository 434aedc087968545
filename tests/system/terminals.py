"""A command in a terminal of its own, and what is on its screen: as much of a terminal as that needs."""

import asyncio
import codecs
import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.system.processes import clean_environment, until

# Makes the terminal the one whose keys are signals to the command.
_IN_A_SESSION = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
_SEQUENCE = re.compile(r"\x1b\[(\?|)([0-9;]*)([A-Za-z])")


class Terminal:
    """A terminal with a command in it. Knows what `top` writes; what else comes is an error."""

    def __init__(self, process: asyncio.subprocess.Process, ours: int, theirs: int) -> None:
        self.process = process
        self._ours = ours
        self._theirs = theirs
        self.modes = self.modes_now()
        """As they were at the start."""
        self.written = ""
        self.is_alternate = False
        self.has_cursor = True
        self.lines: list[str] = []
        """The alternate screen, as last drawn."""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._read = 0
        self._at = 0, 0

    def modes_now(self) -> list[Any]:
        return termios.tcgetattr(self._theirs)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.lines = []

    def hang_up(self) -> None:
        """Close it, as when its window is closed."""
        if self._ours >= 0:
            os.close(self._ours)
            self._ours = -1

    def take(self) -> None:
        """Read what was written since, and put it on the screen."""
        while True:
            try:
                chunk = os.read(self._ours, 65536)
            except OSError:  # nothing there, or nobody has it open any more
                break
            if not chunk:
                break
            self.written += self._decoder.decode(chunk)
        # Reading may have cut the last sequence in two.
        end = len(self.written)
        last = self.written.rfind("\x1b")
        if last >= 0 and _SEQUENCE.match(self.written, last) is None:
            end = last
        while self._read < end:
            found = _SEQUENCE.match(self.written, self._read)
            if found is not None:
                self._obey(*found.groups())
                self._read = found.end()
            else:
                self._put(self.written[self._read])
                self._read += 1

    def _obey(self, private: str, numbers: str, letter: str) -> None:
        match private, numbers, letter:
            case "?", "1049", "h" | "l":
                self.is_alternate = letter == "h"
            case "?", "25", "h" | "l":
                self.has_cursor = letter == "h"
            case "", "", "H":
                self._at = 0, 0
            case "", _, "H":
                line, _, column = numbers.partition(";")
                self._at = int(line) - 1, int(column) - 1
            case "", _, "m":
                pass
            case _:
                raise AssertionError(f"what does this do to a terminal? {private}{numbers}{letter}")

    def _put(self, character: str) -> None:
        if not self.is_alternate:
            return
        assert character.isprintable(), f"{character!r} on the screen"
        line, column = self._at
        self.lines += [""] * (line + 1 - len(self.lines))
        self.lines[line] = f"{self.lines[line][:column]:<{column}}{character}{self.lines[line][column + 1 :]}"
        self._at = line, column + 1

    def shows(self, text: str) -> bool:
        self.take()
        return text in "\n".join(self.lines)

    def is_filled(self, columns: int, lines: int) -> bool:
        """Return whether so many lines of so many columns are on the screen; less may be a part of what is written."""
        self.take()
        return [len(line) for line in self.lines] == [columns] * lines

    async def until_it_shows(self, text: str) -> None:
        try:
            await until(lambda: self.shows(text), f"the screen shows {text!r}")
        except AssertionError as error:
            screen = "\n".join(self.lines)
            raise AssertionError(f"{error}; it shows:\n{screen}\nand was written:\n{self.written[-500:]!r}") from None

    async def until_it_hides(self, text: str) -> None:
        await until(lambda: not self.shows(text), f"the screen shows {text!r} no more")

    async def until_it_wrote(self, text: str) -> None:
        def wrote() -> bool:
            self.take()
            return text in self.written

        await until(wrote, f"{text!r} was written")

    async def until_it_ends(self) -> int:
        def ended() -> bool:
            self.take()  # or it could wait for somebody to read
            return self.process.returncode is not None

        await until(ended, "the command has ended")
        self.take()
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def in_a_terminal(
    command: Sequence[str], *, columns: int = 100, lines: int = 30, **environment: str
) -> AsyncIterator[Terminal]:
    """Run a command in a terminal while the block runs."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _IN_A_SESSION, *command,
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env=clean_environment(**{"TERM": "xterm-256color"} | environment),
    )  # fmt: skip
    terminal = Terminal(process, ours, theirs)
    try:
        yield terminal
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        terminal.hang_up()
        os.close(theirs)
