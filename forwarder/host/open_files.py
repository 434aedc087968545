"""How many files the process may have open, which connections are, too: the limit is raised, and connections are capped."""

import resource
from contextlib import suppress
from typing import Final

_RESERVED_FILES: Final = 256
"""For all that is no connection of an intake: the buffer, the admin listener, delivery beside `others`, the log."""
_LEAST_FILES: Final = 32
"""With fewer, not even the buffer and the listeners can be opened."""
_ACCEPTED_AT_ONCE: Final = 128
"""As many as an event loop may accept of each listener before anything here can close others."""


def too_few_files() -> str | None:
    """Return why the process cannot be a daemon, with as few files open as it may have; None if it can.

    The soft limit is raised to the least that a daemon needs, if it is lower and the hard limit allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _LEAST_FILES:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (_LEAST_FILES, hard))
        except (ValueError, OSError):
            return (
                f"the limit of open files (RLIMIT_NOFILE) is {soft}, and the daemon needs {_LEAST_FILES} at least: raise "
                "it, with ulimit -n 4096, LimitNOFILE=4096 in a unit of systemd, or --ulimit nofile=4096 of docker run"
            )
    return None


def affordable(max_connections: int, *, listeners: int, others: int = 0) -> int:
    """Return how many connections each of `listeners` can have before file descriptors run out, at most `max_connections`.

    The process's soft limit is raised as far as that takes, and the hard limit allows. `others` are descriptors that are
    wanted for something else, such as delivery's connections.
    """
    beside = _RESERVED_FILES + others + listeners * _ACCEPTED_AT_ONCE
    wanted = beside + listeners * max_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):  # some systems have a lower limit that they do not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            soft = target
    if soft == resource.RLIM_INFINITY:
        return max_connections
    return max(1, min(max_connections, (soft - beside) // max(1, listeners)))
