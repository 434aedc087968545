"""A page in a real browser on the same machine, from another origin: nothing of it arrives, unless its origin is allowed.

Chromium runs headless, on pages that a server here serves; what a page found out it tells that server.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from tests.system.browser import FLAGS
from tests.system.processes import Daemon, running_daemon, running_sandbox, until
from tests.system.tools import needs

PAGE_SECONDS: Final = 45.0
"""How long a browser may take to start and to run a page, on a busy machine."""
EVENT: Final = {"name": "From A Page", "customerId": "c", "time": 1_700_000_000_000, "attributes": {}}

_PAGE: Final = """<!doctype html><title>a page</title><body><script>
const daemon = %(daemon)s, event = JSON.stringify(%(event)s);
const attempt = async (name, run) => {
  try { return [name, await run()]; } catch (error) { return [name, "failed: " + error.message]; }
};
const post = (options) => () => fetch(daemon + "/track/event", {method: "POST", body: event, ...options})
  .then(async (answer) => answer.type === "opaque" ? "opaque" : answer.status + " " + await answer.text());
const form = (type) => () => new Promise((done) => {
  const frame = document.createElement("iframe"), form = document.createElement("form");
  frame.name = type; form.target = type; form.method = "POST"; form.action = daemon + "/track/event"; form.enctype = type;
  const field = document.createElement("input");
  field.name = event.slice(0, -1) + ',"x":"'; field.value = '"}';
  form.append(field); document.body.append(frame, form);
  form.submit();
  frame.onload = () => done("answered");
  setTimeout(() => done("waited"), 2000);
});
(async () => {
  const found = Object.fromEntries([
    await attempt("json", post({headers: {"Content-Type": "application/json"}})),
    await attempt("json without credentials", post({headers: {"Content-Type": "application/json"}, credentials: "omit"})),
    await attempt("text", post({mode: "no-cors"})),
    await attempt("text with a type", post({mode: "no-cors", headers: {"Content-Type": "text/plain"}})),
    await attempt("no type", post({mode: "no-cors", body: new Blob([event])})),
    await attempt("beacon", () => navigator.sendBeacon(daemon + "/track/event", event)),
    await attempt("beacon without a type", () => navigator.sendBeacon(daemon + "/track/event", new Blob([event]))),
    await attempt("status", () => fetch(daemon + "/v1/status").then((answer) => answer.text())),
    await attempt("form", form("text/plain")),
    await attempt("form in parts", form("multipart/form-data")),
    await attempt("form in pairs", form("application/x-www-form-urlencoded")),
  ]);
  await fetch("/found", {method: "POST", body: JSON.stringify(found)});
})();
</script>"""


class Pages:
    """Serves one page, which tries to reach `daemon`, and hears what it found."""

    def __init__(self) -> None:
        self.daemon = ""
        self.port = 0
        self.found: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def page(self, request: web.Request) -> web.Response:  # noqa: ARG002 - a handler's shape
        values = {"daemon": json.dumps(self.daemon), "event": json.dumps(EVENT)}
        return web.Response(text=_PAGE % values, content_type="text/html")

    async def hear(self, request: web.Request) -> web.Response:
        if not self.found.done():
            self.found.set_result(json.loads(await request.text()))
        return web.Response(text="heard")


@asynccontextmanager
async def serving_pages() -> AsyncIterator[Pages]:
    pages = Pages()
    app = web.Application()
    app.add_routes([web.get("/", pages.page), web.post("/found", pages.hear)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    pages.port = runner.addresses[0][1]
    try:
        yield pages
    finally:
        await runner.cleanup()


async def visit(directory: Path, url: str, pages: Pages, *flags: str) -> dict[str, Any]:
    """Open a page in a browser of its own, and return what the page found."""
    chromium = needs("chromium")
    process = await asyncio.create_subprocess_exec(
        chromium,
        *FLAGS,
        *flags,
        f"--user-data-dir={directory / 'browser'}",
        url,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PAGE_SECONDS):
            return await asyncio.shield(pages.found)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def refused(daemon: Daemon, reason: str) -> float:
    return (await daemon.metrics())[f'growlytics_forwarder_events_rejected_total{{reason="{reason}"}}']


async def test_a_page_of_another_origin_can_post_nothing_however_it_tries(tmp_path: Path) -> None:
    async with (
        serving_pages() as pages,
        running_sandbox() as sandbox,
        running_daemon(tmp_path, sandbox.url) as daemon,
    ):
        pages.daemon = daemon.base
        found = await visit(tmp_path, f"http://localhost:{pages.port}/", pages)
        assert found["json"].startswith("failed"), "the preflight says no"
        assert found["status"].startswith("failed")
        ledger = await daemon.ledger()
        assert (ledger["accepted"], await sandbox.raw()) == (0, [])
        assert ledger["received"] == ledger["rejected"] >= 5, "the browser did try"
        assert await refused(daemon, "forbidden_origin") == ledger["rejected"]


async def test_a_page_of_an_allowed_origin_can_post_json_and_nothing_that_needs_no_leave(tmp_path: Path) -> None:
    async with serving_pages() as pages, running_sandbox() as sandbox:
        origin = f"http://localhost:{pages.port}"
        async with running_daemon(tmp_path, sandbox.url, intake__allowed_origins=origin) as daemon:
            pages.daemon = daemon.base
            found = await visit(tmp_path, f"{origin}/", pages)
            assert found["json"].startswith('200 {"success":true,"id":"')
            assert found["json without credentials"].startswith("200 ")
            assert json.loads(found["status"])["state"] == "ready"
            await until(daemon.drained, "what was posted is delivered")
            ledger = await daemon.ledger()
            assert ledger["accepted"] == 2
            assert [json.loads(raw) for raw in await sandbox.raw()] == [EVENT, EVENT]
            assert await refused(daemon, "unsupported_content_type") == ledger["rejected"] >= 5


async def test_a_name_that_a_page_has_lead_to_this_machine_does_not_help_it(tmp_path: Path) -> None:
    """DNS rebinding: the browser believes that the daemon is of the page's own site."""
    async with (
        serving_pages() as pages,
        running_sandbox() as sandbox,
        running_daemon(tmp_path, sandbox.url) as daemon,
    ):
        pages.daemon = f"http://rebound.example:{daemon.base.rpartition(':')[2]}"
        resolve = "--host-resolver-rules=MAP rebound.example 127.0.0.1"
        found = await visit(tmp_path, f"http://rebound.example:{pages.port}/", pages, resolve)
        assert found["status"].startswith("failed")
        ledger = await daemon.ledger()
        assert (ledger["accepted"], await sandbox.raw()) == (0, [])
        assert await refused(daemon, "forbidden_host") == ledger["rejected"] >= 5
