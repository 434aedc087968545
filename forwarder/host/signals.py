"""The signals of the process, from its first line to its last.

Before `begin`, a stop signal ends the process at once. After it, signals wait for `tell_to`, which passes them on. SIGHUP is
never fatal. The kernel gives PID 1 no default handlers: without ours it would ignore a stop. Ours are in place before all
other imports, so this module imports next to nothing.
"""

from __future__ import annotations

# `signal` imports `enum` and `functools`, which would delay the handlers.
import _signal  # type: ignore[import-not-found]  # typeshed knows `signal` only
import atexit
import os

TYPE_CHECKING = False  # as mypy knows it; `typing` is imported for nothing else here
if TYPE_CHECKING:
    from collections.abc import Callable

_DAEMON = {_signal.SIGTERM: "SIGTERM", _signal.SIGINT: "SIGINT", _signal.SIGHUP: "SIGHUP"}
_MAX_WAITING = 16


class Signals:
    """Handles SIGTERM, SIGINT and SIGHUP of a daemon, and Ctrl-C of other commands, which must not show a traceback."""

    def __init__(self) -> None:
        self._begun = False
        self._waiting: list[str] = []
        self._tell: Callable[[str], object] | None = None
        self._exit_code: int | None = None

    def take_over(self) -> None:
        """Set the handlers, and unblock signals that the parent process had blocked."""
        for number in _DAEMON:
            _signal.signal(number, self._arrived)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _DAEMON)

    def take_over_interrupt(self, exit_code: int) -> None:
        """Let Ctrl-C end the process quietly with this exit code, unless the process was started with Ctrl-C ignored."""
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _DAEMON)
        if _signal.getsignal(_signal.SIGINT) not in {_signal.SIG_IGN, _signal.SIG_DFL}:
            self._exit_code = exit_code
            _signal.signal(_signal.SIGINT, self._arrived)

    def give_interrupt_back(self) -> None:
        """After `take_over_interrupt`: let Ctrl-C raise KeyboardInterrupt from now on, which the commands handle."""
        if self._exit_code is not None:
            _signal.signal(_signal.SIGINT, _signal.default_int_handler)

    def begin(self) -> None:
        """Keep signals for `tell_to` from now on, because there is something to end in order."""
        self._begun = True

    def tell_to(self, tell: Callable[[str], object]) -> None:
        """Call `tell`, in signal handlers, with the name of each signal from now on, and first with those that waited."""
        self._tell = tell
        while self._waiting:
            tell(self._waiting.pop(0))

    def end(self, exit_code: int) -> None:
        """Let another stop signal end the process with this exit code, as all is done; at its very end ignore signals."""
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
