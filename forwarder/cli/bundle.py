"""`bundle`: puts all that helps to find a fault into one archive: status, settings, metrics, log, stacks, diagnosis."""

import argparse
import os
import sys
from pathlib import Path
from typing import Final

from forwarder.cli import EXIT_NO, EXIT_OK
from forwarder.cli.clients import add_daemon_arguments
from forwarder.cli.diagnose import add_timeout_argument
from forwarder.cli.options import discard_output

_PARTS: Final = "process,versions,settings,metrics,tasks,threads,log"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "file", metavar="FILE", type=Path, help="the archive to write, such as bundle.tar.gz; - is standard output"
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    add_daemon_arguments(parser)
    add_timeout_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Write the archive and return 0, with or without a daemon; return 1 if it cannot be written."""
    from forwarder.cli.bundling import NotWrittenError, check_target, parts, send_archive, write_archive
    from forwarder.cli.checks import counted
    from forwarder.cli.diagnosis import ask_daemon, diagnose, read_settings
    from forwarder.settings import to_toml

    to_output = str(args.file) == "-"
    try:
        check_target(None if to_output else args.file, force=args.force)
        read = read_settings(args, os.environ, seconds=args.timeout)
        daemon = ask_daemon(args, os.environ, parts=_PARTS, seconds=args.timeout)
        print("checking, which may take a minute if nothing answers ...", file=sys.stderr)
        checked = list(diagnose(read, daemon, seconds=args.timeout))
        files = parts(daemon, checked, settings=to_toml(read.settings), versions=_versions, masking=read.masking)
        size = (
            send_archive(sys.stdout.buffer, files) if to_output else write_archive(args.file, files, force=args.force)
        )
    except NotWrittenError as error:
        print(error, file=sys.stderr)
        return EXIT_NO
    except BrokenPipeError:
        discard_output()
        return EXIT_NO
    if not daemon.status:
        print(f"without the daemon's part: {daemon.error}", file=sys.stderr)
    elif not daemon.debug:
        print(f"without the daemon's inside: {daemon.why_no_debug}", file=sys.stderr)
    told = sys.stderr if to_output else sys.stdout
    failed = sum(each.result == "fail" for each in checked)
    name = "bundle" if to_output else str(args.file)
    print(f"{name}: {counted(len(files), 'file')}, {size:,} bytes; {counted(failed, 'check')} failed", file=told)
    print("No payloads, customer ids or secrets are in it. Look into it all the same before you pass it on.", file=told)
    return EXIT_OK


def _versions() -> dict[str, object]:
    import sqlite3

    from forwarder.host.inspection import versions

    return versions(sqlite=sqlite3.sqlite_version)
