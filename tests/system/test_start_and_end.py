"""What `run` says at its start on a terminal, and why it ends: on standard error, in the log, in systemd's journal."""

import asyncio
import json
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.system.journal import names, running_journal
from tests.system.processes import COMMAND, KEY, clean_environment, run_command
from tests.system.terminals import in_a_terminal

FAR_SIDE = "--set=growlytics.url=http://127.0.0.1:9/track/event"
WITH_KEY = {"FORWARDER_GROWLYTICS__API_KEY": KEY}


def on_free_ports(directory: Path) -> list[str]:
    return [
        FAR_SIDE,
        f"--set=buffer.directory={directory / 'buffer'}",
        "--set=intake.http=127.0.0.1:0",
        "--set=admin.http=127.0.0.1:0",
    ]


# The start


async def test_on_a_terminal_it_first_says_where_to_post_and_look_with_the_ports_that_it_got(tmp_path: Path) -> None:
    async with in_a_terminal(
        [*COMMAND, "run", *on_free_ports(tmp_path)], columns=400, FORWARDER_GROWLYTICS__API_KEY=KEY
    ) as terminal:
        await terminal.until_it_wrote(" INFO    ready ")
        post, page, metrics, *rest = terminal.written.splitlines()
        ready = next(line for line in rest if " ready " in line)
        fields = dict(field.split("=", 1) for field in ready.split() if "=" in field)
        assert post == f"Post events to  http://{fields['http']}/track/event"
        assert page == f"Status page     http://{fields['http']}/"
        assert metrics == f"Metrics         http://{fields['admin']}/metrics"
        assert rest[0] == "Not the default:"
        assert '  growlytics.api_key = "********"' in rest
        assert '  intake.http = "127.0.0.1:0"' in rest
        assert rest.index("") < rest.index(ready)
        assert " INFO    starting " in rest[rest.index("") + 1]
        assert KEY not in terminal.written
        terminal.type("\x03")
        assert await terminal.until_it_ends() == 0


async def test_on_a_terminal_the_log_is_shown_too_if_it_cannot_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = [*on_free_ports(tmp_path), f"--set=intake.http={busy}"]
        async with in_a_terminal(
            [*COMMAND, "run", *arguments], columns=400, FORWARDER_GROWLYTICS__API_KEY=KEY
        ) as terminal:
            assert await terminal.until_it_ends() == 69
    starting, *_, last = terminal.written.splitlines()
    assert " INFO    starting " in starting
    assert last == (
        f"intake.http: cannot listen on {busy}: another process listens there (Address already in use); stop it, or "
        "choose another port"
    )
    assert terminal.written.count("cannot listen") == 1


async def test_on_a_terminal_a_first_run_says_how_to_give_the_key_and_nothing_before_it() -> None:
    async with in_a_terminal([*COMMAND, "run"], columns=400, FORWARDER_PORT="tcp://10.0.0.1:1") as terminal:
        assert await terminal.until_it_ends() == 78
    heading, missing, warning = terminal.written.splitlines()
    assert heading == "configuration: 1 problem:"
    assert missing.startswith("  growlytics.api_key: is missing; set GROWLYTICS_API_KEY to your project's key, or ")
    assert warning.startswith("configuration: warning: ")


async def test_whoever_wants_json_gets_nothing_else_also_on_a_terminal(tmp_path: Path) -> None:
    arguments = [*on_free_ports(tmp_path), "--set=log.format=json"]
    async with in_a_terminal(
        [*COMMAND, "run", *arguments], columns=4000, FORWARDER_GROWLYTICS__API_KEY=KEY
    ) as terminal:
        await terminal.until_it_wrote('"ready"')
        terminal.type("\x03")
        assert await terminal.until_it_ends() == 0
    lines = [line for line in terminal.written.splitlines() if line != "^C"]
    assert all(json.loads(line.removeprefix("^C")) for line in lines)


