"""The completion scripts, in the shells themselves: what a person sees after the Tab key."""

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from forwarder.cli import completion
from forwarder.cli.commands import COMMANDS, parser_of
from forwarder.settings import reference
from tests.fakes.commands import run
from tests.system.tools import needs

SECONDS = 30
PROMPT = "READY$ "
MARKER = "@@"
PLACES = list(completion.places(parser_of(list(COMMANDS), with_examples=False)))


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("scripts")
    for shell in completion.SHELLS:
        code, out, err = run("completion", shell)
        assert (code, err) == (0, "")
        (directory / shell).write_text(out)
    return directory


class Shell:
    """A shell in a terminal, in which the script is loaded.

    A marker is typed after the Tab key: when the shell shows it, it has done with the key.
    """

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._until(PROMPT)

    def completed(self, typed: str) -> str:
        """Type this and the Tab key; return the line as it then stands, without the prompt."""
        return self._typed(f"{typed}\t").rpartition(PROMPT)[2]

    def offered(self, typed: str) -> set[str]:
        """Type this and the Tab key twice; return the words that are offered."""
        return set(self._typed(f"{typed}\t\t").split())

    def _typed(self, keys: str) -> str:
        os.write(self._terminal, f"{keys}{MARKER}".encode())
        text = self._until(MARKER)
        # Ctrl-U throws the line away. It shows the prompt again, so a command tells when there is a new one.
        os.write(self._terminal, b"\x15echo E''ND\n")
        self._until(PROMPT, after="END")
        return text

    def _until(self, end: str, *, after: str = "") -> str:
        """Return what is shown before `end`, which comes after another text."""
        text = ""
        deadline = time.monotonic() + SECONDS
        while end not in (plain(text).partition(after)[2] if after else plain(text)):
            left = deadline - time.monotonic()
            assert select.select([self._terminal], [], [], max(left, 0))[0], f"no {end!r} in {text!r}"
            text += os.read(self._terminal, 65536).decode()
        return plain(text).partition(end)[0]


def plain(text: str) -> str:
    """Return what a terminal shows of a text, in which the cursor goes back only to write the same again."""
    shown: list[str] = []
    for character in re.sub(r"\x1b[\[(][?0-9;]*[A-Za-z]|\x1b[=>]|[\x07\r]", "", text):
        if character == "\b":
            del shown[-1:]  # what it goes back over may have been read before
        else:
            shown.append(character)
    return "".join(shown)


