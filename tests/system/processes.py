"""The installed command as processes: a sandbox and daemons, started, watched and ended by a test.

Nothing here imports the package: what is tested is what a user runs.
"""

import asyncio
import atexit
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

COMMAND = [sys.executable, "-m", "forwarder"]
KEY = "system-test-key"
START_SECONDS = 60.0


ANY_MACHINE = {
    "FORWARDER_INTAKE__HTTP": "127.0.0.1:0",
    "FORWARDER_ADMIN__HTTP": "127.0.0.1:0",
    "FORWARDER_BUFFER__DIRECTORY": "./growlytics-buffer-of-a-test",
}
"""Settings with which `check-config` finds nothing wrong with the machine that runs the tests."""


def clean_environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without the settings of whoever runs the tests. `PATH` has the installed command.

    Processes share the byte code of what they import, wherever that is installed: it halves the time that each takes to
    start, of which there are many.
    """
    ours = ("FORWARDER_", "GROWLYTICS_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return kept | {"PATH": path, "PYTHONPYCACHEPREFIX": _byte_code_directory().name} | extra


@functools.cache
def _byte_code_directory() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="forwarder-tests-")


async def until(condition: Callable[[], Any], what: str, *, seconds: float = 30.0) -> Any:
    """Wait for a condition (a function, perhaps a coroutine function) to be true, and return what it returned."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {seconds} s in vain until {what}"
        await asyncio.sleep(0.01)


@dataclass
class Sandbox:
    """A running sandbox."""

    process: "subprocess.Popen[bytes]"
    base: str
    http: aiohttp.ClientSession = field(init=False)
    was_slow: bool = False
    """Whether requests may still be under way when their clients are gone."""

    @property
    def url(self) -> str:
        return f"{self.base}/track/event"

    async def faults(self, **faults: object) -> None:
        self.was_slow |= not {"latency_ms", "jitter_ms", "hang_rate"}.isdisjoint(faults)
        async with self.http.patch(f"{self.base}/_sandbox/faults", json=faults) as response:
            assert response.status == 200, await response.text()

    async def forget_all(self) -> None:
        """Make it as it was when it started."""
        await self.use_key(KEY)
        for what in ("faults", "events"):
            async with self.http.delete(f"{self.base}/_sandbox/{what}") as response:
                assert response.status < 300, await response.text()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    async def use_key(self, key: str) -> None:
        """Take this key only from now on."""
        async with self.http.put(f"{self.base}/_sandbox/key", json={"key": key}) as response:
            assert response.status == 200, await response.text()

    async def counters(self) -> dict[str, Any]:
        async with self.http.get(f"{self.base}/_sandbox/counters") as response:
            counters: dict[str, Any] = await response.json()
            return counters

    async def raw(self) -> list[str]:
        """Return the bodies of all that it stored, as they came."""
        bodies: list[str] = []
        while True:
            async with self.http.get(f"{self.base}/_sandbox/raw?offset={len(bodies)}&limit=5000") as response:
                page = await response.json()
            bodies += page
            if not page:
                return bodies


