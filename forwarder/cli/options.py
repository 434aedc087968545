"""What commands share: the options that name a configuration, and loading it with every error on standard error."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from forwarder.cli import EXIT_CONFIGURATION

if TYPE_CHECKING:
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
        count = len(error.problems)
        print(f"configuration: {count} problem{'' if count == 1 else 's'}:", file=sys.stderr)
        for problem in error.problems:
            print(f"  {problem}", file=sys.stderr)
        raise SystemExit(EXIT_CONFIGURATION) from None
    _print_warnings(loaded.warnings)
    return loaded.settings


def _print_warnings(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        print(f"configuration: warning: {warning}", file=sys.stderr)
