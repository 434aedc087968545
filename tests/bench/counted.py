"""The installed command with a counter: which of our functions are called, in all threads, between two signals.

Run as a script, with the path of the counts before the command's own arguments. SIGUSR2 begins to count; the next one ends
it and writes the counts. A resumed coroutine counts as one call, as the interpreter sees it.
"""

import json
import runpy
import signal
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

_counts = Path(sys.argv.pop(1))
_spec = find_spec("forwarder")
assert _spec is not None
assert _spec.origin is not None
_package = str(Path(_spec.origin).parent) + "/"
_counting = False
_called: list[str] = []
"""The file of each call, in order; to append is atomic, so threads need no lock."""


def _note(frame: FrameType, event: str, argument: object) -> None:
    if _counting and event == "call" and (name := frame.f_code.co_filename).startswith(_package):
        _called.append(name)


def _toggle(number: int, frame: FrameType | None) -> None:
    global _counting  # noqa: PLW0603 - a signal handler has no other place
    _counting = not _counting
    sys.setprofile(_note if _counting else None)
    if not _counting:
        changes = sum(one != other for one, other in zip(["", *_called], _called, strict=False))
        found = {"calls": len(_called), "changes": changes, "modules": len(set(_called))}
        _called.clear()
        unfinished = _counts.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(found), encoding="utf-8")
        unfinished.replace(_counts)
    else:
        _counts.with_suffix(".counting").touch()


signal.signal(signal.SIGUSR2, _toggle)
threading.setprofile(_note)  # for threads to come; before Python 3.12 those that run cannot be given one
runpy.run_module("forwarder", run_name="__main__", alter_sys=True)
