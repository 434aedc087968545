"""`completion`: prints a script for bash, zsh or fish that completes commands, actions, options, their values and files.

The scripts are made of the parsers, so they know what the commands know. A script knows a word by where it stands: its
*place* is the command and the action before it. `completion_scripts` writes them.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

from forwarder.cli import EXIT_OK

SHELLS: Final = ("bash", "zsh", "fish")

Kind = Literal["words", "files", "directories", "settings", "anything"]
_FILES: Final = re.compile(r"FILE|PATH")


class Value(NamedTuple):
    """What an option or a positional argument takes."""

    kind: Kind
    words: tuple[str, ...] = ()
    """The only words that it can be, if it is of the kind `words`."""


class Option(NamedTuple):
    """One option, such as `--reason`."""

    flag: str
    summary: str
    value: Value | None
    """None if it takes none."""


class Completions(NamedTuple):
    """What can stand after the command and the action so far."""

    path: tuple[str, ...]
    """Empty at the start, else the command, or the command and its action."""
    next: dict[str, str]
    """The commands or actions that may follow, with their summaries."""
    options: list[Option]
    argument: Value | None
    """What its positional arguments are; None if it has none, or if a command or action follows."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=f"one of {', '.join(SHELLS)}")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    from forwarder.cli import completion_scripts
    from forwarder.cli.commands import COMMANDS, PROGRAM, parser_of

    found = list(places(parser_of(list(COMMANDS), with_examples=False)))
    print(completion_scripts.WRITERS[args.shell](PROGRAM, found), end="")
    return EXIT_OK


def places(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[Completions]:
    """Yield every place in the command line, the start first."""
    from forwarder.cli.parsers import arguments_of, sub_parsers

    options, following, argument = [], {}, None
    below: list[tuple[str, argparse.ArgumentParser]] = []
    for action in arguments_of(parser):
        if (subs := sub_parsers(action)) != {}:
            following = {name: sub.description or "" for name, sub in subs.items()}
            below = list(subs.items())
        elif action.option_strings:
            takes_none = action.nargs == 0
            flag = max(action.option_strings, key=len)
            options.append(Option(flag, _one_line(action.help), None if takes_none else _value_of(action)))
        else:
            argument = argument or _value_of(action)
    yield Completions(path, {name: _one_line(text) for name, text in following.items()}, options, argument)
    for name, sub in below:
        yield from places(sub, (*path, name))


def _value_of(action: argparse.Action) -> Value:
    if action.choices:
        return Value("words", tuple(map(str, action.choices)))
    name = action.metavar if isinstance(action.metavar, str) else ""
    if name == "SECTION.KEY=VALUE":
        from forwarder.settings import reference

        return Value("settings", tuple(each.path for each in reference()))
    if name == "DIRECTORY":
        return Value("directories")
    return Value("files" if _FILES.search(name) else "anything")


def _one_line(text: str | None) -> str:
    """Return a help text without what argparse would replace, and without what would need quoting in a script."""
    return re.sub(r"[^\w .,;:()<>|/=*+-]", "", re.sub(r"\s+", " ", (text or "").replace("%%", "%")))


def flags(options: Sequence[Option]) -> list[str]:
    """Return the flags of options."""
    return [each.flag for each in options]
