"""`check-config`: reports every configuration error at once, and what `run` needs of this machine.

systemd runs it before each start and each reload, so it disturbs no running daemon, and nothing that it does can be seen
afterwards.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from forwarder.cli import EXIT_CONFIGURATION, EXIT_OK
from forwarder.cli.options import add_config_arguments

if TYPE_CHECKING:
    from forwarder.cli.checks import Checked
    from forwarder.cli.needs import Finding
    from forwarder.settings import GrowlyticsSettings, Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config_arguments(parser)
    parser.add_argument("--show", action="store_true", help="print the effective settings as TOML, secrets masked")
    parser.add_argument(
        "--connect",
        action="store_true",
        help="also try the way to Growlytics: name, connection, proxy, TLS; no event and no key is sent",
    )
    parser.add_argument("--strict", action="store_true", help="treat warnings as errors: exit with 78")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")


class _Result(NamedTuple):
    """What is told."""

    errors: list[tuple[str, str]]
    """Setting and message."""
    warnings: list[tuple[str | None, str]]
    settings: "Settings | None"
    steps: list["Checked"]
    """Of the way to Growlytics."""
    process: int | None
    """The running daemon of this configuration."""


def run(args: argparse.Namespace) -> int:
    """Check the configuration as `run` would, and return 0, or 78 if there are problems."""
    result = _check(args)
    is_ok = not result.errors and not (args.strict and result.warnings)
    if args.json:
        print(json.dumps(_described(result, is_ok=is_ok, shows=args.show), indent=2))
    else:
        _tell(result, is_ok=is_ok, shows=args.show)
    return EXIT_OK if is_ok else EXIT_CONFIGURATION


def _check(args: argparse.Namespace) -> _Result:
    from forwarder.cli.configuration import Configuration

    read = Configuration.read(args)
    errors = [(each.path, each.message) for each in read.problems]
    warnings: list[tuple[str | None, str]] = [(None, each) for each in read.warnings]
    if read.settings is None:
        return _Result(errors, warnings, None, [], None)
    from forwarder.cli.needs import check_needs
    from forwarder.cli.own_daemon import own_daemon

    own = own_daemon(read.settings, os.environ)
    findings = [*check_needs(read.settings, os.environ, own)]
    steps = [*_connect(read.settings.growlytics)] if args.connect else []
    findings += _findings_of(steps, has_proxy=read.settings.growlytics.proxy is not None)
    errors += [(each.setting, each.message) for each in findings if each.is_problem]
    warnings += [(each.setting, each.message) for each in findings if not each.is_problem]
    return _Result(errors, warnings, read.settings, steps, own.process if own else None)


def _connect(growlytics: "GrowlyticsSettings") -> "Iterator[Checked]":
    from forwarder.cli.probing import probe_way

    return probe_way(growlytics, asks=False)


def _findings_of(steps: "list[Checked]", *, has_proxy: bool) -> "Iterator[Finding]":
    from forwarder.cli.needs import Finding

    for each in steps:
        if each.result in {"fail", "warn"}:
            # If there is a proxy, it is the one whose name is looked up, and to which a connection is made.
            is_proxy = has_proxy and each.check != "tls"
            setting = "growlytics.proxy" if is_proxy else "growlytics.url"
            text = f"{each.text}; {each.fix}" if each.fix else each.text
            yield Finding(setting, text, is_problem=each.result == "fail")


def _described(result: _Result, *, is_ok: bool, shows: bool) -> dict[str, object]:
    from forwarder.settings import shown

    described: dict[str, object] = {
        "ok": is_ok,
        "errors": [{"setting": setting, "message": message} for setting, message in result.errors],
        "warnings": [
            {"setting": setting or _first_setting(message), "message": message} for setting, message in result.warnings
        ],
        "process": result.process,
    }
    if result.steps:
        described["connect"] = [each.described() for each in result.steps]
    if shows and result.settings is not None:
        described["settings"] = shown(result.settings)
    return described


def _first_setting(warning: str) -> str | None:
    """Return the setting that a warning begins with; None if it is about something else."""
    from forwarder.settings import reference

    first = warning.split(maxsplit=1)[0].removesuffix(":")
    return first if first in {each.path for each in reference()} else None


def _tell(result: _Result, *, is_ok: bool, shows: bool) -> None:
    """Print for people. With --show, standard output is only TOML."""
    from forwarder.settings import to_toml

    output = sys.stderr if shows or not is_ok else sys.stdout
    for step in result.steps:
        for line in step.lines():
            print(line, file=output)
    if shows and result.settings is not None and not result.errors:
        print(to_toml(result.settings), end="")
    if result.errors:
        number = len(result.errors)
        _print_error(f"configuration: {number} problem{'' if number == 1 else 's'}:", logging.ERROR)
        for setting, message in result.errors:
            _print_error(f"  {setting}: {message}", logging.ERROR)
    for of, message in result.warnings:
        _print_error(f"configuration: warning: {f'{of}: ' if of else ''}{message}", logging.WARNING)
    if is_ok:
        running = f" (process {result.process} runs with it)" if result.process is not None else ""
        print(f"configuration ok{running}", file=output)
    elif not result.errors:
        _print_error("configuration: the warnings are errors, as --strict was given", logging.ERROR)


def _print_error(text: str, level: int) -> None:
    """Print on standard error; systemd's journal gets the priority."""
    from forwarder.observing.logs import is_journal, with_priority

    print(with_priority(text, level) if is_journal(sys.stderr, os.environ) else text, file=sys.stderr)
