"""SIGHUP: a file that changed is taken up while the daemon runs, what needs a restart is named, a bad file does no harm."""

import json
import os
import signal
from pathlib import Path
from typing import Any

from tests.system.processes import (
    COMMAND,
    Daemon,
    example_event,
    running_daemon,
    running_sandbox,
    starting_daemon,
    until,
)

NDJSON = {"Content-Type": "application/x-ndjson"}
RELOADS = 'growlytics_forwarder_config_reloads_total{result="%s"}'


async def settings_of(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = (await daemon.status())["settings"]
    return found


def read_again(daemon: Daemon, times: int) -> list[dict[str, Any]]:
    lines = [line for line in daemon.lines if line["message"].startswith("settings were read again")]
    return lines if len(lines) == times else []


async def test_a_hangup_takes_up_what_can_change_names_what_cannot_and_a_bad_file_changes_nothing(
    tmp_path: Path,
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[delivery]\nrate_limit_per_second = 0.001\n[log]\nlevel = "info"\n')
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url, config=config) as daemon:
        first = daemon.lines[0]
        assert first["message"] == "starting"
        assert first["delivery"]["rate_limit_per_second"] == 0.001
        assert first["growlytics"]["api_key"] == "********"
        body = "\n".join(json.dumps(example_event(number)) for number in range(20))
        async with daemon.http.post(f"{daemon.base}/v1/events", data=body, headers=NDJSON) as response:
            assert (await response.json())["accepted"] == 20
        await until(lambda: delivered(daemon, 1), "the first goes at once")

        config.write_text('[delivery]\nrate_limit_per_second = "fast"\nmax_concurency = 3\n')
        daemon.process.send_signal(signal.SIGHUP)
        line = (await until(lambda: read_again(daemon, 1), "it says so"))[-1]
        assert line["level"] == "error"
        assert [problem.partition(":")[0] for problem in line["problems"]] == [
            "delivery.rate_limit_per_second",
            "delivery.max_concurency",
        ]
        assert "did you mean delivery.max_concurrency?" in line["problems"][1]
        told = (await settings_of(daemon))["error"]
        assert told is not None
        assert "max_concurency" in told
        assert await delivered(daemon, 1)

        config.write_text("[delivery]\nrate_limit_per_second = 0\n[buffer]\nmax_events = 7\n")
        daemon.process.send_signal(signal.SIGHUP)
        line = (await until(lambda: read_again(daemon, 2), "it says so"))[-1]
        assert (line["level"], line["changed"]) == ("warning", ["delivery.rate_limit_per_second"])
        assert line["restart_needed"] == ["buffer.max_events"]
        await until(lambda: delivered(daemon, 20), "nothing limits the rest")
        found = await settings_of(daemon)
        assert (found["restart_needed"], found["error"]) == (["buffer.max_events"], None)

        config.write_text("[delivery]\nrate_limit_per_second = 0\n")
        daemon.process.send_signal(signal.SIGHUP)
        line = (await until(lambda: read_again(daemon, 3), "it says so"))[-1]
        assert (line["level"], line["changed"]) == ("info", [])
        metrics = await daemon.metrics()
        assert [metrics[RELOADS % result] for result in ("changed", "unchanged", "failed")] == [1, 1, 1]
        assert (await settings_of(daemon))["restart_needed"] == []
        assert await daemon.stop() == 0


async def test_a_file_that_cannot_be_read_to_its_end_does_not_keep_the_daemon_from_stopping(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("")
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url, config=config) as daemon:
        config.unlink()
        os.mkfifo(config)
        daemon.process.send_signal(signal.SIGHUP)
        writer = await until(lambda: writer_of(config), "it waits for what nobody writes")
        assert await daemon.stop() == 0
        os.close(writer)


async def test_a_limit_of_open_files_that_caps_connections_is_no_setting_that_changed(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("")
    limited = ["bash", "-c", 'ulimit -n 1500; exec "$@"', "bash", *COMMAND]
    async with (
        running_sandbox() as sandbox,
        starting_daemon(tmp_path, sandbox.url, limited, config=config) as daemon,
    ):
        assert await daemon.until_ready()
        assert daemon.lines[0]["message"] == "starting"
        capped = await until(lambda: [line for line in daemon.lines if "connections" in line], "it says so")
        assert capped[0]["connections"] < 1024
        config.write_text("[delivery]\nmax_concurrency = 200\n")
        daemon.process.send_signal(signal.SIGHUP)
        line = (await until(lambda: read_again(daemon, 1), "it says so"))[-1]
        assert (line["changed"], line.get("restart_needed")) == (["delivery.max_concurrency"], None)


def writer_of(pipe: Path) -> int | None:
    """Return a descriptor to write to a pipe by, once somebody reads it."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


async def delivered(daemon: Daemon, events: int) -> bool:
    return bool((await daemon.ledger())["delivered"] == events)
