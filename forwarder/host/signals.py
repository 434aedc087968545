"""The process's signals, from its first line to its last.

Before anything is begun, a stop ends the process at once. From `begin` on, signals wait for `tell_to`, and are told from
then on. SIGHUP is never fatal. The kernel gives PID 1 no default handlers: without these it would ignore a stop. They are in
place before all other imports, so this module imports next to nothing. The start of Python itself comes before; a program in
Python cannot shorten it.
"""

from __future__ import annotations

# `signal` brings in `enum` and `functools`, which take longer than all else before the handlers are in place.
import _signal  # type: ignore[import-not-found]  # typeshed knows `signal` only
import atexit
import os

TYPE_CHECKING = False  # as mypy knows it; `typing` is imported for nothing else here
if TYPE_CHECKING:
    from collections.abc import Callable

_DAEMON = {_signal.SIGTERM: "SIGTERM", _signal.SIGINT: "SIGINT", _signal.SIGHUP: "SIGHUP"}
_MAX_WAITING = 16


class Signals:
    """SIGTERM, SIGINT and SIGHUP of a daemon; of other commands only Ctrl-C, which must never show a traceback."""

    def __init__(self) -> None:
        self._begun = False
        self._waiting: list[str] = []
        self._tell: Callable[[str], object] | None = None
        self._exit_code: int | None = None

    def take_over(self) -> None:
        """Have the handlers in place, and let through what whoever started this process had blocked until now."""
        for number in _DAEMON:
            _signal.signal(number, self._arrived)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _DAEMON)

    def take_over_interrupt(self, exit_code: int) -> None:
        """End the process quietly at Ctrl-C, with this exit code, unless it was started with Ctrl-C ignored."""
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _DAEMON)
        if _signal.getsignal(_signal.SIGINT) not in {_signal.SIG_IGN, _signal.SIG_DFL}:
            self._exit_code = exit_code
            _signal.signal(_signal.SIGINT, self._arrived)

    def give_interrupt_back(self) -> None:
        """Let Ctrl-C be a KeyboardInterrupt from now on, which the commands know, if it was taken over alone."""
        if self._exit_code is not None:
            _signal.signal(_signal.SIGINT, _signal.default_int_handler)

    def begin(self) -> None:
        """Keep what arrives from now on for `tell_to`: something was begun that must be ended in order."""
        self._begun = True

    def tell_to(self, tell: Callable[[str], object]) -> None:
        """Call `tell` with the name of each signal, and first of those that waited; the handler of a signal calls it."""
        self._tell = tell
        while self._waiting:
            tell(self._waiting.pop(0))

    def end(self, exit_code: int) -> None:
        """End the process with this exit code, at another stop at once: all is done. Its very end is not disturbed."""
        self._exit_code = exit_code
        for number in _DAEMON:
            if _signal.getsignal(number) not in {_signal.SIG_IGN, _signal.SIG_DFL}:
                _signal.signal(number, self._arrived)
                atexit.register(_signal.signal, number, _signal.SIG_IGN)

    def _arrived(self, number: int, _: object) -> None:
        name = _DAEMON[number]
        if self._exit_code is not None and name != "SIGHUP":
            os._exit(self._exit_code)
        elif self._tell is not None:
            self._tell(name)
        elif self._begun or name == "SIGHUP":
            if len(self._waiting) < _MAX_WAITING:
                self._waiting.append(name)
        else:
            os._exit(0)
