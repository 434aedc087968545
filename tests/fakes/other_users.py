"""Processes of other users, which ask over a Unix socket. To become another user takes root; else a test is skipped."""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

NEEDS_ROOT: Final = pytest.mark.skipif(os.geteuid() != 0, reason="to become another user takes root")

_ASK: Final = """
import json, os, socket, sys
path, user, group, groups, requests = json.loads(sys.argv[1])
os.setgroups(groups)
os.setgid(group)
os.setuid(user)
for request in requests:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(request.encode())
        head, _, body = b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\\r\\n\\r\\n")
        print(int(head.split()[1]), body.decode().strip(), flush=True)
"""


@dataclass(frozen=True)
class User:
    """Who asks. The numbers need not be of anybody that the machine knows."""

    user: int = 54321
    group: int = 54322
    groups: Sequence[int] = ()
    """Supplementary ones."""

    async def ask(self, path: Path, *requests: tuple[str, str, str], token: str | None = None) -> list[tuple[int, str]]:
        """Send requests, each a method, a path and a body; return the status of each answer, and the code of its error."""
        return [(status, code) for status, code, _ in await self.ask_closely(path, *requests, token=token)]

    async def ask_closely(
        self, path: Path, *requests: tuple[str, str, str], token: str | None = None
    ) -> list[tuple[int, str, str]]:
        """The same, with the body of each answer."""
        shown = "" if token is None else f"x-growlytics-key: {token}\r\n"
        written = [
            f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"{shown}Content-Length: {len(body)}\r\n\r\n{body}"
            for method, target, body in requests
        ]
        asked = json.dumps([str(path), self.user, self.group, list(self.groups), written])
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-S", "-c", _ASK, asked, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(20):
            out, _ = await process.communicate()
        assert process.returncode == 0
        found = []
        for line in out.decode().splitlines():
            status, _, body = line.partition(" ")
            errors = json.loads(body).get("errors") or [{"code": ""}]
            found.append((int(status), errors[0]["code"], body))
        assert len(found) == len(requests)
        return found


@contextmanager
def not_root(*owned: Path) -> Iterator[None]:
    """Give files away to another user and be that user, if this process is root: nothing is forbidden to root."""
    if os.geteuid() != 0:
        yield
        return
    for path in owned:
        os.chown(path, 54321, 54322)
    os.seteuid(54321)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def open_directory() -> Iterator[Path]:
    """Make a directory that every user may enter, as pytest's own are not, and remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="forwarder-tests-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory
