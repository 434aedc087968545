"""The command line itself: what it says of a mistake, its help, its list of commands."""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence

import pytest

from forwarder.cli import main
from forwarder.cli.commands import COMMANDS, PROGRAM, parser_of
from forwarder.cli.completion import Completions, places
from forwarder.cli.examples import EXAMPLES
from tests.fakes.commands import COMMAND, environment, exit_code, run

PLACES = list(places(parser_of(list(COMMANDS), with_examples=False)))


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the last line of what it prints about wrong arguments."""
    assert exit_code(*arguments) == 64
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert not err.endswith("\n\n")
    return err.splitlines()[-1]


@pytest.mark.parametrize(
    ("typed", "meant"),
    {
        "deadletters": "dead-letters",
        "dead_letters": "dead-letters",
        "dead-leters": "dead-letters",
        "DEAD-LETTERS": "dead-letters",
        "chekc-config": "check-config",
        "checkconfig": "check-config",
        "validate": "check-config",
        "rnu": "run",
        "serve": "run",
        "flare-up": None,
        "help": "--help",
        "version": "--version",
        "logs": "bundle",
        "tail": "tap",
        "xyzzy": None,
    }.items(),
)
def test_a_command_that_does_not_exist_is_answered_with_the_one_that_was_meant(
    typed: str, meant: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    said = complaint(capsys, typed, "--anything")
    assert said.startswith(f"growlytics-forwarder: '{typed}' is not a command. ")
    if meant is None:
        assert said.endswith(f"Use one of: {', '.join(COMMANDS)}.")
    else:
        assert said.endswith(f"Did you mean {meant}?")


@pytest.mark.parametrize(
    ("arguments", "end"),
    {
        "dead-letters": "required: ACTION. Use one of: list, show, replay, export, purge, bury.",
        "dead-letters lst": "dead-letters: 'lst' is not an action of this command. Did you mean list?",
        "dead-letters retry --all": "dead-letters: 'retry' is not an action of this command. Did you mean replay?",
        "dead-letters list --unix-scoket /x": "list: there is no option --unix-scoket. Did you mean --unix-socket?",
        "dead-letters list --unixsocket=/x": "list: there is no option --unixsocket. Did you mean --unix-socket?",
        "dead-letters list --reason rejectd": "list: --reason cannot be 'rejectd'. Did you mean rejected?",
        "dead-letters list --reason zzz": "--reason cannot be 'zzz'. Use one of: rejected, expired, ambiguous.",
        "run --sett a=b": "run: there is no option --sett. Did you mean --set?",
        "run --qqq": "run: there is no option --qqq",
        "run now": "run: unexpected argument 'now'",
        "send --costumer 4 --name x": "--customer. Did you mean --customer instead of --costumer?",
        "--hepl": "COMMAND. Did you mean --help instead of --hepl?",
        "completion bahs": "SHELL cannot be 'bahs'. Did you mean bash?",
        "top --interval": "top: argument --interval: expected one argument",
    }.items(),
)
def test_an_action_an_option_and_a_value_that_do_not_exist_are_answered_so_too(
    arguments: str, end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complaint(capsys, *arguments.split()).endswith(end)


def test_no_value_of_an_option_that_was_meant_is_taken_for_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(capsys, "send", "--customer", "-4-x-y", "--unix-sock", "/x")
    assert "Did you mean" not in said


def test_without_a_command_the_whole_help_is_shown_as_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 64
    out, err = capsys.readouterr()
    assert out == ""
    assert all(f"\n  {name} " in err for name in COMMANDS)


def test_the_help_has_the_commands_in_groups_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--help") == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: growlytics-forwarder [-h] [--version] COMMAND ...\n")
    for heading in ("\nRun:\n  run ", "\nAct:\n  dead-letters ", "\nExamples:\n  growlytics-forwarder demo "):
        assert heading in out
    assert all(f"\n  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: " ".join(place.path) or "top level")
def test_every_command_and_action_has_help_with_examples_if_it_takes_anything(
    place: Completions, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*place.path, "--help") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: {' '.join((PROGRAM, *place.path))} ")
    assert place.path == () or ("examples:\n" in out) == (" ".join(place.path) in EXAMPLES)


def test_every_command_has_an_example() -> None:
    assert [name for name in COMMANDS if name not in EXAMPLES] == []


@pytest.mark.parametrize("example", [each for some in EXAMPLES.values() for each in some])
def test_an_example_is_what_its_command_takes(example: str) -> None:
    for command in example.partition(" > ")[0].split(" | "):
        name, *arguments = [word for word in shlex.split(command, comments=True) if "API_KEY=" not in word]
        if name == PROGRAM:
            args, rest = parser_of(arguments).parse_known_args(arguments)
            assert callable(args.run)
            assert rest == []


def test_every_summary_is_a_short_line_that_ends_without_a_full_stop() -> None:
    for name, summary in COMMANDS.items():
        assert len(f"  {name:<15}  {summary}") <= 100, name
        assert summary[0].islower(), name
        assert not summary.endswith("."), name


def test_an_exit_with_a_text_prints_it_on_a_line_of_its_own_and_is_an_error() -> None:
    program = (
        "import sys; sys.argv[1:] = ['lint', '-']; "
        "from forwarder.cli import lint, main; "
        "lint.run = lambda args: sys.exit('something is wrong'); sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment(), check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"something is wrong\n")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"], ["nonsense"]])
def test_help_and_mistakes_need_neither_asyncio_nor_the_settings(arguments: Sequence[str]) -> None:
    program = (
        "import atexit, sys; from forwarder.cli import main; "
        "atexit.register(lambda: print(sorted(sys.modules.keys() & {'aiohttp', 'asyncio', 'forwarder.settings', 'ssl'}))); "
        f"main({arguments!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment(), check=False)
    assert done.stdout.decode().splitlines()[-1] == "[]"


def test_the_parser_of_a_command_has_the_arguments_of_that_command_alone() -> None:
    parser = parser_of(["top"])
    assert parser.parse_known_args(["top", "--once"])[0].once
    with pytest.raises(SystemExit):
        parser.parse_args(["run", "--config", "x"])
    assert isinstance(parser, argparse.ArgumentParser)


def test_the_command_says_what_was_meant_when_it_is_run_as_a_process() -> None:
    code, out, err = run("deadletters", "list")
    assert (code, out) == (64, "")
    assert err.endswith("growlytics-forwarder: 'deadletters' is not a command. Did you mean dead-letters?\n")
    assert COMMAND[1:] == ("-m", "forwarder")
