"""The status page on the admin listener: on and off, in a real browser, and nobody's name on it."""

import json
import re
import signal
from pathlib import Path
from typing import Any, Final

from tests.system.browser import browsing
from tests.system.processes import Daemon, running_daemon, running_sandbox, until

NAMES: Final = (
    "Checkout Ümläut 購入",
    "<img src=x onerror=alert(1)>",
    'quote"back\\slash',
    "right\u202eleft",
    "4711",
    "delivered",
    "http",
)
"""Of events, customers and attributes."""
MARK: Final = "zebra"
"""Part of every name, so that no escaping hides it."""


def named(kind: str, name: str) -> str:
    return f"{kind}-{MARK}-{name}"


def event(name: str, value: object) -> dict[str, object]:
    return {
        "name": named("event", name),
        "customerId": named("customer", name),
        "time": 1_700_000_000_000,
        "attributes": {named("attribute", name): value},
    }


async def post(daemon: Daemon, *events: object) -> list[str]:
    """Post events and return the ids of those that were accepted."""
    async with daemon.http.post(f"{daemon.base}/v1/events?ids=true", json=events) as response:
        return [each for each in (await response.json())["ids"] if each]


async def asked(daemon: Daemon, path: str, *, method: str = "GET") -> tuple[int, str, str]:
    """Return status, content type and text of an answer of the admin listener."""
    async with daemon.http.request(method, f"{daemon.admin}{path}") as response:
        return response.status, response.headers["Content-Type"], await response.text()


async def test_the_shared_page_shows_the_daemon_and_names_no_event_customer_attribute_or_id(tmp_path: Path) -> None:
    async with (
        running_sandbox() as sandbox,
        running_daemon(tmp_path, sandbox.url, admin__page="true", delivery__breaker_failures=3) as daemon,
        browsing(tmp_path) as page,
    ):
        await page.go(f"{daemon.admin}/")
        await page.until_shown("status: the status page", "body")
        await page.go(await page.value("document.querySelector('a[href=status]').href"))
        await page.until_shown("No event has come yet.", "h1")

        ids = await post(daemon, *(event(name, value) for name in NAMES for value in (1, "one", True, ["refused"])))
        await until(daemon.drained, "they are delivered")
        await sandbox.faults(fail_rate=1, fail_status=422)
        ids += await post(daemon, *(event(name, 1) for name in NAMES[:3]))
        await until(daemon.drained, "they are dead letters")
        await page.until_shown("3 dead-lettered", "#ledger")
        await sandbox.faults(fail_rate=1, fail_status=403)
        ids += await post(daemon, *(event(name, 1) for name in NAMES))
        own = await until(lambda: status_with(daemon, "suspect", "auth"), "something is wrong")
        assert MARK in json.dumps(own), "the other page has the names"
        assert len(ids) == 3 * len(NAMES) + 3 + len(NAMES)

        code, content_type, text = await asked(daemon, "/status.json")
        assert (code, content_type) == (200, "application/json")
        await page.until_shown("403", "#problems")
        whole = await page.value("document.documentElement.outerHTML")
        for shown in (text, whole, await page.text()):
            assert MARK not in shown
            assert [each for each in ids if each in shown] == []
        shared = json.loads(text)
        assert {each["kind"] for each in shared["problems"]} >= {"dead_letters", "type_conflict", "refused"}
        assert shared["headline"]["state"] == own["headline"]["state"]
        assert shared["ledger"]["for_ever"]["received"] == own["ledger"]["for_ever"]["received"]
        for place in ("#refusals", "#letters", "#types"):
            assert "–" in await page.text(place), "what has no name is there"
        assert await page.value("document.querySelectorAll('form').length") == 1, "but for the token there is none"
        assert not await page.text("#receipt-section")
        links = await page.value("[...document.querySelectorAll('footer a')].map((link) => link.href)")
        assert links == [f"{daemon.admin}/metrics"]
        assert page.complaints == []


async def status_with(daemon: Daemon, *kinds: str) -> dict[str, Any] | None:
    status = await daemon.status()
    return status if {each["kind"] for each in status["problems"]} & set(kinds) else None


async def test_the_page_comes_and_goes_with_its_setting_and_changes_nothing_else(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[admin]\npage = false\n")
    settings = {"config": config, "shutdown__accept_seconds": 60}
    async with running_daemon(tmp_path, "http://127.0.0.1:9/track/event", **settings) as daemon:
        code, content_type, text = await asked(daemon, "/")
        assert (code, content_type) == (200, "text/html; charset=utf-8")
        assert re.findall('href="(\\w+)"', text) == ["metrics", "livez", "readyz"]
        assert [(await asked(daemon, path))[0] for path in ("/status", "/status.json")] == [404, 404]

        config.write_text("[admin]\npage = true\n")
        daemon.process.send_signal(signal.SIGHUP)
        await until(lambda: shows_page(daemon), "the page is there")
        for path in ("/", "/status", "/status.json"):
            code, content_type, text = await asked(daemon, path, method="HEAD")
            assert (code, text) == (200, "")
            assert content_type == (await asked(daemon, path))[1]
            assert (await asked(daemon, path, method="POST"))[0] == 405
        for path in ("/v1/status", "/v1/events/1", "/openapi.yaml"):
            assert (await asked(daemon, path))[0] == 404
        assert [(await asked(daemon, path))[0] for path in ("/metrics", "/livez", "/readyz", "/healthz")] == [200] * 4

        daemon.process.send_signal(signal.SIGTERM)
        await until(lambda: is_stopping(daemon), "the page says that the daemon stops")
        assert await shows_page(daemon)


async def is_stopping(daemon: Daemon) -> bool:
    status = json.loads((await asked(daemon, "/status.json"))[2])
    return bool(status["headline"]["state"] == "stopping")


async def shows_page(daemon: Daemon) -> bool:
    return (await asked(daemon, "/status"))[0] == 200
