"""Tools that are not Python packages: skipped for a user who lacks one, but a failure in continuous integration."""

import os
import shutil
from typing import NoReturn

import pytest


def needs(tool: str) -> str:
    """Return the path of a tool, or skip the test; fail it where CI is set, as `.ci/run` installs every tool."""
    return shutil.which(tool) or lacks(tool)


def lacks(tool: str) -> NoReturn:
    """Skip the test, or fail it where CI is set."""
    message = f"{tool} is not installed"
    if os.environ.get("CI"):
        pytest.fail(f"{message}: .ci/run should have installed it")
    pytest.skip(message)
