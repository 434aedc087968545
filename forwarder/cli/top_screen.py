"""How `top` draws its rows, and what it does to the terminal: everything is undone when the block ends.

While it is open: the alternate screen, no cursor, and typed keys neither shown nor kept for the shell. Only here is rich
imported. Used by `top` only.
"""

import os
import sys
import termios
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.table import Table
from rich.text import Text

from forwarder.cli.top_rows import LABEL_COLUMNS, Row, Tone

_STYLES: Final[dict[Tone, str]] = {
    "plain": "",
    "good": "green",
    "warning": "yellow",
    "bad": "bold red",
    "dim": "dim",
}
_LOCAL_FLAGS: Final = 3
"""Where termios keeps ECHO and ICANON."""


def console() -> Console:
    """Return what writes to standard output, whatever its encoding; colours as NO_COLOR and the terminal ask for."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False, markup=False, emoji=False)


def table(rows: Sequence[Row]) -> Table:
    """Return what rich draws."""
    grid = Table.grid(padding=(0, 1, 0, 0), expand=True)
    grid.add_column(width=LABEL_COLUMNS - 1, no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    for row in rows:
        # Text, not a string: nothing in it is markup.
        grid.add_row(Text(row.label, style="bold"), Text(row.text, style=_STYLES[row.tone]))
    return grid


class Screen:
    """The terminal while it is ours. Needs one at standard output; reads keys if there is one at standard input, too."""

    def __init__(self, to: Console) -> None:
        self._console = to
        self._modes: list[Any] | None = None
        self._is_open = False

    @property
    def reads_keys(self) -> bool:
        """Whether what is typed can be read."""
        return sys.stdin.isatty()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Take the terminal."""
        self._is_open = True
        if self.reads_keys:
            self._modes = termios.tcgetattr(sys.stdin)
            ours = list(self._modes)
            ours[_LOCAL_FLAGS] &= ~(termios.ECHO | termios.ICANON)  # Ctrl-C and Ctrl-Z stay signals
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, ours)
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)

    def close(self) -> None:
        """Leave the terminal as it was. May be called again."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            self._console.show_cursor(True)
            self._console.set_alt_screen(False)
        finally:
            if self._modes is not None:
                # What was typed meanwhile was not meant for the shell.
                termios.tcsetattr(sys.stdin, termios.TCSAFLUSH, self._modes)

    def draw(self, rows: Callable[[int], Sequence[Row]]) -> None:
        """Show the rows for so many columns, and nothing else; what does not fit is cut at the bottom."""
        # The terminal's size as it is now; COLUMNS and LINES, which rich would believe, stay what they were.
        size = os.get_terminal_size(sys.stdout.fileno())
        self._console.size = (size.columns or 80, size.lines or 24)
        self._console.update_screen(table(rows(self._console.size.width)))
