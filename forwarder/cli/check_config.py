"""`check-config`: reports every configuration error at once, or shows the effective settings."""

import argparse
import sys

from forwarder.cli.options import add_config_arguments, load_settings
from forwarder.settings import to_toml


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config_arguments(parser)
    parser.add_argument("--show", action="store_true", help="print the effective settings as TOML, secrets masked")


def run(args: argparse.Namespace) -> int:
    """Check the configuration as `run` would, and return 0; exit with 78 if there are problems."""
    settings = load_settings(args, require_api_key=True)
    if args.show:
        print(to_toml(settings), end="")
    # With --show, standard output is only TOML.
    print("configuration ok", file=sys.stderr if args.show else sys.stdout)
    return 0