@contextmanager
def in_a_terminal(command: Sequence[str], directory: Path, **environment: str) -> Iterator[Shell]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 200, 400, 0, 0))
    process = subprocess.Popen(
        command,
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=directory, start_new_session=True,
        env={"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(directory), **environment},
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Shell(ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.fixture
def bash(scripts: Path, tmp_path: Path) -> Iterator[Shell]:
    (tmp_path / "events one.ndjson").touch()
    (tmp_path / ".rc").write_text(
        f"bind 'set enable-bracketed-paste off'\nbind 'set completion-query-items 0'\n. {scripts / 'bash'}\nPS1='{PROMPT}'\n"
    )
    with in_a_terminal([needs("bash"), "--rcfile", str(tmp_path / ".rc"), "-i"], tmp_path) as shell:
        yield shell


@pytest.mark.parametrize(
    ("typed", "line"),
    {
        "dead-le": "dead-letters ",
        "dead-letters pur": "dead-letters purge ",
        "dead-letters list --unix": "dead-letters list --unix-socket ",
        "dead-letters list --reason amb": "dead-letters list --reason ambiguous ",
        "dead-letters list --reason=amb": "dead-letters list --reason=ambiguous ",
        "dead-letters --help lis": "dead-letters --help list ",
        "lint eve": "lint events\\ one.ndjson ",
        "run --config eve": "run --config events\\ one.ndjson ",
        "run --config=eve": "run --config=events\\ one.ndjson ",
        "run --config dead-letters --se": "run --config dead-letters --set ",
        "run --set log.lev": "run --set log.level=",
        "completion z": "completion zsh ",
        "send --customer eve": "send --customer eve",
        "run nothing-like-it": "run nothing-like-it",
    }.items(),
)
def test_bash_completes(typed: str, line: str, bash: Shell) -> None:
    assert bash.completed(f"growlytics-forwarder {typed}") == f"growlytics-forwarder {line}"


def test_bash_offers_all_that_may_follow(bash: Shell) -> None:
    assert bash.offered("growlytics-forwarder ") >= {*COMMANDS}
    assert bash.offered("growlytics-forwarder dead-letters ") >= {"list", "show", "replay", "export", "purge"}
    offered = bash.offered("growlytics-forwarder dead-letters replay --")
    assert {"--id", "--all", "--dry-run", "--config"} <= offered
    assert "--limit" not in offered
    assert bash.offered("growlytics-forwarder run --set ") >= {f"{each.path}=" for each in reference()}


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_its_own_shell_can_read_a_script(shell: str, scripts: Path) -> None:
    done = subprocess.run([needs(shell), "-n", scripts / shell], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def fish(scripts: Path, typed: str, cwd: Path) -> set[str]:
    command = f"source {scripts / 'fish'}; complete -C (string collect -- $argv)"
    done = subprocess.run(
        [needs("fish"), "--no-config", "-c", command, f"growlytics-forwarder {typed}"],
        capture_output=True, check=True, cwd=cwd, env={"PATH": os.environ["PATH"], "HOME": str(cwd)},
    )  # fmt: skip
    assert done.stderr == b""
    return {line.partition("\t")[0] for line in done.stdout.decode().splitlines()}


@pytest.mark.parametrize(
    ("typed", "offered"),
    {
        "dead-le": {"dead-letters"},
        "dead-letters ": {"list", "show", "replay", "export", "purge"},
        "dead-letters list --unix": {"--unix-socket"},
        "dead-letters list --reason ": {"rejected", "expired", "ambiguous"},
        "dead-letters list --reason=amb": {"--reason=ambiguous"},
        "lint eve": {"events one.ndjson"},
        "run --config eve": {"events one.ndjson"},
        "run --config dead-letters --se": {"--set"},
        "run --set log.lev": {"log.level="},
        "completion z": {"zsh"},
        "send --customer eve": set(),
        "run ": set(),
    }.items(),
)
def test_fish_offers(typed: str, offered: set[str], scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "events one.ndjson").touch()
    found = fish(scripts, typed, tmp_path)
    assert found >= offered
    assert offered or not found


@pytest.fixture
def zsh(scripts: Path, tmp_path: Path) -> Iterator[Shell]:
    (tmp_path / "events one.ndjson").touch()
    (tmp_path / ".zshrc").write_text(
        f"unset zle_bracketed_paste\nautoload -U compinit; compinit -u -D\n. {scripts / 'zsh'}\nPS1='{PROMPT}'\n"
    )
    with in_a_terminal([needs("zsh"), "-i"], tmp_path, ZDOTDIR=str(tmp_path)) as shell:
        yield shell


@pytest.mark.parametrize(
    ("typed", "line"),
    {
        "dead-le": "dead-letters ",
        "dead-letters pur": "dead-letters purge ",
        "dead-letters list --unix": "dead-letters list --unix-socket ",
        "dead-letters list --reason amb": "dead-letters list --reason ambiguous ",
        "dead-letters list --reason=amb": "dead-letters list --reason=ambiguous ",
        "lint eve": "lint events\\ one.ndjson ",
        "run --config eve": "run --config events\\ one.ndjson ",
        "run --config dead-letters --se": "run --config dead-letters --set ",
        "run --set log.lev": "run --set log.level=",
        "completion z": "completion zsh ",
        "send --customer eve": "send --customer eve",
    }.items(),
)
def test_zsh_completes(typed: str, line: str, zsh: Shell) -> None:
    assert zsh.completed(f"growlytics-forwarder {typed}") == f"growlytics-forwarder {line}"


def test_zsh_finds_the_script_in_its_path_for_functions(scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    shutil.copy(scripts / "zsh", tmp_path / "functions" / "_growlytics-forwarder")
    (tmp_path / ".zshrc").write_text(
        f"unset zle_bracketed_paste\nfpath=({tmp_path}/functions $fpath)\n"
        f"autoload -U compinit; compinit -u -D\nPS1='{PROMPT}'\n"
    )
    with in_a_terminal([needs("zsh"), "-i"], tmp_path, ZDOTDIR=str(tmp_path)) as shell:
        for _ in range(2):  # the first time it is only loaded
            assert shell.completed("growlytics-forwarder dead-le") == "growlytics-forwarder dead-letters "


def test_every_place_option_and_choice_of_the_parsers_is_in_every_script(scripts: Path) -> None:
    assert len(PLACES) > 15
    for shell in completion.SHELLS:
        text = (scripts / shell).read_text()
        for place in PLACES:
            for option in place.options:
                assert (f"-l {option.flag[2:]}" if shell == "fish" else option.flag) in text
                assert all(word in text for word in option.value.words) if option.value else True
