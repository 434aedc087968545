"""Finds, in what people read, the texts that look like commands of ours, so that tests can tell that they are whole."""

import re
from typing import Final

from forwarder.cli.commands import COMMANDS, PROGRAM
from forwarder.words import FAILURE_KINDS

_ACTIONS: Final = frozenset({"bury", "export", "forget", "import", "purge", "replay"})
"""Of `dead-letters` and `attribute-types`; `list` and `show` are everyday words."""
_FIRST_WORDS: Final = frozenset({PROGRAM, *COMMANDS, *_ACTIONS})
_OTHER_THINGS: Final = frozenset({PROGRAM, *FAILURE_KINDS})
"""What stands alone in backticks and is no command: the name of a job, a kind of failure."""


def quoted_in(text: str) -> list[str]:
    """Return what stands in backticks and looks like a command of ours, or a part of one; each once, in its order."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    found = (" ".join(each.split()) for each in re.findall(r"`([^`]+)`", text))
    return list(dict.fromkeys(each for each in found if each not in _OTHER_THINGS and each.split()[0] in _FIRST_WORDS))


def is_whole(command: str) -> bool:
    """Return whether a command has the program's name, so that it can be typed."""
    return command.startswith(f"{PROGRAM} ")
