"""Standard descriptors that are missing, full or left by their reader: never a traceback, and never the daemon's end."""

import asyncio
import os
import signal
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest

from tests.system.processes import ANY_MACHINE, COMMAND, KEY, clean_environment, until

FAR_SIDE = "http://127.0.0.1:9/track/event"
MISSING = [closed for number in (1, 2, 3) for closed in combinations((0, 1, 2), number)]


async def shell(
    redirections: str, *arguments: str, output: int = asyncio.subprocess.PIPE
) -> asyncio.subprocess.Process:
    """Start a command with these redirections of a shell."""
    script = f'exec "$@" {redirections}'
    return await asyncio.create_subprocess_exec(
        "sh", "-c", script, "sh", *COMMAND, *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=asyncio.subprocess.PIPE,
        env=clean_environment(**ANY_MACHINE, FORWARDER_GROWLYTICS__API_KEY=KEY),
    )  # fmt: skip


async def run_daemon(
    directory: Path, redirections: str, loop: str = "auto", output: int = asyncio.subprocess.PIPE
) -> tuple[int | None, str, str]:
    """Run a daemon until it is ready; return exit code and what it wrote after it was stopped."""
    unix_socket = directory / "intake.sock"
    process = await shell(
        redirections, "run", f"--set=growlytics.url={FAR_SIDE}", f"--set=buffer.directory={directory / 'buffer'}",
        "--set=intake.http=", f"--set=intake.unix_socket={unix_socket}", "--set=admin.http=", f"--set=loop={loop}",
        output=output,
    )  # fmt: skip
    try:
        await until(lambda: unix_socket.exists() or process.returncode is not None, "it is ready")
        await asyncio.sleep(0.1)  # so that it also serves
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, (out or b"").decode(), err.decode()


@pytest.mark.parametrize(("loop", "missing"), [("uvloop", MISSING), ("asyncio", MISSING[-1:])])
async def test_a_daemon_without_some_of_its_standard_descriptors_runs_and_ends_well(
    tmp_path: Path, loop: str, missing: Sequence[Sequence[int]]
) -> None:
    async def run_without(closed: Sequence[int]) -> None:
        directory = tmp_path / "".join(map(str, closed))
        directory.mkdir()
        code, out, err = await run_daemon(directory, " ".join(f"{number}<&-" for number in closed), loop)
        assert (code, err) == (0, ""), closed
        assert (1 in closed) == (out == ""), closed
        # Nobody else got the number: what was printed is in no file.
        assert not any(b'"message"' in file.read_bytes() for file in directory.glob("buffer/*")), closed

    async with asyncio.TaskGroup() as tasks:
        for closed in missing:
            tasks.create_task(run_without(closed))


@pytest.mark.parametrize(
    "redirections", [">/dev/full", ">/dev/full 2>/dev/full", ">/dev/null 2>/dev/full", "1</dev/null"]
)
async def test_a_log_that_cannot_be_written_does_not_end_the_daemon(tmp_path: Path, redirections: str) -> None:
    assert await run_daemon(tmp_path, redirections) == (0, "", "")


async def test_a_log_whose_reader_has_left_does_not_end_the_daemon(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert await run_daemon(tmp_path, "2>&1", output=writing) == (0, "", "")
    finally:
        os.close(writing)


@pytest.mark.parametrize("redirections", ["0<&-", ">&-", "2>&-", "0<&- >&- 2>&-"])
@pytest.mark.parametrize("command", ["check-config", "--version", "--help", "run --nonsense"])
async def test_a_command_without_standard_descriptors_does_what_it_can(command: str, redirections: str) -> None:
    process = await shell(redirections, *command.split())
    out, err = (each.decode() for each in await process.communicate())
    assert process.returncode == (64 if "nonsense" in command else 0)
    assert "Traceback" not in out + err
    assert ("usage" in err) == ("nonsense" in command and "2>&-" not in redirections)
    assert ">&-" not in redirections.replace("2>&-", "") or not out


@pytest.mark.parametrize("command", ["check-config", "check-config --show", "--version", "--help"])
async def test_output_that_finds_no_room_is_an_error_in_one_line(command: str) -> None:
    process = await shell(">/dev/full", *command.split())
    _, err = await process.communicate()
    assert process.returncode == 1
    assert err.decode().splitlines()[-1] == "standard output cannot be written: No space left on device"
    assert b"Traceback" not in err


@pytest.mark.parametrize("command", ["check-config --show", "--version", "run --help"])
async def test_a_reader_of_the_output_that_left_before_is_no_traceback(command: str) -> None:
    process = await shell("| true", *command.split())
    _, err = await process.communicate()
    assert b"Traceback" not in err
    assert b"Broken" not in err


async def test_warnings_of_the_start_are_there_at_once_also_where_python_is_to_buffer_nothing(tmp_path: Path) -> None:
    """As in the image, which sets PYTHONUNBUFFERED."""
    errors = tmp_path / "errors"
    with errors.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "run", f"--set=growlytics.url={FAR_SIDE}", f"--set=buffer.directory={tmp_path / 'buffer'}",
            "--set=intake.http=", f"--set=intake.unix_socket={tmp_path / 'intake.sock'}", "--set=admin.http=",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=file,
            env=clean_environment(FORWARDER_GROWLYTICS__API_KEY=KEY, FORWARDER_LOG_LEVEL="info", PYTHONUNBUFFERED="1"),
        )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            assert await process.stdout.readline(), "nor does the log wait"
        # Another thread writes the log, so that may come first; what is buffered would come at the end only.
        await until(lambda: "FORWARDER_LOG__LEVEL" in errors.read_text(), "the warning is there while the daemon runs")
        assert process.returncode is None
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize(
    ("environment", "shown"),
    [({"PYTHONIOENCODING": "ascii"}, r"b\xfccher.invalid"), ({"PYTHONIOENCODING": "latin-1"}, "bücher.invalid")],
)
async def test_text_that_the_terminals_encoding_cannot_say_is_escaped(
    environment: dict[str, str], shown: str, tmp_path: Path
) -> None:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "lint", str(tmp_path / "bücher.invalid"),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=clean_environment(**environment),
    )  # fmt: skip
    out, _ = await process.communicate()
    assert b"Traceback" not in out
    assert shown in out.decode("latin-1")
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "check-config", "--show", f"--set=buffer.directory={tmp_path}/bücher.invalid",
        stdout=asyncio.subprocess.PIPE, env=clean_environment(FORWARDER_GROWLYTICS__API_KEY=KEY, **environment),
    )  # fmt: skip
    out, _ = await process.communicate()
    assert shown in out.decode("latin-1")
