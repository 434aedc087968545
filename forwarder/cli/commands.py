"""The list of commands. Each has a module of its own, imported only when the command runs.

The module of a command has `add_arguments(parser)` and `run(args) -> exit code`. Both may import what they need; the module
itself imports little, so that `--help` is fast.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NoReturn

from forwarder import __version__
from forwarder.cli import EXIT_CONFIGURATION, EXIT_NO, EXIT_USAGE
from forwarder.cli.options import ignore_useless_key_log, tls_fault
from forwarder.host.signals import Signals

COMMANDS: Final = {
    "run": "run the daemon in the foreground",
    "check-config": "report every configuration error at once",
    "demo": "show the whole system on this machine, without an account",
    "sandbox": "run a local stand-in for Growlytics",
    "send": "send one event to a running daemon",
    "load": "send a file of events, one a line, to a running daemon",
    "lint": "check a file of events against the contract, without a daemon",
    "dead-letters": "list, show, replay, export or purge dead letters of a running daemon",
    "attribute-types": "list, forget, export or import attribute types of a running daemon",
    "diagnose": "find out why nothing arrives at Growlytics, without sending an event",
    "bundle": "put all that helps to find a fault into one archive, without payloads",
    "top": "watch a running daemon in the terminal",
    "tap": "watch events as they pass through a running daemon",
    "healthcheck": "exit 0 if the daemon is alive",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")


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
        f"growlytics-forwarder {__version__} (Python {python}, aiohttp {version('aiohttp')}, "
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
    parser = _Parser(
        prog="growlytics-forwarder", description="Accepts analytics events at once, and forwards them to Growlytics."
    )
    for warning in ignore_useless_key_log(os.environ):  # first: it can make the import of a command's module fail
        print(f"{parser.prog}: warning: {warning}", file=sys.stderr)
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="show its version, and the versions of what it runs on"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        # Imports take time, and only the arguments of the chosen command are needed.
        if name in arguments:
            module = import_module(f"forwarder.cli.{name.replace('-', '_')}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    args = parser.parse_args(arguments, argparse.Namespace(signals=signals))
    try:
        signals.give_interrupt_back()
        code: int = args.run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_NO
    return code
