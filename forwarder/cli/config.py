"""`config init`: writes every setting with its default and what it is for, as a file to start from."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Final

from forwarder.cli import EXIT_NO, EXIT_OK
from forwarder.text import printable

_DEFAULT_FILE: Final = "growlytics-forwarder.toml"
_MAX_CHARACTERS: Final = 4096
"""Of a path that is shown: as long as one can be."""
_PACKAGED: Final = Path(__file__).with_name("reference.toml")
"""In a wheel, where `pyproject.toml` puts it."""
_IN_A_CHECKOUT: Final = Path(__file__).parents[2] / "config" / "reference.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    summary = "write a file with every setting, its default and what it is for"
    init = actions.add_parser("init", help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    init.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        default=_DEFAULT_FILE,
        help=f"where to write it, by default {_DEFAULT_FILE}; - is standard output; an existing file is left as it is",
    )


def run(args: argparse.Namespace) -> int:
    """Write the file, and say what to do with it. Return 1 if it cannot be written."""
    text = (_PACKAGED if _PACKAGED.exists() else _IN_A_CHECKOUT).read_text(encoding="utf-8")
    if args.file == "-":
        print(text, end="")
        return EXIT_OK
    if (fault := _write(path := Path(args.file), text)) is not None:
        print(f"{printable(args.file, _MAX_CHARACTERS)} {fault}", file=sys.stderr)
        return EXIT_NO
    name = shlex.quote(printable(str(path), _MAX_CHARACTERS))
    print(f"Wrote {name}. Keep only what you change in it, then:")
    print(f"growlytics-forwarder check-config --config {name}")
    return EXIT_OK


def _write(path: Path, text: str) -> str | None:
    """Write a new file. Return why not, and the fix, to follow the name; None if it was written."""
    fix = "name another file, or - for standard output"
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError:
        return "exists, and was left as it is; name another file, or remove it first"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return f"cannot be made: {getattr(error, 'strerror', None) or 'it has an invalid name'}; {fix}"
    try:
        with file:
            file.write(text)
    except OSError as error:  # half a file would look like a whole one
        path.unlink(missing_ok=True)
        return f"cannot be written: {error.strerror}; {fix}"
    return None
