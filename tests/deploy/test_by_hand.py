"""The README's "Try it" and "By hand", pasted into a shell in a copy of what is in git, with an empty environment."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.deploy.tools import optional, output
from tests.documents import ROOT, blocks

pytestmark = pytest.mark.timeout(400)


def block_with(words: str) -> str:
    (found,) = (block for block in blocks("README.md") if words in block)
    return found


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone would have, changes that are not committed among it; what was installed there stays for the next test."""
    tmp_path = tmp_path_factory.mktemp("clone")
    files = output(optional("git"), "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    for name in filter(None, files.split("\0")):
        if (ROOT / name).exists():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


_NOT_OURS = ("FORWARDER_", "GROWLYTICS_", "MAKE", "MFLAGS", "PYTHON")
"""Settings, and what a `make PYTHON=...` tells the ones that it starts."""


@contextmanager
def pasted(text: str, copy: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run a block until the end of the with block, which must stop what runs in its foreground."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)}
    with subprocess.Popen(
        ["/bin/sh", "-e", "-c", text],
        cwd=copy,
        env=ours | environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            yield shell
        finally:
            if shell.poll() is None:
                os.killpg(shell.pid, signal.SIGKILL)


def stop(shell: subprocess.Popen[str]) -> int:
    os.killpg(shell.pid, signal.SIGTERM)
    return shell.wait(30)


def lines_until(shell: subprocess.Popen[str], words: str) -> list[str]:
    assert shell.stdout is not None
    lines: list[str] = []
    for line in shell.stdout:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError(f"it ended without {words!r}: {lines}")


def test_try_it(copy: Path) -> None:
    """`make demo` installs what it needs, and ends by itself; what follows it stays up until it is stopped."""
    demo = block_with("make demo").splitlines()[0]
    with pasted(demo, copy) as shell:
        lines_until(shell, "It balances")
        assert shell.wait(60) == 0
    with pasted(block_with("demo --serve"), copy) as shell:
        lines_until(shell, "_sandbox/counters")
        assert stop(shell) in {0, -signal.SIGTERM}


def test_by_hand(copy: Path) -> None:
    curls = block_with("curl --json")
    with subprocess.Popen(
        [sys.executable, "-m", "forwarder", "sandbox", "--http", "127.0.0.1:0", "--key", "..."],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as sandbox:
        try:
            url = lines_until(sandbox, "sandbox ready on")[-1].split()[3]
            with pasted(block_with("python3 -m venv .venv"), copy, FORWARDER_GROWLYTICS__URL=url) as shell:
                lines_until(shell, '"message":"ready"')
                answers = subprocess.run(
                    ["/bin/sh", "-e", "-c", curls], capture_output=True, text=True, check=True, timeout=60
                ).stdout
                assert '"success":true' in answers
                assert '"unaccounted":0' in answers
                assert "growlytics_forwarder_events_accepted_total" in answers
                deadline = time.monotonic() + 30
                while True:
                    with urlopen("http://127.0.0.1:8920/v1/status", timeout=10) as response:
                        ledger = json.load(response)["ledger"]["since_start"]
                    if ledger["delivered"] == 1:
                        break
                    assert time.monotonic() < deadline, ledger
                assert (copy / "growlytics-buffer").is_dir()
                assert stop(shell) in {0, -signal.SIGTERM}, "the daemon's end, or the shell's"
        finally:
            sandbox.terminate()
