"""Start and stop: what is refused at start, what a signal does, and which exit code says what."""

import asyncio
import json
import signal
import socket
import stat
import time
from pathlib import Path

import aiohttp
import pytest

from tests.system.processes import (
    KEY,
    Daemon,
    clean_environment,
    example_event,
    run_command,
    running_daemon,
    running_sandbox,
    starting_daemon,
    until,
)


async def post(daemon: Daemon, number: int) -> int:
    async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(number)) as response:
        await response.read()
        return response.status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_what_is_buffered_and_the_exit_is_clean(tmp_path: Path, number: int) -> None:
    async with (
        running_sandbox("--latency-ms", "50") as sandbox,
        running_daemon(tmp_path, sandbox.url, delivery__max_concurrency=4) as daemon,
    ):
        assert [await post(daemon, each) for each in range(100)] == [200] * 100
        assert await daemon.stop(number) == 0
        assert (await sandbox.counters())["stored"] == 100
        assert not daemon.unix_socket.exists()
    assert daemon.lines[-1]["delivered"] == 100


async def test_what_cannot_be_delivered_by_the_deadline_is_counted_as_lost_and_told_by_the_exit_code(
    tmp_path: Path,
) -> None:
    async with (
        running_sandbox() as sandbox,
        running_daemon(tmp_path, sandbox.url, buffer__kind="memory", shutdown__drain_seconds=1) as daemon,
    ):
        await sandbox.faults(hang_rate=1.0)
        for each in range(5):
            await post(daemon, each)
        assert await daemon.stop() == 75
    last = daemon.lines[-1]
    assert last["level"] == "error"
    assert (last["lost_events"], last["dropped"]["shutdown"], last["buffered"], last["unaccounted"]) == (5, 5, 0, 0)


async def test_draining_ends_at_once_when_nothing_can_move_before_the_deadline(tmp_path: Path) -> None:
    async with (
        running_sandbox("--fail-rate", "1", "--fail-status", "503") as sandbox,
        running_daemon(
            tmp_path,
            sandbox.url,
            buffer__kind="memory",
            shutdown__drain_seconds=50,
            delivery__retry_initial_seconds=3600,
            delivery__retry_max_seconds=86400,
        ) as daemon,
    ):
        # Full jitter may choose a short wait; a few events, most of which wait for more than the deadline, will do.
        for each in range(3):
            await post(daemon, each)
        await until(lambda: parked(daemon, 3), "all wait for their retry")
        assert await daemon.stop(seconds=45) == 75


async def parked(daemon: Daemon, count: int) -> bool:
    return bool((await daemon.status())["buffer"]["events"]["parked"] == count)


async def test_a_second_signal_forces_the_end(tmp_path: Path) -> None:
    async with (
        running_sandbox() as sandbox,
        running_daemon(tmp_path, sandbox.url, buffer__kind="memory", shutdown__drain_seconds=600) as daemon,
    ):
        await sandbox.faults(hang_rate=1.0)
        await post(daemon, 1)
        daemon.process.send_signal(signal.SIGTERM)
        await until(lambda: any("stopping" in line["message"] for line in daemon.lines), "it stops")
        assert daemon.process.returncode is None
        assert await daemon.stop(seconds=10) == 75


async def test_while_it_drains_it_is_alive_but_not_ready_and_takes_nothing(tmp_path: Path) -> None:
    async with (
        running_sandbox() as sandbox,
        running_daemon(tmp_path, sandbox.url, buffer__kind="memory", shutdown__drain_seconds=30) as daemon,
    ):
        await sandbox.faults(hang_rate=1.0)
        await post(daemon, 1)
        async with daemon.http.get(f"{daemon.admin}/readyz") as response:
            assert response.status == 200
        daemon.process.send_signal(signal.SIGTERM)

        async def not_ready() -> bool:
            async with daemon.http.get(f"{daemon.admin}/readyz") as response:
                return response.status == 503

        await until(not_ready, "it says that it is not ready")
        async with daemon.http.get(f"{daemon.admin}/livez") as response:
            assert response.status == 200

        async def refused() -> bool:
            try:
                return await post(daemon, 2) == 503
            except aiohttp.ClientError:
                return True

        await until(refused, "the intake is closed")
        assert (await daemon.metrics())["growlytics_forwarder_buffer_events" + '{state="in_flight"}'] == 1
        assert await daemon.stop(seconds=10) == 75


def stopping(daemon: Daemon) -> bool:
    return any(line["message"] == "stopping" for line in daemon.lines)


async def ready_status(daemon: Daemon) -> int:
    async with daemon.http.get(f"{daemon.admin}/readyz") as response:
        return response.status


async def test_for_accept_seconds_it_is_not_ready_but_still_accepts_and_then_delivers_all_of_it(tmp_path: Path) -> None:
    async with (
        running_sandbox("--latency-ms", "20") as sandbox,
        running_daemon(tmp_path, sandbox.url, shutdown__accept_seconds=1) as daemon,
    ):
        assert await post(daemon, 0) == 200
        assert await ready_status(daemon) == 200
        began = time.monotonic()
        daemon.process.send_signal(signal.SIGTERM)

        async def not_ready() -> bool:
            return await ready_status(daemon) == 503

        await until(not_ready, "it says that it is not ready")
        async with aiohttp.ClientSession() as http:  # so that the connection is new
            async with http.post(f"{daemon.base}/v1/events", json=[example_event(1)]) as response:
                assert response.status == 202
            async with http.get(f"{daemon.base}/v1/status") as response:
                assert (await response.json())["state"] == "stopping"
        async with daemon.http.get(f"{daemon.admin}/livez") as response:
            assert response.status == 200
        accepted = [0, 1]

        async def refused() -> bool:
            try:
                status = await post(daemon, len(accepted))
            except aiohttp.ClientError:
                return True
            if status == 200:
                accepted.append(len(accepted))
                assert await ready_status(daemon) == 503
            return status == 503

        await until(refused, "the intake is closed")
        assert time.monotonic() - began >= 1
        assert len(accepted) > 10
        async with asyncio.timeout(20):
            assert await daemon.process.wait() == 0
        stored = sorted(json.loads(body)["time"] - 1700000000000 for body in await sandbox.raw())
    assert stored == accepted, "whatever was accepted was delivered, and nothing else"
    last = daemon.lines[-1]
    assert (last["message"], last["level"], last["lost_events"]) == ("stopped", "info", 0)
    assert (last["accepted"], last["delivered"]) == (len(accepted), len(accepted))
    assert (last["dropped"]["shutdown"], last["buffered"], last["unaccounted"]) == (0, 0, 0)


async def test_a_second_signal_ends_the_time_in_which_it_still_accepts_and_what_it_accepted_is_kept(
    tmp_path: Path,
) -> None:
    async with (
        running_sandbox() as sandbox,
        running_daemon(tmp_path, sandbox.url, shutdown__accept_seconds=600, shutdown__drain_seconds=600) as daemon,
    ):
        await sandbox.faults(hang_rate=1.0)
        daemon.process.send_signal(signal.SIGTERM)
        await until(lambda: stopping(daemon), "it stops")
        for each in range(5):
            assert await post(daemon, each) == 200
        assert await daemon.stop(signal.SIGINT, seconds=10) == 0
    last = daemon.lines[-1]
    assert (last["message"], last["level"], last["lost_events"]) == ("stopped", "info", 0)
    assert (last["accepted"], last["buffered"], last["unaccounted"]) == (5, 5, 0)


