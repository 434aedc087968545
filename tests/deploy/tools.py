"""Running the tools, and where the project's files are."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.system.tools import needs

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"


def installed(name: str) -> str:
    """Return the path of a command that comes with a package of tests/deploy-requirements.txt."""
    path = Path(sys.prefix) / "bin" / name
    assert path.exists(), f"{name} is not installed: use make test-deploy"
    return str(path)


def from_npm(name: str) -> list[str]:
    """Return how to begin a command of node and a file out of node_modules."""
    node, _ = needs("node"), needs("npm")
    path = Path(sys.prefix) / "node/node_modules" / name
    assert path.exists(), f"{name} is not installed: use make test-deploy"
    return [node, str(path)]


def optional(name: str) -> str:
    """Return the path of a tool that no registry has: skip the test without it, in continuous integration too."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed, and no package has it")
    return path


def run(
    *command: str | Path,
    cwd: Path = ROOT,
    stdin: str | None = None,
    seconds: float = 120,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command,
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env=None if environment is None else {**os.environ, **environment},
    )


def output(*command: str | Path, cwd: Path = ROOT, stdin: str | None = None, seconds: float = 120) -> str:
    """Run a command that must succeed, and return what it wrote."""
    done = run(*command, cwd=cwd, stdin=stdin, seconds=seconds)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout
