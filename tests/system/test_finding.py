"""Commands find a running daemon without being told where it is, also as another user and beside other errors."""

import asyncio
import json
import socket
from pathlib import Path

import pytest

from forwarder.cli import main
from tests.fakes.other_users import NEEDS_ROOT, not_root, open_directory
from tests.system.processes import COMMAND, clean_environment, example_event, run_command, running_daemon

NOWHERE = "http://127.0.0.1:1/track/event"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.mark.parametrize("named_by", ["--config", "FORWARDER_CONFIG", "environment", "STATE_DIRECTORY", "--set"])
async def test_from_any_directory_the_control_socket_is_found_and_needs_no_token(named_by: str, tmp_path: Path) -> None:
    buffer = tmp_path / "buffer"
    config = tmp_path / "config.toml"
    config.write_text(
        f'[buffer]\ndirectory = "{buffer}"\n[growlytics]\napi_key_file = "/no/such/key"\n[delivery]\nno_such = 1\n'
    )
    arguments: list[str] = []
    environment = clean_environment()
    match named_by:
        case "--config":
            arguments = ["--config", str(config)]
        case "FORWARDER_CONFIG":
            environment["FORWARDER_CONFIG"] = str(config)
        case "environment":
            environment |= {"FORWARDER_BUFFER__DIRECTORY": str(buffer), "FORWARDER_LOG__LEVEL": "nonsense"}
        case "STATE_DIRECTORY":
            environment["STATE_DIRECTORY"] = str(buffer)
        case "--set":
            arguments = ["--set", f"buffer.directory={buffer}"]
    async with running_daemon(tmp_path, NOWHERE, intake__token="T", intake__unix_socket=""):
        code, out, err = await run_command(
            "dead-letters", "purge", "--all", *arguments, environment=environment, cwd=Path("/")
        )
    daemon = f"the daemon at the control socket {buffer}/control.sock"
    assert (code, out, err) == (0, f"Purged 0 events of {daemon} (0 refused, 0 already gone, 0 remaining).\n", "")


