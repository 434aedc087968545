"""What commands share: the options that name a configuration, and loading it with every error on standard error."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from forwarder.cli import EXIT_CONFIGURATION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from forwarder.settings import Settings


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--config FILE` and the repeatable `--set section.key=value`."""
    parser.add_argument("--config", metavar="FILE", type=Path, help="the settings, as TOML")
    parser.add_argument(
        "--set",
        metavar="SECTION.KEY=VALUE",
        dest="overrides",
        action="append",
        default=[],
        help="one setting, over the file and the environment; may be repeated",
    )


def load_settings(args: argparse.Namespace, *, require_api_key: bool) -> "Settings":
    """Return the settings that the arguments and the environment give; warnings go to standard error.

    If there are errors, print them all there and exit with 78.
    """
    from forwarder.settings import SettingsError, load

    try:
        loaded = load(args.config, environ=os.environ, overrides=args.overrides, require_api_key=require_api_key)
    except SettingsError as error:
        _print_warnings(error.warnings)
        raise _refused([str(problem) for problem in error.problems]) from None
    _print_warnings((*loaded.warnings, *_environment_warnings(loaded.settings)))
    if require_api_key and loaded.settings.contract.types_file is not None:
        _check_types(loaded.settings.contract.types_file)
    return loaded.settings


def _environment_warnings(settings: "Settings") -> "Iterator[str]":
    """Yield what is odd about TLS; exit if it cannot be used at all, as the libraries do not even start then."""
    from forwarder.cli import tls

    yield from tls.key_log_warnings(os.environ)
    if fault := tls.fault():
        raise _refused([fault])
    if settings.growlytics.url.startswith("https:") and settings.growlytics.ca_file is None:
        yield from tls.certificate_warnings(os.environ)


def _check_types(path: str) -> None:
    from forwarder.attribute_types import types_file

    try:
        types_file.read(path)
    except types_file.TypesFileError as error:
        raise _refused([f"contract.types_file: {problem}" for problem in error.problems]) from None


def _refused(problems: list[str]) -> SystemExit:
    """Print all that is wrong; return what ends the command."""
    print(f"configuration: {len(problems)} problem{'' if len(problems) == 1 else 's'}:", file=sys.stderr)
    for problem in problems:
        print(f"  {problem}", file=sys.stderr)
    return SystemExit(EXIT_CONFIGURATION)


def _print_warnings(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        print(f"configuration: warning: {warning}", file=sys.stderr)
