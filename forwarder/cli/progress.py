"""How far a command is, and how it is shown; for `load` also what became of the events so far."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Final, TextIO

BAR_SECONDS: Final = 0.1
LINE_SECONDS: Final = 5
"""How often progress is shown, at most: on a terminal, and elsewhere."""


@dataclass
class LoadTally:
    """What became of the events so far."""

    read: int = 0
    accepted: int = 0
    duplicates: int = 0
    """Known to the daemon already."""
    refused: int = 0
    possible_duplicates: int = 0
    """At most; accepted after an earlier answer was lost."""

    @property
    def unconfirmed(self) -> int:
        return self.read - self.accepted - self.duplicates - self.refused

    @property
    def all_taken(self) -> bool:
        return self.read == self.accepted + self.duplicates

    def __str__(self) -> str:
        rare = {
            "duplicates": self.duplicates,
            "not confirmed": self.unconfirmed,
            "possible duplicates up to": self.possible_duplicates,
        }
        common = f"read {self.read}, accepted {self.accepted}, refused {self.refused}"
        return common + "".join(f", {words} {count}" for words, count in rare.items() if count)


class Ticker:
    """Shows how far it is: a bar on a terminal, else a line now and then. What is said otherwise goes above the bar."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._is_terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._every_seconds = BAR_SECONDS if self._is_terminal else LINE_SECONDS
        self._began = clock()
        self._shown = self._began
        self._noted = -inf

    def tell(self, text: str, *, bar: str = "", note: str = "") -> None:
        """Show it, unless that was done a moment ago; a bar always shows a note, which is why nothing moves."""
        now = self._clock()
        since_seconds = now - (self._noted if note else self._shown)
        if since_seconds < self._every_seconds and not (note and self._is_terminal):
            return
        self._shown = now
        self._noted = now if note else self._noted
        text = f"{note}; {text}" if note else text  # in this order, as a narrow terminal cuts the end
        if self._is_terminal:
            columns = _columns(self._stream)
            self._write(f"\r\x1b[K{f'{bar} {text}'[: columns - 1]}")
        else:
            self._write(f"{text}\n")

    def say(self, line: str) -> None:
        """Print a line of its own."""
        self.clear()
        self._write(f"{line}\n")

    def clear(self) -> None:
        """Take the bar away."""
        if self._is_terminal:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class LoadProgress(Ticker):
    """Shows how far `load` is in its file."""

    def __init__(self, stream: TextIO, total_bytes: int | None, *, clock: Callable[[], float] = monotonic) -> None:
        super().__init__(stream, clock=clock)
        self._total_bytes = total_bytes
        self._done_bytes = 0

    def show(self, tally: LoadTally, *, done_bytes: int | None = None, note: str = "") -> None:
        """Show it, as `tell` does."""
        self._done_bytes = self._done_bytes if done_bytes is None else done_bytes
        seconds = self._clock() - self._began
        text = progress_text(tally, self._done_bytes, self._total_bytes, seconds=seconds)
        self.tell(text, bar=progress_bar(self._done_bytes, self._total_bytes), note=note)


def progress_text(tally: LoadTally, done_bytes: int, total_bytes: int | None, *, seconds: float) -> str:
    """Return how far it is in words."""
    mib = 1024 * 1024
    total = f" of {total_bytes / mib:.1f}" if total_bytes else ""
    rate = tally.read / seconds if seconds > 0 else 0.0
    return f"{done_bytes / mib:.1f}{total} MiB, {tally.read} events, {rate:.0f}/s, {tally.refused} refused"


def progress_bar(done: int, total: int | None) -> str:
    """Return the bar with its per cent; nothing if the total is not known."""
    if not total:
        return ""
    share = min(done / total, 1.0)  # the file may grow
    return f"[{'#' * int(share * 20):<20}] {int(share * 100):>3} %"


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80
