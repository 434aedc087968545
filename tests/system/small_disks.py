"""A disk of its own for a test, so small that it is soon full, or read-only: a tmpfs, which only root may mount."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest


@asynccontextmanager
async def small_disk(path: Path, *, mib: int, max_files: int = 0) -> AsyncIterator[Path]:
    """Mount a disk of that size; skip the test where that is not allowed, but in continuous integration fail it.

    There is room for `max_files`, the directory itself included, or for any number if that is 0.
    """
    path.mkdir()  # noqa: ASYNC240 - at once
    code, message = await _run("mount", "-t", "tmpfs", "-o", f"size={mib}m,nr_inodes={max_files}", "tmpfs", str(path))
    if code:
        what = f"a tmpfs cannot be mounted here: {message}"
        if os.environ.get("CI"):
            pytest.fail(f"{what}; .ci/run needs to be root, with CAP_SYS_ADMIN")
        pytest.skip(what)
    try:
        yield path
    finally:
        code, message = await _run("umount", "--lazy", str(path))
        assert code == 0, message


async def make_read_only(disk: Path) -> None:
    code, message = await _run("mount", "-o", "remount,ro", str(disk))
    assert code == 0, message


async def bind_read_only(file: Path) -> None:
    for options in (("--bind", str(file)), ("-o", "remount,ro,bind")):
        code, message = await _run("mount", *options, str(file))
        assert code == 0, message


async def make_larger(disk: Path, *, max_files: int) -> None:
    code, message = await _run("mount", "-o", f"remount,nr_inodes={max_files}", str(disk))
    assert code == 0, message


def free_bytes(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def fill(disk: Path) -> Path:
    """Take up all that is free, as another program's log would; return the file that does."""
    file = disk / "ballast"
    with file.open("ab") as ballast:
        while free := free_bytes(disk):
            os.posix_fallocate(ballast.fileno(), ballast.seek(0, os.SEEK_END), free)
            ballast.seek(0, os.SEEK_END)
    return file


async def _run(*command: str) -> tuple[int, str]:
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
    except FileNotFoundError as error:
        return 127, str(error)
    _, message = await process.communicate()
    assert process.returncode is not None
    return process.returncode, message.decode().strip()
