"""systemd's journal itself, in a namespace of its own: what it makes of the lines that a process writes to it."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.tools import needs

JOURNALD = Path("/lib/systemd/systemd-journald")
SECONDS = 30


class Journal:
    """A running journal."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._directory = Path(f"/run/systemd/journal.{namespace}")

    def stream(self) -> socket.socket:
        """Return a stream as systemd gives a service: its priority is that of information unless a line says another."""
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.connect(str(self._directory / "stdout"))
        stream.sendall(
            b"forwarder\n\n6\n1\n0\n0\n0\n"
        )  # identifier, unit, priority, priorities in lines, forward to: none
        return stream

    def is_up(self) -> bool:
        return (self._directory / "stdout").exists()

    def entries(self, count: int) -> list[Mapping[str, str]]:
        """Return what came over streams, when there are so many."""
        deadline = time.monotonic() + SECONDS
        while True:
            command = ["journalctl", f"--namespace={self._namespace}", "-o", "json", "--no-pager", "_TRANSPORT=stdout"]
            done = subprocess.run(command, capture_output=True, check=False)
            found = [json.loads(line) for line in done.stdout.splitlines()]
            if len(found) >= count or time.monotonic() > deadline:
                return found


@contextmanager
def running_journal() -> Iterator[Journal]:
    """Run a journal while the block runs. Skip the test where that is not possible."""
    needs("journalctl")
    if os.geteuid() != 0 or not JOURNALD.exists():
        pytest.skip("only root can run a journal")
    namespace = f"growlytics-test-{os.getpid()}"
    process = subprocess.Popen([JOURNALD, namespace], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = Journal(namespace)
    try:
        deadline = time.monotonic() + SECONDS
        while not journal.is_up() and process.poll() is None and time.monotonic() < deadline:
            os.sched_yield()
        if not journal.is_up():
            pytest.skip("the journal does not start here")
        yield journal
    finally:
        process.terminate()
        process.wait(SECONDS)
        for kept in (
            Path(f"/run/systemd/journal.{namespace}"),
            *Path("/var/log/journal").glob(f"*.{namespace}"),
            *Path("/run/log/journal").glob(f"*.{namespace}"),
        ):
            shutil.rmtree(kept, ignore_errors=True)


def names(stream: socket.socket) -> dict[str, str]:
    """Return the variable by which systemd tells a service that its stream is the journal's."""
    found = os.fstat(stream.fileno())
    return {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
