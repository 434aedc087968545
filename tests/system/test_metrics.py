"""What Prometheus sees of a running daemon."""

import asyncio
from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.system.processes import example_event, running_daemon, running_sandbox, until
from tests.system.tools import needs


async def test_promtool_finds_nothing_wrong_with_the_metrics(tmp_path: Path) -> None:
    promtool = needs("promtool")
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url) as daemon:
        async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(1)) as response:
            assert response.status == 200
        await until(daemon.drained, "it is delivered")
        async with daemon.http.get(f"{daemon.admin}/metrics") as response:
            assert response.content_type == "text/plain"
            text = await response.read()
    process = await asyncio.create_subprocess_exec(
        promtool, "check", "metrics",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(30):
        out, _ = await process.communicate(text)
    assert (process.returncode, out.decode()) == (0, "")


async def test_open_metrics_is_given_to_whom_asks_for_it(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, "http://127.0.0.1:9/track/event") as daemon:
        headers = {"Accept": "application/openmetrics-text; version=1.0.0"}
        async with daemon.http.get(f"{daemon.admin}/metrics", headers=headers) as response:
            assert response.content_type == "application/openmetrics-text"
            text = await response.text()
    found = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]  # the library gives no types here
    families = {family.name for family in found}
    assert {"growlytics_forwarder_events_accepted", "process_resident_memory_bytes"} <= families


async def test_the_admin_listener_shows_nothing_else(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, "http://127.0.0.1:9/track/event") as daemon:
        for path in ("/", "/v1/status", "/v1/events", "/track/event"):
            async with daemon.http.post(f"{daemon.admin}{path}", data=b"{}") as response:
                assert response.status in (404, 405)
