"""Standard output whose reader may leave before the end, as `head` does. Used by the commands."""

import os
import sys


def discard_output() -> None:
    """Throw away what is still to be written, after a BrokenPipeError; Python would complain about it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
