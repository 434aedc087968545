"""`attribute-types`: which type each attribute has, of a running daemon: list, forget, export or import them.

Names are text from strangers and are escaped, also in the file that `export` writes.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlencode

from forwarder.cli import EXIT_CONFIGURATION, EXIT_NO, EXIT_OK
from forwarder.cli.clients import actions_of, daemon_of, run_action
from forwarder.cli.daemon import Daemon, DaemonAnswer, StoppedError
from forwarder.cli.options import table, utc
from forwarder.text import printable

if TYPE_CHECKING:
    from forwarder.cli.answers import KnownType, TypesPage

MAX_LISTED_TYPES: Final = 10_000_000
"""Ten times as many as can be learned: a daemon that lists more would go on for ever."""

_PATH: Final = "/v1/attribute-types"
_HEADINGS: Final = ("NAME", "ATTRIBUTE", "TYPE", "FIRST SEEN", "CONFLICTS")
_Content = TypeVar("_Content")
_Result = TypeVar("_Result")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    action = actions_of(parser)
    listing = action("list", "show every type that is fixed or learned, and how often others came", _list)
    listing.add_argument("--json", action="store_true", help="one JSON object a line, for programs")

    forgetting = action("forget", "forget what was learned, so that the next event decides", _forget)
    forgetting.add_argument("name", metavar="NAME", help="the name of events")
    forgetting.add_argument("attribute", metavar="ATTRIBUTE", nargs="?", help="by default all of their attributes")

    exporting = action("export", "write all types as TOML, as contract.types_file and `lint --types` read it", _export)
    exporting.add_argument("file", metavar="FILE", nargs="?", help="by default standard output")

    importing = action("import", "replace all that was learned by the types of such a file", _import)
    importing.add_argument("file", metavar="FILE", help="as `export` writes it; - is standard input")


run = run_action


def _list(args: argparse.Namespace) -> int:
    types, last = _ask(args, _known)
    types.sort(key=lambda each: each.place)
    if args.json:
        for each in types:
            print(json.dumps(each.described()))
    else:
        for line in table(_HEADINGS, map(_row, types), numbers={"CONFLICTS"}):
            print(line)
    fixed = sum(each.first_seen is None for each in types)
    full = ", so new ones replace those seen once: raise contract.max_attribute_types" if last.full else ""
    summary = f"{fixed} fixed, {len(types) - fixed} learned of at most {last.max}{full}"
    # A program that reads JSON would stumble over it.
    print(summary, file=sys.stderr if args.json else sys.stdout)
    return EXIT_OK


def _row(known: "KnownType") -> tuple[str, ...]:
    first_seen = "fixed" if known.first_seen is None else utc(known.first_seen)
    return printable(known.name), printable(known.attribute), known.type, first_seen, str(known.conflicts)


async def _known(daemon: Daemon) -> "tuple[list[KnownType], TypesPage]":
    """Return all types, which are asked for page by page, and the last page. Raises DaemonError."""
    from forwarder.cli.answers import TypesPage

    found: dict[tuple[str, str], KnownType] = {}  # if types are forgotten meanwhile, others may come twice
    listed = 0
    after: str | None = None
    while True:
        answer = await daemon.get(_PATH if after is None else f"{_PATH}?{urlencode({'after': after})}")
        page = _read(daemon, answer, TypesPage)
        listed += len(page.types)
        found.update((each.place, each) for each in page.types)
        if page.next is None:
            return list(found.values()), page
        if not page.types or page.next == after or listed > MAX_LISTED_TYPES:
            raise daemon.strange(answer)
        after = page.next


def _forget(args: argparse.Namespace) -> int:
    from forwarder.cli.answers import Forgotten

    what = printable(args.name) if args.attribute is None else f"{printable(args.attribute)} of {printable(args.name)}"
    asked = {"name": args.name} if args.attribute is None else {"name": args.name, "attribute": args.attribute}
    answer = _ask(args, lambda daemon: _post(daemon, "forget", asked, Forgotten))
    if answer.fixed:
        print(f"{what}: what contract.types_file fixes stays until the file is changed and the daemon restarted")
    if not answer.forgotten:
        print(f"{what}: nothing was learned (names are case-sensitive)", file=sys.stderr)
        return EXIT_NO
    print(f"forgot {_count(answer.forgotten)}")
    return EXIT_OK


def _export(args: argparse.Namespace) -> int:
    from forwarder.attribute_types import types_file

    types, _ = _ask(args, _known)
    text, left_out = types_file.text({each.place: each.type for each in types})
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
    print(f"exported {_count(len(types) - left_out)}", file=sys.stderr)
    return EXIT_OK


def _import(args: argparse.Namespace) -> int:
    from forwarder.attribute_types import types_file
    from forwarder.cli.answers import Imported

    try:
        if args.file != "-":
            types = types_file.read(args.file)
        elif sys.stdin is None:
            raise StoppedError("cannot read <stdin>: it is closed")
        else:
            types = types_file.parse(sys.stdin.buffer.read(types_file.MAX_FILE_BYTES + 1), name="<stdin>")
    except types_file.TypesFileError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return EXIT_CONFIGURATION
    tables: dict[str, dict[str, str]] = {}
    for (name, attribute), kind in types.items():
        tables.setdefault(name, {})[attribute] = kind
    answer = _ask(args, lambda daemon: _post(daemon, "import", {"types": tables}, Imported))
    if answer.fixed:
        print(f"passed over {_count(answer.fixed)} that contract.types_file fixes")
    print(f"imported {_count(answer.imported)}, in the place of all that was learned")
    return EXIT_OK


def _ask(args: argparse.Namespace, what: Callable[[Daemon], Awaitable[_Result]]) -> _Result:
    async def ask() -> _Result:
        async with daemon_of(args) as daemon:
            return await what(daemon)

    return asyncio.run(ask())


async def _post(daemon: Daemon, action: str, asked: Mapping[str, object], kind: type[_Content]) -> _Content:
    # ASCII, so that whatever a shell handed over as a name can be sent.
    body = json.dumps(asked, separators=(",", ":")).encode()
    return _read(daemon, await daemon.post(f"{_PATH}/{action}", body, content_type="application/json"), kind)


def _read(daemon: Daemon, answer: DaemonAnswer, kind: type[_Content]) -> _Content:
    if answer.status != 200:
        raise daemon.refused(answer)
    return daemon.read(answer, kind)


def _count(types: int) -> str:
    return f"{types} type{'' if types == 1 else 's'}"
