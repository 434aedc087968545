"""What `run` tells besides what the daemon logs: warnings about the configuration, and why the process ends.

It is told twice: as log lines on standard output for those who collect them, and as text on standard error for people. Where
both would be in the same place it is told once: as text on a terminal, elsewhere as log lines, as a plain line among them
would be a malformed one for whoever reads them.
"""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Final

from forwarder.observing.logs import is_for_people, is_journal, with_priority
from forwarder.settings import LogSettings

_log: Final = logging.getLogger("forwarder")


class Report:
    """Logs at once, and keeps the text for people until `show`, as log lines are written by a thread."""

    def __init__(self, log: LogSettings) -> None:
        self._logs = not is_for_people(log)
        self._shows = not self._logs or not _is_same_place()
        self._lines: list[tuple[str, int]] = []

    def warn(self, text: str) -> None:
        """Tell what may be wrong with the configuration."""
        self._add(text, f"configuration: warning: {text}", level=logging.WARNING)

    def die(self, texts: Sequence[str], *, exit_code: int, heading: str = "") -> int:
        """Tell why the process ends, for people below a heading, and return the exit code."""
        if heading:
            self._lines.append((heading, logging.ERROR))
        for text in texts:
            self._add(text, f"  {text}" if heading else text, level=logging.ERROR, exit_code=exit_code)
        return exit_code

    def show(self) -> None:
        """Print the text for people. Call it when the log lines so far were written."""
        for text, level in self._lines if self._shows else ():
            print(with_priority(text, level) if is_journal(sys.stderr, os.environ) else text, file=sys.stderr)
        self._lines.clear()

    def _add(self, text: str, for_people: str, *, level: int, **fields: object) -> None:
        if self._logs:
            _log.log(level, "%s", text, extra={"fields": fields})
        self._lines.append((for_people, level))


def _is_same_place() -> bool:
    """Whether standard output and standard error are one file, pipe or terminal."""
    try:
        return os.path.samestat(os.fstat(sys.stdout.fileno()), os.fstat(sys.stderr.fileno()))
    except (OSError, ValueError):  # closed, or no file at all
        return False
