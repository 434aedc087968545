"""`attribute-types`: lists, forgets, exports or imports the attribute types of a running daemon.

Names are strangers' text, so they are escaped, also in the file that `export` writes.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Final, TypeVar
from urllib.parse import urlencode

import msgspec

from forwarder.cli import EXIT_CONFIGURATION, EXIT_NO, EXIT_OK
from forwarder.cli.clients import actions_of, daemon_of, run_action
from forwarder.cli.daemon import Daemon, DaemonAnswer, StoppedError
from forwarder.cli.options import table, utc
from forwarder.text import printable
from forwarder.words import AttributeType

MAX_LISTED_TYPES: Final = 10_000_000
"""Ten times as many as a daemon can learn: one that lists more might never end."""

_PATH: Final = "/v1/attribute-types"
_HEADINGS: Final = ("NAME", "ATTRIBUTE", "TYPE", "FIRST SEEN", "CONFLICTS")
_Content = TypeVar("_Content")
_Result = TypeVar("_Result")
_TIMES: Final = msgspec.Meta(ge=0, lt=10**11)


# Answers


class KnownType(msgspec.Struct, frozen=True, kw_only=True):
    """The type of one attribute."""

    name: str
    attribute: str
    type: AttributeType
    fixed: bool = False
    first_seen: Annotated[int, _TIMES] | Annotated[float, _TIMES] | None = None
    """Seconds since 1970, before the year 5138, an integer if it came as one; None if the type is fixed."""
    conflicts: int

    def __post_init__(self) -> None:
        if self.first_seen is None and not self.fixed:
            raise ValueError("a type that is not fixed needs a time when it was first seen")

    @property
    def place(self) -> tuple[str, str]:
        """The event name and the attribute."""
        return self.name, self.attribute

    def described(self) -> dict[str, object]:
        """Return all fields, for JSON."""
        return msgspec.structs.asdict(self)


class TypesPage(msgspec.Struct):
    """A page of types, and how many can be learned."""

    types: list[KnownType]
    max: int
    next: str | None = None
    full: bool = False


class Forgotten(msgspec.Struct):
    """How many types were forgotten, and whether some stay because they are fixed."""

    forgotten: int
    fixed: bool = False


class Imported(msgspec.Struct):
    """How many types were imported, and how many were not, as they are fixed."""

    imported: int
    fixed: int


# The command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    action = actions_of(parser)
    listing = action("list", "show every fixed or learned type, and how many values had another type", _list)
    listing.add_argument("--json", action="store_true", help="one JSON object a line, for programs")

    forgetting = action("forget", "forget learned types, so that the next event decides", _forget)
    forgetting.add_argument("name", metavar="NAME", help="the event name")
    forgetting.add_argument(
        "attribute", metavar="ATTRIBUTE", nargs="?", help="by default all attributes of these events"
    )

    exporting = action("export", "write all types as TOML, for contract.types_file and `lint --types`", _export)
    exporting.add_argument("file", metavar="FILE", nargs="?", help="by default standard output")

    importing = action("import", "replace all learned types with those of a file that `export` wrote", _import)
    importing.add_argument("file", metavar="FILE", help="the file; - is standard input")


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
    full = ", so new types replace those seen once; raise contract.max_attribute_types" if last.full else ""
    summary = f"{fixed} fixed, {len(types) - fixed} learned of at most {last.max}{full}"
    # Not among the JSON, which a program reads.
    print(summary, file=sys.stderr if args.json else sys.stdout)
    return EXIT_OK


def _row(known: KnownType) -> tuple[str, ...]:
    first_seen = "fixed" if known.first_seen is None else utc(known.first_seen)
    return printable(known.name), printable(known.attribute), known.type, first_seen, str(known.conflicts)


def _known(daemon: Daemon) -> tuple[list[KnownType], TypesPage]:
    """Ask for all types page by page; return them and the last page. Raises DaemonError."""
    found: dict[tuple[str, str], KnownType] = {}  # by place, as types may come twice if others are forgotten meanwhile
    listed = 0
    after: str | None = None
    while True:
        answer = daemon.get(_PATH if after is None else f"{_PATH}?{urlencode({'after': after})}")
        page = _read(daemon, answer, TypesPage)
        listed += len(page.types)
        found.update((each.place, each) for each in page.types)
        if page.next is None:
            return list(found.values()), page
        if not page.types or page.next == after or listed > MAX_LISTED_TYPES:
            raise daemon.strange(answer)
        after = page.next


def _forget(args: argparse.Namespace) -> int:
    what = printable(args.name) if args.attribute is None else f"{printable(args.attribute)} of {printable(args.name)}"
    asked = {"name": args.name} if args.attribute is None else {"name": args.name, "attribute": args.attribute}
    answer = _ask(args, lambda daemon: _post(daemon, "forget", asked, Forgotten), changes=True)
    if answer.fixed:
        print(f"{what}: types in contract.types_file stay; to remove them, change the file and restart the daemon")
    if not answer.forgotten:
        print(f"{what}: no learned type was found (names are case-sensitive)", file=sys.stderr)
        return EXIT_NO
    print(f"forgot {_count(answer.forgotten)}")
    return EXIT_OK


def _export(args: argparse.Namespace) -> int:
    from forwarder.attribute_types import types_file

    types, _ = _ask(args, _known)
    text, left_out = types_file.text({each.place: each.type for each in types})
    if args.file is None:
        # Always UTF-8, whatever the terminal's encoding is.
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
    answer = _ask(args, lambda daemon: _post(daemon, "import", {"types": tables}, Imported), changes=True)
    if answer.fixed:
        print(f"skipped {_count(answer.fixed)} that contract.types_file fixes")
    print(f"imported {_count(answer.imported)}, which replace all learned types")
    return EXIT_OK


def _ask(args: argparse.Namespace, what: Callable[[Daemon], _Result], *, changes: bool = False) -> _Result:
    with daemon_of(args, changes=changes) as daemon:
        return what(daemon)


def _post(daemon: Daemon, action: str, asked: Mapping[str, object], kind: type[_Content]) -> _Content:
    # ASCII, so that any name that a shell can pass on can be sent.
    body = json.dumps(asked, separators=(",", ":")).encode()
    return _read(daemon, daemon.post(f"{_PATH}/{action}", body, content_type="application/json"), kind)


def _read(daemon: Daemon, answer: DaemonAnswer, kind: type[_Content]) -> _Content:
    if answer.status != 200:
        raise daemon.refused(answer)
    return daemon.read(answer, kind)


def _count(types: int) -> str:
    return f"{types} type{'' if types == 1 else 's'}"
