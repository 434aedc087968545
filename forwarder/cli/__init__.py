"""The command line: `growlytics-forwarder COMMAND`.

A process needs signal handlers and standard descriptors from its first line on, and gets them here. So this module imports
next to nothing; `commands` has the commands.
"""

from __future__ import annotations

import sys

from forwarder.host.signals import Signals

TYPE_CHECKING = False  # mypy knows this name; importing `typing` takes longer than all of this
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

EXIT_OK: Final = 0
EXIT_NO: Final = 1
EXIT_USAGE: Final = 64
EXIT_CANNOT_BIND: Final = 69
EXIT_BUG: Final = 70
EXIT_CONFIGURATION: Final = 78


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command with these arguments, by default those of the process, and return its exit code."""
    signals = Signals()
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] == "run":
        signals.take_over()
    elif arguments is None:
        signals.take_over_interrupt(EXIT_NO)
    if arguments is not None:  # called by a test, which owns the process
        return _run(arguments, signals)
    from forwarder.host import descriptors

    output = descriptors.prepare()
    code = EXIT_NO
    try:
        try:
            code = _run(given, signals)
        except SystemExit as ended:
            code = _code_of(ended)
        sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    except Exception:
        if output.fault is None:
            raise
        code = EXIT_NO
    output.silent = True  # Python writes buffered output when it ends
    if output.fault is not None and not isinstance(output.fault, BrokenPipeError):
        code = code or EXIT_NO
        print(f"standard output cannot be written: {output.fault.strerror}", file=sys.stderr)
    signals.end(code)
    return code


def _code_of(ended: SystemExit) -> int:
    """Return the exit code. One that is a text is an error, which is printed on a line of its own."""
    if ended.code is None or isinstance(ended.code, int):
        return ended.code or EXIT_OK
    print(f"{ended.code}".rstrip("\n"), file=sys.stderr)
    return EXIT_NO


def _run(arguments: Sequence[str], signals: Signals) -> int:
    from forwarder.cli import commands

    return commands.run(arguments, signals=signals)
