"""The list of commands. Each has a module of its own, imported only when the command runs.

The module of a command has `add_arguments(parser)` and `run(args) -> exit code`. Both may import what they need; the module
itself imports little, so that `--help` is fast. `examples` has the examples that its help shows.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Final

from forwarder import __version__
from forwarder.cli import EXIT_CONFIGURATION, EXIT_NO, EXIT_USAGE
from forwarder.cli.options import ignore_useless_key_log, tls_fault
from forwarder.cli.parsers import Parser
from forwarder.host.signals import Signals

PROGRAM: Final = "growlytics-forwarder"
GROUPS: Final[Mapping[str, Mapping[str, str]]] = {
    "Run": {
        "run": "run the daemon in the foreground",
        "check-config": "report every configuration error at once, and what this machine lacks",
        "config": "write a file of settings to start from",
        "healthcheck": "exit 0 if the daemon is alive",
    },
    "Look": {
        "status": "show how a running daemon is, what is wrong and what to do",
        "top": "watch a running daemon in the terminal",
        "diagnose": "find out why nothing arrives at Growlytics, without sending an event",
        "bundle": "put all that helps to find a fault into one archive, without payloads",
        "tap": "watch events as they pass through a running daemon",
    },
    "Act": {
        "dead-letters": "list, show, replay, export, purge or bury dead letters of a running daemon",
        "erase": "remove all events of one customer from a running daemon",
        "attribute-types": "list, forget, export or import attribute types of a running daemon",
    },
    "Events": {
        "send": "send one event to a running daemon",
        "load": "send a file of events to a running daemon",
        "lint": "check a file of events against the contract, without a daemon",
    },
    "Try": {
        "demo": "show the whole system on this machine, without an account",
        "sandbox": "run a local stand-in for Growlytics",
    },
    "Shell": {
        "completion": "print a script that completes this command in a shell",
    },
}
"""The commands, as `--help` shows them."""
COMMANDS: Final[Mapping[str, str]] = {name: summary for group in GROUPS.values() for name, summary in group.items()}


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(_versions())
        parser.exit()


def _versions() -> str:
    import sqlite3
    from importlib.metadata import PackageNotFoundError, version

    try:
        loop = f"uvloop {version('uvloop')}"
    except PackageNotFoundError:
        loop = "asyncio"
    python = ".".join(map(str, sys.version_info[:3]))
    return (
        f"{PROGRAM} {__version__} (Python {python}, aiohttp {version('aiohttp')}, "
        f"SQLite {sqlite3.sqlite_version}, event loop {loop})"
    )


def run(arguments: Sequence[str], *, signals: Signals) -> int:
    """Run one command with the given arguments and return its exit code. Raises SystemExit as argparse does."""
    try:
        return _run(arguments, signals)
    except OSError:
        if why := tls_fault():  # OpenSSL is broken, so that the import of a library fails
            print(why, file=sys.stderr)
            return EXIT_CONFIGURATION
        raise


def _run(arguments: Sequence[str], signals: Signals) -> int:
    warnings = list(ignore_useless_key_log(os.environ))  # first: it can make the import of a command's module fail
    # Imports take time, and only the arguments of the chosen command are needed.
    is_help = not {"-h", "--help"}.isdisjoint(arguments)
    parser = parser_of([name for name in COMMANDS if name in arguments], with_examples=is_help)
    if not arguments:
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    args, rest = parser.parse_known_args(arguments, argparse.Namespace(signals=signals, warnings=warnings))
    if rest:
        args.parser.unexpected(rest)
    if args.command != "run":  # it tells them in its own way
        for warning in warnings:
            print(f"{PROGRAM}: warning: {warning}", file=sys.stderr)
    try:
        signals.give_interrupt_back()
        code: int = args.run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_NO
    return code


def parser_of(complete: Sequence[str], *, with_examples: bool = True) -> Parser:
    """Return the parser of the command line, in which the commands of `complete` have their arguments."""
    parser = Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [-h] [--version] COMMAND ...",
        description="Accepts analytics events at once, and forwards them to Growlytics.",
        epilog="\n".join(_overview()),
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="show its version, and the versions of what it runs on"
    )
    # Hidden, as argparse cannot show groups of commands: the epilog does.
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, prog=PROGRAM, help=argparse.SUPPRESS
    )
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name in complete:
            module = import_module(f"forwarder.cli.{name.replace('-', '_')}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
            if with_examples:
                _add_examples(name, command)
    return parser


def _overview() -> Iterator[str]:
    width = max(map(len, COMMANDS))
    for group, commands in GROUPS.items():
        yield f"{group}:"
        for name, summary in commands.items():
            yield f"  {name:<{width}}  {summary}"
        yield ""
    yield "Examples:"
    yield f"  {PROGRAM} demo                      # the whole system, without an account"
    yield f"  GROWLYTICS_API_KEY=... {PROGRAM} run"
    yield ""
    yield f"`{PROGRAM} COMMAND --help` tells the rest."


def _add_examples(name: str, parser: argparse.ArgumentParser) -> None:
    """Add its examples to the help of a command, and to those of its actions."""
    from forwarder.cli.examples import EXAMPLES
    from forwarder.cli.parsers import arguments_of, sub_parsers

    if name in EXAMPLES:
        examples = "\n".join(("examples:", *(f"  {each}" for each in EXAMPLES[name])))
        parser.epilog = f"{_wrapped(parser.epilog)}\n\n{examples}" if parser.epilog else examples
    for argument in arguments_of(parser):
        for action, its_parser in sub_parsers(argument).items():
            _add_examples(f"{name} {action}", its_parser)


def _wrapped(text: str) -> str:
    """Return a paragraph in lines that fit the terminal; argparse leaves all lines as they are, for the examples."""
    import shutil
    import textwrap

    return textwrap.fill(text, max(shutil.get_terminal_size().columns - 2, 11))
