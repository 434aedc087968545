"""The parsers of the command line: what they say about a mistake, and what they tell about themselves.

A mistake is answered with what was probably meant. `argparse` has no public way to list a parser's arguments, so
`arguments_of` is the only place that reads its private list. Imported at the start of every command, so it imports little.
"""

import argparse
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

from forwarder.cli import EXIT_USAGE

_OTHER_WORDS: Final = {
    "serve": "run", "start": "run", "daemon": "run", "up": "run",
    "validate": "check-config", "check": "check-config", "verify": "check-config", "config-check": "check-config",
    "post": "send", "track": "send", "upload": "load", "health": "healthcheck", "ping": "healthcheck",
    "logs": "bundle", "log": "bundle", "tail": "tap", "follow": "tap", "version": "--version",
    "stats": "status", "info": "status", "doctor": "diagnose", "flare": "bundle", "dlq": "dead-letters",
    "types": "attribute-types", "forget-customer": "erase", "completions": "completion", "watch": "top",
    "ls": "list", "get": "show", "cat": "show", "view": "show", "retry": "replay", "resend": "replay", "requeue": "replay",
    "delete": "purge", "rm": "purge", "remove": "purge", "clear": "purge", "dump": "export", "new": "init",
    "help": "--help",
}  # fmt: skip
"""What other programs call it."""
_CHOICE: Final = re.compile(
    r"argument (?P<what>.+?): invalid choice: (?P<given>.+) \(choose from (?P<choices>.*)\)", re.DOTALL
)
"""What argparse says, by Python 3.11 and newer."""
_FLAG: Final = re.compile(r"(?<![\w-])--[a-z][\w-]*")
_KIND: Final = {"COMMAND": "a command", "ACTION": "an action of this command"}


class Parser(argparse.ArgumentParser):
    """Says what was probably meant. The chosen command's innermost parser is `parser` in the arguments."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options)
        self._given: Sequence[str] = ()
        self.set_defaults(parser=self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Remember the arguments, to explain an error, and parse as usual."""
        self._given = list(args or ())
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the usage, what is wrong and what was probably meant; exit with 64."""
        self.print_usage(sys.stderr)
        if wrong := _CHOICE.fullmatch(message):
            message = _not_a_choice(**wrong.groupdict())
        elif message.startswith("the following arguments are required"):
            hint = self._about_flags(self._given) or self._choices()
            message = f"{message}. {hint}" if hint else message
        self.exit(EXIT_USAGE, f"{self.prog}: {message}")

    def unexpected(self, rest: Sequence[str]) -> NoReturn:
        """Exit as `error` does, because nothing takes these arguments."""
        flags = [each for each in rest if each.startswith("-")]
        if not flags:
            self.error(f"unexpected argument {rest[0]!r}")
        unknown = flags[0].partition("=")[0]
        near = nearest(unknown, self._flags())
        self.error(f"there is no option {unknown}{f'. Did you mean {near}?' if near else ''}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Exit, with a message that ends with a newline, so that a shell's prompt begins on a line of its own."""
        super().exit(status, f"{message.rstrip()}\n" if message else None)

    def _about_flags(self, given: Sequence[str]) -> str:
        known = self._flags()
        typed = [each.partition("=")[0] for each in given if re.match(r"-[-\w]*[a-zA-Z]{2}", each)]
        unknown = [each for each in typed if not any(flag.startswith(each) for flag in known)]
        meant = ((each, nearest(each, known)) for each in unknown)
        return " ".join(f"Did you mean {near} instead of {each}?" for each, near in meant if near)

    def _choices(self) -> str:
        names = [name for each in arguments_of(self) for name in sub_parsers(each)]
        return f"Use one of: {', '.join(names)}." if names else ""

    def _flags(self) -> set[str]:
        return {*_FLAG.findall(self.format_usage()), "--help"}


def _not_a_choice(what: str, given: str, choices: str) -> str:
    """Return the message for a value that is none of a few words. `given` is quoted, as Python does it."""
    words = [each.strip("'\"") for each in choices.split(", ")]
    near = nearest(given.strip("'\""), words)
    hint = f"Did you mean {near}?" if near else f"Use one of: {', '.join(words)}."
    kind = _KIND.get(what)
    return f"{given} is not {kind}. {hint}" if kind else f"{what} cannot be {given}. {hint}"


def nearest(typed: str, words: Collection[str]) -> str:
    """Return which of the words was probably meant; empty if none is near."""
    import difflib

    flat = {_flat(each): each for each in words}
    other = _OTHER_WORDS.get(typed.lower(), "")
    if other == "--help" or other in words or (other == "--version" and "run" in words):
        return other
    # Sorted, so that of two that are equally near always the same is named.
    return next((flat[each] for each in difflib.get_close_matches(_flat(typed), sorted(flat), n=1, cutoff=0.65)), "")


def _flat(word: str) -> str:
    return re.sub("[^a-z0-9]", "", word.lower())


def arguments_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser that are not hidden; its sub-commands are one."""
    for each in parser._actions:  # noqa: SLF001 - there is no other way
        if each.help != argparse.SUPPRESS or sub_parsers(each):
            yield each


def sub_parsers(action: argparse.Action) -> Mapping[str, argparse.ArgumentParser]:
    """Return the parsers of an argument's sub-commands; none if it has none."""
    choices = action.choices
    return choices if isinstance(choices, dict) else {}