async def test_where_the_control_socket_is_dead_the_next_place_of_the_settings_is_used(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[control]\nsocket = "{tmp_path}/dead.sock"\n[intake]\nunix_socket = "{tmp_path}/intake.sock"\n')
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    async with running_daemon(tmp_path, NOWHERE, control__socket=""):
        code, out, err = await run_command("top", "--once", "--config", str(config))
    assert (code, err) == (0, "")
    assert "at the Unix socket" in out


async def test_the_token_comes_from_the_settings_that_were_given(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "token").write_text("T0K3N\n")
    config = tmp_path / "config.toml"
    config.write_text(
        f'[control]\nsocket = ""\n[intake]\nhttp = "0.0.0.0:{port}"\ntoken_file = "{tmp_path}/token"\n'
        '[growlytics]\napi_key_file = "/no/such/key"\n'
    )
    settings = {"intake__http": f"127.0.0.1:{port}", "intake__token": "T0K3N"}
    async with running_daemon(tmp_path, NOWHERE, **settings):
        code, out, err = await run_command("send", "--customer=c", "--name=n", "--config", str(config))
        assert (code, err) == (0, "")
        code, out, err = await run_command("dead-letters", "export", "--config", str(config))
    assert (code, out, err) == (0, "", "exported 0 events\n")


async def test_a_place_that_was_named_is_not_exchanged_for_another(tmp_path: Path) -> None:
    environment = clean_environment(FORWARDER_BUFFER__DIRECTORY=str(tmp_path / "buffer"))
    async with running_daemon(tmp_path, NOWHERE):
        missing = str(tmp_path / "no.sock")
        code, out, err = await run_command("top", "--once", "--unix-socket", missing, environment=environment)
        assert (code, out) == (1, "")
        assert err.startswith(f"no daemon can be reached at the Unix socket {missing}: No such file or directory; ")
        code, out, err = await run_command("top", "--once", "--config", missing, environment=environment)
        assert (code, out, err) == (78, "", f"{missing} cannot be read: No such file or directory\n")


CHANGES = [
    ("erase", "--customer=c", "--yes"),
    ("dead-letters", "purge", "--all"),
    ("dead-letters", "replay", "--all"),
    ("dead-letters", "bury", "1", "--yes"),
    ("attribute-types", "forget", "n"),
    ("attribute-types", "import", "types.toml"),
    ("send", "--customer=c", "--name=n"),
    ("load", "events.ndjson"),
]


@pytest.mark.parametrize("command", CHANGES, ids=lambda command: "-".join(command[:2]))
async def test_no_command_changes_another_daemon_than_the_one_that_the_environment_means(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    dead = tmp_path / "dead.toml"
    dead.write_text(f'[buffer]\ndirectory = "{tmp_path}/dead"\n[intake]\nhttp = "127.0.0.1:1"\n')
    (tmp_path / "types.toml").write_text('[n]\na = "string"\n')
    (tmp_path / "events.ndjson").write_text(json.dumps(example_event(1)))
    if command[0] != "load":  # which waits for the daemon
        environment = clean_environment(FORWARDER_CONFIG=str(dead))
        code, out, err = await run_command(*command, environment=environment, cwd=tmp_path)
        assert code == 1
        *_, control, tcp, others, fix = [line.strip() for line in err.splitlines() if "run it again" not in line]
        assert control == f"the control socket {tmp_path}/dead/control.sock: No such file or directory"
        assert tcp == "http://127.0.0.1:1: Connection refused"
        assert others.startswith("other places are not tried, as FORWARDER_CONFIG says which daemon is meant")
        assert "--config, --url or --unix-socket" in fix
    for named in (tmp_path / "no.toml", tmp_path):
        environment = clean_environment(FORWARDER_CONFIG=str(named))
        code, out, err = await run_command(*command, environment=environment, cwd=tmp_path)
        assert (code, out) == (78, "")
        assert err.startswith(f"FORWARDER_CONFIG: {named} cannot be read: ")


async def test_where_no_daemon_is_every_place_is_named_in_order_with_the_reason(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        f'[control]\nsocket = "{tmp_path}/c"\n[intake]\nunix_socket = "{tmp_path}/i"\nhttp = "127.0.0.1:1"\n'
    )
    code, out, err = await run_command("send", "--customer=c", "--name=n", "--config", str(config))
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "no daemon can be reached; tried, in this order:",
        f"  the control socket {tmp_path}/c: No such file or directory",
        f"  the Unix socket {tmp_path}/i: No such file or directory",
        "  http://127.0.0.1:1: Connection refused",
        "start it with `growlytics-forwarder run`, or say where it is with --config, --url or --unix-socket",
    ]


@NEEDS_ROOT
async def test_another_user_is_told_whose_control_socket_it_is_and_may_use_the_token(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FORWARDER_CONFIG", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    port = free_port()
    with open_directory() as directory:
        (directory / "key").write_text("k")
        (directory / "token").write_text("T0K3N")
        for name in ("key", "token"):
            (directory / name).chmod(0o600)
        config = directory / "config.toml"
        config.write_text(
            f'[buffer]\ndirectory = "{directory}/buffer"\n[growlytics]\napi_key_file = "{directory}/key"\n'
            f'[intake]\nhttp = "127.0.0.1:{port}"\ntoken_file = "{directory}/token"\n'
        )
        export = ["dead-letters", "export", "--config", str(config)]
        settings = {"intake__http": f"127.0.0.1:{port}", "intake__token": "T0K3N", "intake__unix_socket": ""}
        async with running_daemon(directory, NOWHERE, **settings):
            assert main(export) == 0, "root uses the control socket, and imports what another user may not"
            assert capsys.readouterr().err == "exported 0 events\n"
            with not_root():
                assert main(export) == 1
            fix = (
                f"run it with sudo, or as the daemon's user, to use the control socket {directory}/buffer/control.sock"
            )
            assert capsys.readouterr().err.splitlines()[0].endswith(fix)
            (directory / "token").chmod(0o644)
            with not_root():
                assert main(export) == 0
            assert capsys.readouterr().err == "exported 0 events\n"


async def test_load_waits_for_a_daemon_that_starts_later_and_looks_at_every_place_again(tmp_path: Path) -> None:
    (tmp_path / "events.ndjson").write_text("".join(json.dumps(example_event(number)) + "\n" for number in range(3)))
    settings = f"--set=buffer.directory={tmp_path}/buffer"  # the only place, as another daemon may be where daemons are
    loading = await asyncio.create_subprocess_exec(
        *(*COMMAND, "load", settings, "--set=intake.http=", str(tmp_path / "events.ndjson")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    try:
        assert loading.stderr is not None
        async with asyncio.timeout(60):
            first = await loading.stderr.readline()
            async with running_daemon(tmp_path, NOWHERE):
                out, _ = await loading.communicate()
    finally:
        if loading.returncode is None:
            loading.kill()
    assert b"/buffer/control.sock: No such file or directory; " in first
    assert b"sending lines 1 to 3 again in 0.2 s" in first
    assert (loading.returncode, out) == (0, b"read 3, accepted 3, refused 0\n")
