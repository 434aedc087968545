"""What the status page tells people to set and to run is there; the daemon explains each cause and reason that it has."""

import argparse
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

import forwarder.intake
from forwarder.settings import reference
from forwarder.words import DROP_REASONS, HOLD_CAUSES

TEXTS = {
    file.name: file.read_text(encoding="utf-8")
    for file in (Path(next(iter(forwarder.intake.__path__))) / "page").iterdir()
}
EVERYTHING = "\n".join(TEXTS.values())
COMMANDS = sorted(set(re.findall(r"(?:`|<code>)(growlytics-forwarder [^`\\<]+)", EVERYTHING)))


def test_every_setting_that_it_names_exists() -> None:
    named = set(re.findall(r"(?:`|<code>)([a-z_]+\.[a-z_]+)", EVERYTHING))
    assert len(named) >= 18
    assert named <= {setting.path for setting in reference()}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_it_names_can_be_run_like_that(command: str) -> None:
    _, name, *arguments = shlex.split(command)
    parser = argparse.ArgumentParser(exit_on_error=False)
    import_module(f"forwarder.cli.{name.replace('-', '_')}").add_arguments(parser)
    parser.parse_args(arguments)


@pytest.mark.parametrize(("table", "its_words"), [("HOLDS", HOLD_CAUSES), ("DROPPED", DROP_REASONS)])
def test_every_cause_of_a_hold_and_every_reason_of_a_loss_has_its_advice(
    table: str, its_words: tuple[str, ...]
) -> None:
    (texts,) = re.findall(rf"(?ms)^const {table} = {{$(.*?)^}};$", TEXTS["advice.js"])
    assert sorted(re.findall(r"(?m)^  (\w+): ", texts)) == sorted(its_words)
