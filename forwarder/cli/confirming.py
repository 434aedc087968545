"""Asking a person before something is removed for good."""

import argparse
import sys


def add_confirm_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--yes`."""
    parser.add_argument("--yes", action="store_true", help="do not ask; needed where standard input is no terminal")


def demand_terminal(args: argparse.Namespace) -> None:
    """Exit with 64 unless `--yes` was given or a person can be asked."""
    if not args.yes and not (sys.stdin is not None and sys.stdin.isatty()):
        args.parser.error("standard input is no terminal, so nobody can be asked: add --yes to go on without asking")


def confirmed(args: argparse.Namespace, question: str) -> bool:
    """Return whether to go on: `--yes`, or a person says so. Without an answer it is a no."""
    if args.yes:
        return True
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        print(file=sys.stderr)
    if answer.strip().lower() in {"y", "yes"}:
        return True
    print("nothing was changed", file=sys.stderr)
    return False
