"""Headless Chromium, driven over its DevTools protocol: what a page shows, and what the browser complains of."""

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.system.processes import until
from tests.system.tools import needs

START_SECONDS: Final = 45.0
"""How long a browser may take to start, on a busy machine."""
FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--disable-lcd-text",
)


class Page:
    """One tab. `complaints` is what the console and the policies had to say, and every exception."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.complaints: list[str] = []

    async def listen(self) -> None:
        async for message in self._socket:
            said = json.loads(message.data)
            if (waiting := self._answers.pop(said.get("id"), None)) is not None:
                waiting.set_result(said)
            elif said.get("method") == "Log.entryAdded" and said["params"]["entry"]["level"] in ("error", "warning"):
                self.complaints.append(said["params"]["entry"]["text"])
            elif said.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Audits.issueAdded"):
                self.complaints.append(json.dumps(said["params"]))

    async def call(self, method: str, **parameters: object) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(START_SECONDS):
            said = await answer
        assert "error" not in said, said
        result: dict[str, Any] = said["result"]
        return result

    async def go(self, url: str) -> None:
        answer = await self.call("Page.navigate", url=url)
        assert "errorText" not in answer, answer

    async def value(self, expression: str) -> Any:
        """Return what an expression of JavaScript comes to in the page; as JSON has it."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def text(self, selector: str = "body") -> str:
        """Return the text of an element as it is shown, in one line; empty if there is none, or it is hidden."""
        found = f"document.querySelector({json.dumps(selector)})"
        text: str = await self.value(f"{found}?.checkVisibility() ? {found}.innerText : ''")
        return " ".join(text.split())

    async def until_shown(self, text: str, selector: str = "body") -> str:
        """Wait until a text is shown, and return all that is with it."""

        async def shown() -> str:
            whole = await self.text(selector)
            return whole if text in whole else ""

        try:
            found: str = await until(shown, f"{text!r} is shown", seconds=20)
        except AssertionError as error:
            raise AssertionError(f"{error}; there is: {await self.text(selector)!r}, {self.complaints}") from None
        return found

    async def type(self, text: str) -> None:
        """Type a text where the focus is, and Enter."""
        await self.call("Input.insertText", text=text)
        await self.press("Enter", 13)

    async def press(self, key: str, code: int) -> None:
        """Press a key and let it go; `code` is its number in Windows."""
        text = "\r" if key == "Enter" else ""
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, text=text)

    async def resize(self, width: int, height: int) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    async def prefer(self, scheme: str) -> None:
        """Have the user prefer `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def picture(self) -> bytes:
        """Return the whole page as a PNG."""
        answer = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])


@asynccontextmanager
async def browsing(directory: Path, *flags: str) -> AsyncIterator[Page]:
    """Start a browser with a profile in `directory`, and yield its one tab."""
    profile = directory / "browser"
    process = await asyncio.create_subprocess_exec(
        needs("chromium"),
        *FLAGS,
        *flags,
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "about:blank",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        port_file = profile / "DevToolsActivePort"
        await until(lambda: port_file.exists() and port_file.read_text(), "it listens", seconds=START_SECONDS)
        port = port_file.read_text(encoding="ascii").split()[0]
        async with aiohttp.ClientSession() as http:

            async def tab() -> str:
                async with http.get(f"http://127.0.0.1:{port}/json/list") as response:
                    tabs = [each for each in await response.json() if each["type"] == "page"]
                return str(tabs[0]["webSocketDebuggerUrl"]) if tabs else ""

            async with http.ws_connect(await until(tab, "there is a tab"), max_msg_size=0) as socket:
                page = Page(socket)
                listening = asyncio.create_task(page.listen(), name="browser")
                for domain in ("Page", "Runtime", "Log", "Audits"):
                    await page.call(f"{domain}.enable")
                try:
                    yield page
                finally:
                    listening.cancel()
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
