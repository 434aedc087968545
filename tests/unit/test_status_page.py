"""What the status page itself tells people to set and to run is there; what the daemon advises is tested with that."""

import argparse
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

import forwarder.intake
from forwarder.settings import reference

TEXTS = {
    file.name: file.read_text(encoding="utf-8")
    for file in (Path(next(iter(forwarder.intake.__path__))) / "page").iterdir()
}
EVERYTHING = "\n".join(TEXTS.values())
COMMANDS = sorted(set(re.findall(r"(?:`|<code>)(growlytics-forwarder [^`\\<]+)", EVERYTHING)))


def test_every_setting_that_it_names_exists() -> None:
    named = set(re.findall(r"(?:`|<code>|\"code\" *}?, *\"|\{}, \")([a-z_]+\.[a-z_]+)", EVERYTHING))
    assert named >= {"intake.token", "intake.token_file", "receipts.max_events"}
    assert named <= {setting.path for setting in reference()}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_it_names_can_be_run_like_that(command: str) -> None:
    _, name, *arguments = shlex.split(command)
    parser = argparse.ArgumentParser(exit_on_error=False)
    import_module(f"forwarder.cli.{name.replace('-', '_')}").add_arguments(parser)
    parser.parse_args(arguments)