async def test_growlytics_being_down_does_not_make_it_unready(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/track/event"
        async with running_daemon(tmp_path, url) as daemon:
            assert await post(daemon, 1) == 200
            await until(lambda: parked(daemon, 1), "the event waits for its retry")
            async with daemon.http.get(f"{daemon.admin}/readyz") as response:
                assert response.status == 200


async def test_the_unix_socket_has_its_mode_and_replaces_a_stale_one_but_not_a_live_one(tmp_path: Path) -> None:
    stale = tmp_path / "intake.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stale))
    async with running_daemon(tmp_path, "http://127.0.0.1:9/track/event", intake__unix_socket_mode="0600") as daemon:
        assert stat.S_IMODE(daemon.unix_socket.stat().st_mode) == 0o600
        code, _, error = await run_command(
            "run", "--set", f"intake.unix_socket={daemon.unix_socket}", "--set", "intake.http=", "--set", "admin.http=",
            "--set", f"buffer.directory={tmp_path / 'other'}",
            environment=clean_environment(FORWARDER_GROWLYTICS__API_KEY=KEY),
        )  # fmt: skip
        assert code == 69
        assert "intake.unix_socket" in error
        assert str(daemon.unix_socket) in error
        assert await post(daemon, 1) == 200, "the first one still serves"


async def test_an_address_in_use_is_named_and_the_exit_code_is_69(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, _, error = await run_command(
            "run", "--set", f"intake.http={address}", "--set", "admin.http=127.0.0.1:0",
            "--set", f"buffer.directory={tmp_path / 'other'}",
            environment=clean_environment(FORWARDER_GROWLYTICS__API_KEY=KEY),
        )  # fmt: skip
    assert code == 69
    assert f"intake.http: cannot listen on {address}" in error


async def test_every_configuration_error_is_reported_at_once_with_exit_code_78() -> None:
    code, out, error = await run_command("run", "--set", "delivery.max_concurency=5", "--set", "buffer.max_events=no")
    assert code == 78
    assert len(out.splitlines()) == 3
    assert "delivery.max_concurrency?" in error
    assert "buffer.max_events" in error
    assert "growlytics.api_key" in error


async def test_a_usage_error_exits_with_64_and_the_version_names_what_it_runs_on() -> None:
    assert (await run_command("run", "--nonsense"))[0] == 64
    assert (await run_command())[0] == 64
    code, out, _ = await run_command("--version")
    assert code == 0
    assert all(
        word in out for word in ("growlytics-forwarder 0.", "Python 3.", "aiohttp 3.", "SQLite 3.", "event loop")
    )


async def test_both_event_loops_carry_an_event(tmp_path: Path) -> None:
    for loop in ("asyncio", "uvloop"):
        async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url, loop=loop) as daemon:
            assert await post(daemon, 1) == 200
            await until(daemon.drained, "it is delivered")
            series = [each for each in await daemon.metrics() if "build_info" in each]
            assert f'loop="{loop}"' in series[0]
            assert await daemon.stop() == 0


async def test_the_key_and_the_events_values_never_reach_the_log_the_metrics_or_the_status(tmp_path: Path) -> None:
    secret = "c0ffee-secret"
    event = example_event(1) | {"customerId": f"{secret}-customer", "attributes": {"Card": f"{secret}-value"}}
    async with (
        running_sandbox() as sandbox,
        running_daemon(
            tmp_path,
            sandbox.url,
            log__level="debug",
            delivery__retry_initial_seconds=0.01,
            delivery__probe_initial_seconds=0.01,
            delivery__probe_max_seconds=0.02,
        ) as daemon,
    ):
        for share, status in ((0.0, 503), (1.0, 422), (1.0, 401), (1.0, 503), (1.0, 302)):
            await sandbox.faults(fail_rate=share, fail_status=status)
            before = (await sandbox.counters())["requests"]
            async with daemon.http.post(f"{daemon.base}/track/event", json=event) as response:
                assert response.status == 200

            async def tried(before: int = before) -> bool:
                return bool((await sandbox.counters())["requests"] > before)

            await until(tried, "it is tried")
        async with daemon.http.get(f"{daemon.admin}/metrics") as response:
            shown = await response.text()
        shown += json.dumps(await daemon.status())
        await sandbox.faults(fail_rate=0.0)
        await daemon.stop()
        await asyncio.sleep(0)
        shown += json.dumps(daemon.lines)
    assert secret not in shown
    assert KEY not in shown
    assert "Add To Cart" in shown, "names may appear, and tell what was refused"


async def test_a_token_is_demanded_over_tcp_alone_and_read_again_when_its_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old-token\n")
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url, intake__token_file=file) as daemon:

        async def post(**headers: str) -> int:
            async with daemon.http.post(
                f"{daemon.base}/track/event", json=example_event(1), headers=headers
            ) as response:
                return response.status

        assert await post() == 401
        assert await post(**{"x-growlytics-key": "old-token"}) == 200
        assert await post(Authorization="Bearer old-token") == 200
        connector = aiohttp.UnixConnector(str(daemon.unix_socket))
        async with (
            aiohttp.ClientSession(connector=connector) as unix,
            unix.post("http://localhost/track/event", json=example_event(2)) as response,
        ):
            assert response.status == 200, "the socket's mode guards it"
        (tmp_path / "next").write_text("new-token")
        (tmp_path / "next").replace(file)

        async def changed() -> bool:
            return await post(Authorization="Bearer new-token") == 200

        await until(changed, "the new token is in use")
        assert await post(Authorization="Bearer old-token") == 401
        log = json.dumps(daemon.lines)
        assert "old-token" not in log
        assert "new-token" not in log


async def test_an_address_that_others_can_reach_is_refused_without_a_token(tmp_path: Path) -> None:
    async with running_sandbox() as sandbox:
        async with starting_daemon(tmp_path, sandbox.url, intake__http="0.0.0.0:0") as daemon:
            assert not await daemon.until_ready()
            assert await daemon.process.wait() == 78
        async with running_daemon(tmp_path, sandbox.url, intake__http="0.0.0.0:0", intake__token="t") as daemon:
            assert daemon.ready