@dataclass
class Daemon:
    """A running daemon and what it wrote so far."""

    process: asyncio.subprocess.Process
    http: aiohttp.ClientSession
    unix_socket: Path
    lines: list[dict[str, Any]] = field(default_factory=list)
    ready: Mapping[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> str:
        return f"http://{self.ready['http']}"

    @property
    def admin(self) -> str:
        return f"http://{self.ready['admin']}"

    async def status(self) -> dict[str, Any]:
        async with self.http.get(f"{self.base}/v1/status") as response:
            status: dict[str, Any] = await response.json()
            return status

    async def ledger(self) -> dict[str, Any]:
        ledger: dict[str, Any] = (await self.status())["ledger"]["since_start"]
        return ledger

    async def metrics(self) -> dict[str, float]:
        """Return one scrape: each series' name, labels included, and its value."""
        async with self.http.get(f"{self.admin}/metrics") as response:
            text = await response.text()
        rows = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {series: float(value) for series, _, value in rows}

    async def drained(self) -> bool:
        return not (await self.ledger())["buffered"]

    def rss_bytes(self) -> int:
        return self._memory_bytes("VmRSS")

    def peak_bytes(self) -> int:
        """Return the most resident memory since the start, or since `forget_peak`, as the kernel notes it."""
        return self._memory_bytes("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5", encoding="ascii")

    def _memory_bytes(self, name: str) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"the kernel does not tell {name}")

    def switches(self) -> int:
        """Return how often its threads have waited for something, as the kernel counts it."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        lines = (line for task in tasks for line in (task / "status").read_text(encoding="ascii").splitlines())
        return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))

    async def stop(self, number: int = signal.SIGTERM, *, seconds: float = 30.0) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        async with asyncio.timeout(seconds):
            return await self.process.wait()

    async def until_ready(self) -> bool:
        """Wait until it says so, or has ended; return whether it did say so."""

        def ready() -> list[dict[str, Any]]:
            return [line for line in self.lines if line["message"] == "ready"]

        await until(
            lambda: ready() or self.process.returncode is not None, "the daemon is ready", seconds=START_SECONDS
        )
        self.ready = next(iter(ready()), {})
        return bool(self.ready)

    async def read_log(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(json.loads(line))


@asynccontextmanager
async def running_sandbox(*arguments: str) -> AsyncIterator[Sandbox]:
    """Run a sandbox. One without arguments that was not slow serves the next test too, empty, as to start one takes long."""
    reused = bool(not arguments and _idle_sandboxes)
    sandbox = _idle_sandboxes.pop() if reused else await asyncio.to_thread(_start_sandbox, *arguments)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http:
        sandbox.http = http
        sandbox.was_slow = False
        try:
            yield sandbox
        except BaseException:
            sandbox.end()
            raise
        if arguments or sandbox.was_slow:
            sandbox.end()
        else:
            await sandbox.forget_all()
            _idle_sandboxes.append(sandbox)


_idle_sandboxes: list[Sandbox] = []


@atexit.register
def _end_sandboxes() -> None:
    while _idle_sandboxes:
        _idle_sandboxes.pop().end()


def _start_sandbox(*arguments: str) -> Sandbox:
    process = subprocess.Popen(  # no process of this test's event loop
        [*COMMAND, "sandbox", "--http", "127.0.0.1:0", "--key", KEY, *arguments],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=clean_environment(),
    )
    giving_up = threading.Timer(START_SECONDS, process.kill)
    giving_up.start()
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    giving_up.cancel()
    sandbox = Sandbox(process, line.rpartition(" on ")[2].split(" ")[0].strip().removesuffix("/track/event"))
    if not line.startswith("sandbox ready on http://"):
        sandbox.end()
        pytest.fail(f"the sandbox does not start: {line}")
    return sandbox


@asynccontextmanager
async def running_daemon(directory: Path, url: str, **settings: object) -> AsyncIterator[Daemon]:
    """Run a daemon that posts to `url`; settings are written `section__key=value`, and `config` names a file."""
    async with starting_daemon(directory, url, **settings) as daemon:
        assert await daemon.until_ready(), daemon.lines
        yield daemon


@asynccontextmanager
async def starting_daemon(
    directory: Path, url: str, command: Sequence[str] = COMMAND, /, **settings: object
) -> AsyncIterator[Daemon]:
    """Start a daemon as `running_daemon` does, and do not wait for it."""
    unix_socket = directory / "intake.sock"
    chosen = {
        "growlytics__url": url,
        "buffer__directory": directory / "buffer",
        "intake__http": "127.0.0.1:0",
        "intake__unix_socket": unix_socket,
        "admin__http": "127.0.0.1:0",
        "log__format": "json",
        **settings,
    }
    config = [f"--config={chosen.pop('config')}"] if "config" in chosen else []
    arguments = config + [f"--set={name.replace('__', '.')}={value}" for name, value in chosen.items()]
    async with (
        _process(
            "run", *arguments, command=command, key="" if "growlytics__api_key_file" in chosen else KEY
        ) as process,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http,
    ):
        daemon = Daemon(process, http, unix_socket)
        reading = asyncio.create_task(daemon.read_log(), name="daemon's log")
        try:
            yield daemon
            if process.returncode is not None:
                await reading
        finally:
            reading.cancel()


@asynccontextmanager
async def _process(
    *arguments: str, command: Sequence[str] = COMMAND, key: str = KEY
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *command,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env=clean_environment(**({"FORWARDER_GROWLYTICS__API_KEY": key} if key else {})),
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def run_command(
    *arguments: str, stdin: str | None = None, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> tuple[int, str, str]:
    """Run a command to its end and return exit code, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment() if environment is None else dict(environment),
        cwd=cwd,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate(None if stdin is None else stdin.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def example_event(number: int) -> dict[str, object]:
    """Return the documented example event, told from others by its product."""
    return {
        "name": "Add To Cart",
        "customerId": f"YOUR_APP_CUSTOMER_ID-{number % 500}",
        "time": 1700000000000 + number,
        "attributes": {
            "Product Id": f"number-{number}",
            "Product Name": "Orange BagPack",
            "Quantity": 3,
            "Price": 4531,
            "Discount": 0,
            "Brand": "Nike",
            "Category": "BagPack",
        },
    }
