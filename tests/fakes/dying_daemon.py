"""The daemon, ended from inside just before or just after a commit: python dying_daemon.py REPORT WHEN NUMBER run ...

The commit is the one with this number, counted from 1, that the database makes on its thread, and WHEN is `before` or
`after`; there may be fewer. When it ends, REPORT gets, as JSON, the statements that are committed, with their values.

The product knows nothing of it. Python tells an audit hook of the new connection, on the thread that uses it, whose profile
function is then told of every call. SQLite traces each statement as it begins, and its call returns when it is done.
"""

import json
import os
import sqlite3
import sys
from pathlib import Path
from types import FrameType
from typing import Any, Final

import forwarder.cli

EXIT_CODE: Final = 99


class Death:
    """Waits for the commit, and ends the process."""

    def __init__(self, report: Path, *, when: str, commits: int) -> None:
        self._report = report
        self._when = when
        self._commits_left = commits
        self._connection: sqlite3.Connection | None = None
        self._statements: list[str] = []  # of the transaction that is under way
        self._committed: list[str] = []

    def audit(self, event: str, _: tuple[Any, ...]) -> None:
        """Watch the thread of the first connection, the database's, on which this is called."""
        if event == "sqlite3.connect" and sys.getprofile() is None:
            sys.setprofile(self._profile)

    def _profile(self, _: FrameType, event: str, function: Any) -> None:
        if not event.startswith("c_") or function.__name__ != "execute":
            return
        if event == "c_call" and self._connection is None:
            self._connection = function.__self__
            function.__self__.set_trace_callback(self._trace)
        elif event == "c_return" and self._statements[-1:] == ["COMMIT"]:
            self._committed += self._statements
            self._statements.clear()
            if self._commits_left == 0:
                self._die()

    def _trace(self, statement: str) -> None:
        """Called before the statement has any effect."""
        if statement.startswith("BEGIN"):
            self._statements.clear()
        self._statements.append(statement)
        if statement == "COMMIT":
            self._commits_left -= 1
            if self._commits_left == 0 and self._when == "before":
                self._die()

    def _die(self) -> None:
        self._report.write_text(json.dumps(self._committed), encoding="utf-8")
        os._exit(EXIT_CODE)


def main(report: str, when: str, commits: str, *command: str) -> int:
    """Run the command with death waiting, and return its exit code if death did not come."""
    sys.addaudithook(Death(Path(report), when=when, commits=int(commits)).audit)
    return forwarder.cli.main(command)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