async def test_no_line_but_those_of_the_log_goes_into_a_pipe(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "run", *on_free_ports(tmp_path),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=clean_environment(**WITH_KEY),
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(30):
        while b'"ready"' not in (line := await process.stdout.readline()):
            assert json.loads(line)
        process.terminate()
        rest = await process.stdout.read()
    assert all(json.loads(line) for line in rest.splitlines())
    assert await process.wait() == 0


# The end


async def reasons(code: int, *arguments: str, **environment: str) -> tuple[list[Mapping[str, object]], str]:
    """Run the daemon, which must end with this code; return the errors of its log and what it printed for people."""
    found, out, error = await run_command("run", *arguments, environment=clean_environment(**environment))
    assert found == code, error
    lines = [json.loads(line) for line in out.splitlines()]
    return [line for line in lines if line["level"] == "error"], error


async def test_why_it_cannot_listen_is_an_error_of_the_log_in_the_same_words(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = [*on_free_ports(tmp_path), f"--set=admin.http={busy}"]
        (line,), error = await reasons(69, *arguments, **WITH_KEY)
    assert line["message"] == error.removesuffix("\n")
    assert error.startswith(f"admin.http: cannot listen on {busy}: another process listens there")
    assert line["exit_code"] == 69


async def test_each_problem_of_the_configuration_is_an_error_of_the_log() -> None:
    lines, error = await reasons(78, "--set=log.levle=debug", "--set=buffer.max_events=no")
    heading, *problems = error.splitlines()
    assert heading == "configuration: 3 problems:"
    assert [line["message"] for line in lines] == [problem.strip() for problem in problems]
    assert problems[0].startswith("  growlytics.api_key: is missing; set GROWLYTICS_API_KEY ")
    assert {line["exit_code"] for line in lines} == {78}


async def test_a_directory_that_cannot_be_used_and_types_that_cannot_be_read_are_errors_of_the_log(
    tmp_path: Path,
) -> None:
    (tmp_path / "buffer").touch()
    (line,), error = await reasons(78, *on_free_ports(tmp_path), **WITH_KEY)
    assert line["message"] == error.removesuffix("\n")
    assert str(line["message"]).startswith("buffer.directory: ")
    arguments = [*on_free_ports(tmp_path), f"--set=contract.types_file={tmp_path / 'none'}"]
    (line,), error = await reasons(78, *arguments, **WITH_KEY)
    assert str(line["message"]).startswith("contract.types_file: ")


async def test_a_bug_is_an_error_of_the_log_with_its_traceback(tmp_path: Path) -> None:
    program = (
        "import sys; from forwarder import process; from forwarder.cli import main; "
        "process.App = None; sys.exit(main(sys.argv[1:]))"
    )
    process = await asyncio.create_subprocess_exec(
        COMMAND[0], "-c", program, "run", *on_free_ports(tmp_path),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=clean_environment(**WITH_KEY),
    )  # fmt: skip
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    assert process.returncode == 70
    line = json.loads(out.splitlines()[-1])
    assert (line["level"], line["exit_code"]) == ("error", 70)
    assert line["message"] == "the daemon failed: a bug, please report it"
    assert "TypeError" in line["traceback"]


@pytest.mark.parametrize("log_format", ["json", "text"])
async def test_where_both_outputs_are_one_a_reason_is_told_once_and_as_a_line_of_the_log(log_format: str) -> None:
    with tempfile.TemporaryFile() as both:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "run", f"--set=log.format={log_format}",
            stdout=both, stderr=both,
            env=clean_environment(FORWARDER_PORT="tcp://10.0.0.1:1", SSLKEYLOGFILE="/nowhere/keys"),
        )  # fmt: skip
        async with asyncio.timeout(30):
            assert await process.wait() == 78
        both.seek(0)
        lines = both.read().decode().splitlines()
    if log_format == "json":
        assert [json.loads(line)["level"] for line in lines] == ["error", "warning", "warning"]
    else:
        assert [line.split()[1] for line in lines] == ["ERROR", "WARNING", "WARNING"]
        assert "growlytics.api_key: is missing; " in lines[0]
    assert "SSLKEYLOGFILE was ignored" in lines[1]


# systemd's journal


def run_in_a_journal(log_format: str, **environment: str) -> list[Mapping[str, str]]:
    with running_journal() as journal, journal.stream() as stream:
        done = subprocess.run(
            [*COMMAND, "run", f"--set=log.format={log_format}", "--set=log.level=debug"],
            stdout=stream.fileno(), stderr=stream.fileno(), check=False, timeout=60,
            env=clean_environment(FORWARDER_PORT="tcp://10.0.0.1:1", **names(stream)) | environment,
        )  # fmt: skip
        assert done.returncode == 78
        return journal.entries(2)


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_the_journal_gets_priorities_and_lines_without_them(log_format: str) -> None:
    missing, warning = run_in_a_journal(log_format)
    assert (missing["PRIORITY"], warning["PRIORITY"]) == ("3", "4")
    if log_format == "json":
        assert json.loads(missing["MESSAGE"])["level"] == "error"
        assert json.loads(warning["MESSAGE"])["level"] == "warning"
    else:
        assert " ERROR   growlytics.api_key: is missing; " in missing["MESSAGE"]
        assert not missing["MESSAGE"].startswith("<")


def test_a_stream_that_is_not_the_one_which_systemd_made_gets_none() -> None:
    (found,) = {each["PRIORITY"] for each in run_in_a_journal("json", JOURNAL_STREAM="1:2")}
    assert found == "6"


@pytest.mark.parametrize("variable", ["0:0", "", "nonsense"])
async def test_a_pipe_of_a_service_gets_no_priorities(variable: str) -> None:
    code, out, error = await run_command("run", environment=clean_environment(JOURNAL_STREAM=variable))
    assert code == 78
    assert all(json.loads(line) for line in out.splitlines())
    assert error.startswith("configuration: ")
    assert "<" not in error
