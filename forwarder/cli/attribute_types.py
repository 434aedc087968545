"""`attribute-types`: which type each attribute has, of a running daemon: list, forget, export or import them.

Names are text from strangers and are escaped; the file that `export` writes escapes them, too.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from forwarder.cli import EXIT_CONFIGURATION, EXIT_NO, EXIT_OK
from forwarder.cli.attribute_type_requests import Known, KnownType, forget, import_types, known_types
from forwarder.cli.daemon import DaemonError
from forwarder.cli.daemon_arguments import add_daemon_arguments, daemon_of
from forwarder.cli.output import discard_output
from forwarder.cli.patience import StoppedError
from forwarder.text import printable
from forwarder.words import AttributeType

if TYPE_CHECKING:
    from forwarder.attribute import Place

_HEADINGS: Final = ("NAME", "ATTRIBUTE", "TYPE", "FIRST SEEN", "CONFLICTS")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, summary: str, run_action: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        found = actions.add_parser(name, help=summary, description=summary)
        add_daemon_arguments(found)
        found.set_defaults(run_action=run_action)
        return found

    listing = action("list", "show every type that is fixed or learned, and how often others came", _list)
    listing.add_argument("--json", action="store_true", help="one JSON object a line, for programs")

    forgetting = action("forget", "forget what was learned, so that the next event decides", _forget)
    forgetting.add_argument("name", metavar="NAME", help="the name of events")
    forgetting.add_argument("attribute", metavar="ATTRIBUTE", nargs="?", help="by default all of their attributes")

    exporting = action("export", "write all types as TOML, as contract.types_file and `lint --types` read it", _export)
    exporting.add_argument("file", metavar="FILE", nargs="?", help="by default standard output")

    importing = action("import", "put the types of such a file in the place of all that was learned", _import)
    importing.add_argument("file", metavar="FILE", help="as `export` writes it; - is standard input")


def run(args: argparse.Namespace) -> int:
    """Do what the action says, and return 0 if it was done."""
    action: Callable[[argparse.Namespace], int] = args.run_action
    try:
        code = action(args)
        sys.stdout.flush()
    except DaemonError as error:
        print(f"{error}; {error.mend}", file=sys.stderr)
        return EXIT_NO
    except StoppedError as error:
        print(error, file=sys.stderr)
        return EXIT_NO
    except BrokenPipeError:
        discard_output()  # whoever read it has seen enough
        return EXIT_NO
    return code


def _list(args: argparse.Namespace) -> int:
    known = asyncio.run(_known(args))
    types = sorted(known.types, key=lambda each: each.place)
    if args.json:
        for each in types:
            print(as_json(each))
    else:
        for line in table(types):
            print(line)
    # A program that reads JSON would stumble over it.
    print(_summary(known), file=sys.stderr if args.json else sys.stdout)
    return EXIT_OK


async def _known(args: argparse.Namespace) -> Known:
    async with daemon_of(args) as daemon:
        return await known_types(daemon)


def _forget(args: argparse.Namespace) -> int:
    what = printable(args.name) if args.attribute is None else f"{printable(args.attribute)} of {printable(args.name)}"

    async def ask() -> tuple[int, bool]:
        async with daemon_of(args) as daemon:
            return await forget(daemon, args.name, args.attribute)

    forgotten, is_fixed = asyncio.run(ask())
    if is_fixed:
        print(f"{what}: what contract.types_file fixes stays until the file is changed and the daemon restarted")
    if not forgotten:
        print(f"{what}: nothing was learned (names are case-sensitive)", file=sys.stderr)
        return EXIT_NO
    print(f"forgot {_count(forgotten)}")
    return EXIT_OK


def _export(args: argparse.Namespace) -> int:
    from forwarder.attribute_types import types_file

    known = asyncio.run(_known(args))
    text, left_out = types_file.text({each.place: each.type for each in known.types})
    if args.file is None:
        # Not in the terminal's encoding: it is to be UTF-8 whatever that is.
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
    else:
        try:
            Path(args.file).write_text(text, encoding="utf-8")
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            why = getattr(error, "strerror", None) or error
            raise StoppedError(f"{printable(args.file, 500)} cannot be written: {why}") from None
    if left_out:
        why = "a name with lone surrogates cannot be written in TOML"
        print(f"left out {_count(left_out)}: {why}", file=sys.stderr)
    print(f"exported {_count(len(known.types) - left_out)}", file=sys.stderr)
    return EXIT_OK


def _import(args: argparse.Namespace) -> int:
    from forwarder.attribute_types.types_file import TypesFileError

    try:
        types = _read(args.file)
    except TypesFileError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return EXIT_CONFIGURATION

    async def ask() -> tuple[int, int]:
        async with daemon_of(args) as daemon:
            return await import_types(daemon, types)

    imported, fixed = asyncio.run(ask())
    if fixed:
        print(f"passed over {_count(fixed)} that contract.types_file fixes")
    print(f"imported {_count(imported)}, in the place of all that was learned")
    return EXIT_OK


def _read(file: str) -> "dict[Place, AttributeType]":
    from forwarder.attribute_types import types_file

    if file != "-":
        return types_file.read(file)
    if sys.stdin is None:
        raise StoppedError("cannot read <stdin>: it is closed")
    return types_file.parse(sys.stdin.buffer.read(types_file.MAX_FILE_BYTES + 1), name="<stdin>")


def table(types: Sequence[KnownType]) -> list[str]:
    """Return the lines of a table for people, with its headings; none if there are no types."""
    if not types:
        return []
    rows = [_HEADINGS, *map(_row, types)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if heading == "CONFLICTS" else cell.ljust(width)
            for heading, cell, width in zip(_HEADINGS, row, widths, strict=True)
        )
        for row in rows
    ]


def _row(known: KnownType) -> tuple[str, ...]:
    name, attribute = known.place
    return printable(name), printable(attribute), known.type, _first_seen(known), str(known.conflicts)


def as_json(known: KnownType) -> str:
    """Return what `list` shows of it as a JSON object, in ASCII."""
    name, attribute = known.place
    return json.dumps(
        {
            "name": name,
            "attribute": attribute,
            "type": known.type,
            "fixed": known.first_seen is None,
            "first_seen": known.first_seen,
            "conflicts": known.conflicts,
        }
    )


def _first_seen(known: KnownType) -> str:
    if known.first_seen is None:
        return "fixed"
    return f"{datetime.fromtimestamp(known.first_seen, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _summary(known: Known) -> str:
    fixed = sum(each.first_seen is None for each in known.types)
    full = ", so new ones replace those seen once: raise contract.max_attribute_types" if known.is_full else ""
    return f"{fixed} fixed, {len(known.types) - fixed} learned of at most {known.max_learned}{full}"


def _count(types: int) -> str:
    return f"{types} type{'' if types == 1 else 's'}"
