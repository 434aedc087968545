"""What runs in this process right now: versions, limits, the tasks of the event loop, the stacks of threads.

For an operator who looks into a running daemon. No value of a local variable is shown, and no line of source is read; each
list is bounded. `versions` and `process_facts` read files and may block; `tasks` must run on the event loop.
"""

import os
import platform
import resource
import ssl
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from forwarder import __version__
from forwarder.text import printable

if TYPE_CHECKING:
    import asyncio

MAX_STACKS: Final = 200
"""How many different stacks of tasks, and how many threads, are shown."""
MAX_FRAMES: Final = 50
_MAX_TASKS: Final = 10_000
_MAX_LIBRARIES: Final = 300
_MAX_NAME_CHARACTERS: Final = 60
_DISTRIBUTION: Final = "growlytics-forwarder"


def versions(*, sqlite: str) -> dict[str, object]:
    """Return the versions of all that this process runs on."""
    found: dict[str, object] = {
        _DISTRIBUTION: __version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "sqlite": sqlite,
        "openssl": ssl.OPENSSL_VERSION,
        "libc": " ".join(platform.libc_ver()).strip() or "unknown",
        "system": " ".join((platform.system(), platform.release(), platform.machine())),
        "distribution": _distribution(),
        "libraries": _libraries(),
    }
    return found


def process_facts() -> dict[str, object]:
    """Return what the system tells of this process: its user, memory, processor time, threads and open files."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "pid": os.getpid(),
        "user": os.geteuid(),
        "group": os.getegid(),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "resident_bytes": _resident_bytes(),
        "threads": threading.active_count(),
        "descriptors": descriptors(),
    }


def descriptors() -> dict[str, int | None]:
    """Return how many files this process has open (None if the system does not tell), and its limits (None: no limit)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = None
    with suppress(OSError):
        opened = len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208 - without the one that lists them
    return {"open": opened, "soft_limit": _limit(soft), "hard_limit": _limit(hard)}


def tasks() -> list[dict[str, object]]:
    """Return the tasks of the running event loop: those that wait at the same place are counted, the most common first."""
    import asyncio  # noqa: PLC0415  # commands ask for versions only, and must start fast

    found: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for number, task in enumerate(asyncio.all_tasks()):
        if number == _MAX_TASKS:
            break
        found[printable(task.get_name().rstrip("0123456789 -"), _MAX_NAME_CHARACTERS), tuple(_places_of(task))] += 1
    return [
        {"name": name, "tasks": count, "stack": list(stack)} for (name, stack), count in found.most_common(MAX_STACKS)
    ]


def threads() -> list[dict[str, object]]:
    """Return the threads of this process, each with its stack; the innermost call is first."""
    frames = sys._current_frames()  # noqa: SLF001 - documented, in spite of its name
    return [
        {
            "name": printable(thread.name, _MAX_NAME_CHARACTERS),
            "stack": list(_places_of_thread(frames.get(thread.ident or 0))),
        }
        for thread in threading.enumerate()[:MAX_STACKS]
    ]


def _places_of(task: "asyncio.Task[Any]") -> Iterator[str]:
    """Yield where a task waits: its coroutine, what that awaits, and so on."""
    waiting: Any = task.get_coro()
    for _ in range(MAX_FRAMES):
        kind = next((each for each in ("cr", "gi", "ag") if hasattr(waiting, f"{each}_frame")), None)
        if kind is None:
            if waiting is not None:
                yield f"awaits {type(waiting).__module__}.{type(waiting).__qualname__}"
            return
        frame: FrameType | None = getattr(waiting, f"{kind}_frame")
        if frame is not None:
            yield _place(frame)
        waiting = getattr(waiting, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")


def _places_of_thread(frame: FrameType | None) -> Iterator[str]:
    for _ in range(MAX_FRAMES):
        if frame is None:
            return
        yield _place(frame)
        frame = frame.f_back


def _place(frame: FrameType) -> str:
    code = frame.f_code
    return f"{_shortened(code.co_filename)}:{frame.f_lineno} in {code.co_qualname}"


def _shortened(path: str) -> str:
    """Return a path from its package on: where it is installed tells nothing, and is long."""
    parts: Sequence[str] = path.split("/")
    for start in ("site-packages", "forwarder"):
        if start in parts:
            parts = parts[len(parts) - 1 - parts[::-1].index(start) :]
            return "/".join(parts[1:] if start == "site-packages" else parts)
    return "/".join(parts[-2:])


def _libraries() -> dict[str, str]:
    """Return the versions of the distributions that are installed, by name.

    The names of their directories tell both; `importlib.metadata` would parse a file of each, and a command must start fast.
    """
    found: dict[str, str] = {}
    for place in map(Path, sys.path):
        with suppress(OSError):
            for each in place.glob("*.dist-info"):
                name, _, number = each.name.removesuffix(".dist-info").partition("-")
                found.setdefault(name.replace("_", "-").lower(), number)
    return dict(sorted(found.items())[:_MAX_LIBRARIES])


def _distribution() -> str:
    with suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    return "unknown"


def _resident_bytes() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return None


def _limit(value: int) -> int | None:
    return None if value == resource.RLIM_INFINITY else value
