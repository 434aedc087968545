"""A real Prometheus scrapes a real daemon, with the rules of `deploy/`: an outage fires the alert of it, and ends it."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.system.processes import Daemon, example_event, running_daemon, running_sandbox, until
from tests.system.promql import RULES, alerts, panel_targets
from tests.system.tools import needs


@dataclass
class Prometheus:
    """A running server."""

    http: aiohttp.ClientSession
    base: str

    async def ask(self, path: str, **parameters: str) -> Any:
        async with self.http.get(f"{self.base}/api/v1/{path}", params=parameters) as response:
            answer = await response.json()
        assert answer["status"] == "success", answer
        return answer["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        data = await self.ask("query", query=expression)
        result: list[dict[str, Any]] = data["result"]
        return result

    async def firing(self) -> dict[str, dict[str, Any]]:
        """Return what fires, by the alert's name."""
        found = (await self.ask("alerts"))["alerts"]
        return {each["labels"]["alertname"]: each for each in found if each["state"] == "firing"}

    async def has_scraped(self) -> bool:
        """Return whether rates are known, for which it takes two scrapes."""
        scrapes = await self.query("count_over_time(growlytics_forwarder_build_info[1m])")
        return bool(scrapes) and float(scrapes[0]["value"][1]) >= 3 and not await self.firing()


@asynccontextmanager
async def running_prometheus(directory: Path, daemon: Daemon) -> AsyncIterator[Prometheus]:
    """Run one that scrapes a daemon, with the rules as they are but for how long they wait and how far they look back."""
    directory.mkdir()  # noqa: ASYNC240 - at once
    rules = re.sub(r"(?m)^( +for:) \w+$", r"\1 1s", RULES.read_text(encoding="utf-8"))
    rules = re.sub(r"\[\d+m\]", "[5s]", rules)
    (directory / "rules.yml").write_text(rules, encoding="utf-8")
    settings = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [
            {"job_name": "growlytics-forwarder", "static_configs": [{"targets": [daemon.ready["admin"]]}]}
        ],
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = await asyncio.create_subprocess_exec(
        needs("prometheus"),
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    )
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
            prometheus = Prometheus(http, f"http://{address}")

            async def answers() -> bool:
                assert process.returncode is None, "it has ended"
                try:
                    async with http.get(f"{prometheus.base}/-/ready") as response:
                        return response.status == 200
                except aiohttp.ClientError:
                    return False

            await until(answers, "Prometheus is ready")
            yield prometheus
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_an_outage_fires_the_alert_of_it_and_nothing_else_and_its_end_resolves_it(tmp_path: Path) -> None:
    async with (
        running_sandbox() as sandbox,
        running_daemon(
            tmp_path,
            sandbox.url,
            delivery__breaker_failures=3,
            delivery__probe_max_seconds=1,
            delivery__retry_initial_seconds=0.1,
            delivery__retry_max_seconds=1,
        ) as daemon,
        running_prometheus(tmp_path / "prometheus", daemon) as prometheus,
    ):
        await until(prometheus.has_scraped, "it has scraped the daemon, and nothing fires")
        assert [each["value"][1] for each in await prometheus.query('up{job="growlytics-forwarder"}')] == ["1"]
        await sandbox.faults(down=True)
        body = json.dumps([example_event(number) for number in range(20)]).encode()
        async with daemon.http.post(f"{daemon.base}/v1/events", data=body) as response:
            assert response.status == 202
        expected = {"GrowlyticsForwarderHoldBreaker", "GrowlyticsForwarderAttemptsFailing"}

        async def both_fire() -> dict[str, dict[str, Any]]:
            firing = await prometheus.firing()
            return firing if expected <= set(firing) else {}

        firing = await until(both_fire, "the pause and its cause fire")
        assert set(firing) == expected
        assert firing["GrowlyticsForwarderAttemptsFailing"]["annotations"]["summary"] == (
            "Attempts to deliver fail: the answer is an error, or a page of something else"
        )
        alert = firing["GrowlyticsForwarderHoldBreaker"]
        assert alert["labels"] | {"cause": "breaker", "severity": "warning"} == alert["labels"]
        assert alert["annotations"]["description"].startswith(f"{daemon.ready['admin']} sends nothing but probes")

        await sandbox.faults(down=False)
        await until(daemon.drained, "all is delivered")

        async def nothing_fires() -> bool:
            return not await prometheus.firing()

        await until(nothing_fires, "it is resolved")

        async def all_is_seen() -> bool:
            delivered = await prometheus.query("growlytics_forwarder_events_delivered_total")
            return [each["value"][1] for each in delivered] == ["20"]

        await until(all_is_seen, "Prometheus has seen that all was delivered")
        fired = await prometheus.query('count by (alertname) (last_over_time(ALERTS{alertstate="firing"}[1m]))')
        # Until the first scrape there is no forwarder, and the rules wait for a second only.
        names = {each["metric"]["alertname"] for each in fired} - {"GrowlyticsForwarderAbsent"}
        assert names == expected


async def test_prometheus_takes_every_rule_and_the_dashboard_shows_something_in_every_panel(tmp_path: Path) -> None:
    async with (
        running_sandbox() as sandbox,
        running_daemon(tmp_path, sandbox.url) as daemon,
        running_prometheus(tmp_path / "prometheus", daemon) as prometheus,
    ):
        async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(1)) as response:
            assert response.status == 200
        await until(prometheus.has_scraped, "it has scraped the daemon")
        groups = (await prometheus.ask("rules"))["groups"]
        health = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
        assert health == {alert["alert"]: "ok" for alert in alerts()}
        for title, expression, _ in panel_targets():
            found = await prometheus.query(expression)
            filtered = "> 0" in expression or "< Inf" in expression
            assert found or filtered, (title, expression)
