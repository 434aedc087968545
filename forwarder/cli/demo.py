"""`demo`: shows the whole system on this machine, without an account.

It starts a sandbox and a daemon as separate processes. It posts the documented example event many times, as an app would,
while the sandbox is down for a while, and shows where the events are. At the end the ledger must balance, and the sandbox
must have every event.
"""

import argparse
import asyncio
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from forwarder.cli import EXIT_NO, EXIT_OK

_KEY: Final = "demo-key"
_POSTS_PER_SECOND: Final = 500
_OUTAGE_FROM: Final = 0.4
"""The sandbox goes down after this share of the events, and comes back when all are posted."""
_DEADLINE_SECONDS: Final = 60
_START_SECONDS: Final = 20
_STOP_SECONDS: Final = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--events", type=_count, default=2000, metavar="N", help="how many events to post (2000)")
    parser.add_argument("--serve", action="store_true", help="keep running for trials by hand, and show how")


def run(args: argparse.Namespace) -> int:
    """Run the demo to its end, or with --serve until interrupted."""
    try:
        return asyncio.run(_demo(args.events, serve=args.serve))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return EXIT_NO
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return EXIT_NO


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


@dataclass
class _System:
    """The running processes, and how to reach them."""

    http: Any
    """An aiohttp.ClientSession."""
    sandbox: str
    """Base address of the sandbox."""
    daemon: str
    """Base address of the daemon's intake."""
    admin: str
    unix_socket: Path
    started_at: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.started_at:6.1f}s  {text}", flush=True)

    async def status(self) -> dict[str, Any]:
        async with self.http.get(f"{self.daemon}/v1/status") as response:
            status: dict[str, Any] = await response.json()
            return status

    async def stored(self) -> list[dict[str, Any]]:
        """Return every event that the sandbox has."""
        events: list[dict[str, Any]] = []
        while True:
            async with self.http.get(f"{self.sandbox}/_sandbox/raw?offset={len(events)}&limit=10000") as response:
                page = [json.loads(raw) for raw in await response.json()]
            events += page
            if not page:
                return events

    async def set_down(self, *, down: bool) -> None:
        async with self.http.patch(f"{self.sandbox}/_sandbox/faults", json={"down": down}) as response:
            response.raise_for_status()


async def _demo(events: int, *, serve: bool) -> int:
    demo = asyncio.current_task()
    assert demo is not None, "it is a coroutine's"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, demo.cancel)  # or its processes would outlive it
    async with _running_system() as system:
        system.say(f"sandbox (it plays Growlytics) on {system.sandbox}")
        system.say(f"daemon on {system.daemon} and {system.unix_socket}, metrics on {system.admin}/metrics")
        await _show_a_refusal(system)
        await _post_through_an_outage(system, events)
        arrived = await _wait_for_delivery(system, events)
        balanced = _show_ledger(await system.status(), arrived, events)
        if serve:
            await _serve(system)
        return EXIT_OK if balanced and arrived == events else EXIT_NO


async def _show_a_refusal(system: _System) -> None:
    """Post an event with the classic bug: its time is in seconds."""
    async with system.http.post(
        f"{system.daemon}/track/event", json=_event(0) | {"time": int(time.time())}
    ) as response:
        error = (await response.json())["errors"][0]
        system.say(
            f"an event with its time in seconds is refused, {response.status} {error['code']}: {error['message']}"
        )


async def _post_through_an_outage(system: _System, events: int) -> None:
    system.say(f"an app posts {events} events, {_POSTS_PER_SECOND} a second")
    outage_at = int(events * _OUTAGE_FROM)
    for number in range(1, events + 1):
        if number == outage_at:
            await system.set_down(down=True)
            system.say("outage: the sandbox answers 503 to everything, but the app notices nothing")
        async with system.http.post(f"{system.daemon}/track/event", json=_event(number)) as response:
            if response.status != 200:
                raise DemoError(f"the daemon answered {response.status} to event {number}: {await response.text()}")
        if number % _POSTS_PER_SECOND == 0:
            _show_progress(system, await system.status())
        await asyncio.sleep(max(0.0, system.started_at + number / _POSTS_PER_SECOND - time.monotonic()))
    await system.set_down(down=False)
    system.say("the sandbox is back")


async def _wait_for_delivery(system: _System, events: int) -> int:
    """Wait until all events have arrived, or the time is up; return how many different ones the sandbox has."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    turns = itertools.count(1)
    while (status := await system.status())["ledger"]["since_start"]["buffered"] and time.monotonic() < deadline:
        if next(turns) % 10 == 0:
            _show_progress(system, status)
        await asyncio.sleep(0.1)
    _show_progress(system, status)
    stored = [event["attributes"]["Product Id"] for event in await system.stored()]
    different = len({product for product in stored if product in {f"demo-{number}" for number in range(1, events + 1)}})
    system.say(f"the sandbox has {different} of {events} events, and {len(stored) - different} of them twice")
    return different


def _show_progress(system: _System, status: Mapping[str, Any]) -> None:
    ledger, states = status["ledger"]["since_start"], status["buffer"]["events"]
    system.say(
        f"accepted {ledger['accepted']:6}   delivered {ledger['delivered']:6}   buffered {ledger['buffered']:5}"
        f" (ready {states['ready']}, waiting for a retry {states['parked']}, in flight {states['in_flight']})"
    )


def _show_ledger(status: Mapping[str, Any], arrived: int, events: int) -> bool:
    """Show the ledger, and return whether it balances."""
    ledger = status["ledger"]["since_start"]
    dropped, dead = sum(ledger["dropped"].values()), sum(ledger["dead_lettered"].values())
    intake = ledger["accepted"] + ledger["duplicates"] + ledger["rejected"]
    fates = ledger["delivered"] + dead + dropped + ledger["buffered"]
    balanced: bool = (
        ledger["received"] == intake and ledger["accepted"] == fates == events and ledger["unaccounted"] == 0
    )
    print(
        f"\nThe ledger\n"
        f"  received {ledger['received']} = accepted {ledger['accepted']} + duplicates {ledger['duplicates']}"
        f" + rejected {ledger['rejected']}\n"
        f"  accepted {ledger['accepted']} = delivered {ledger['delivered']} + dead letters {dead}"
        f" + dropped {dropped} + buffered {ledger['buffered']}\n"
        f"  {'It balances' if balanced else 'IT DOES NOT BALANCE'}, and {arrived} of {events} accepted events arrived.",
        flush=True,
    )
    return balanced


async def _serve(system: _System) -> None:
    event = json.dumps(_event(1))
    print(
        f"\nThe demo keeps running; end it with Ctrl-C. Try:\n"
        f"  curl --json '{event}' {system.daemon}/track/event\n"
        f"  curl --unix-socket {system.unix_socket} --json '[{event}]' http://localhost/v1/events\n"
        f"  curl {system.daemon}/v1/status\n"
        f"  python -m forwarder dead-letters list --unix-socket {system.unix_socket}\n"
        f"  curl {system.admin}/metrics\n"
        f"  curl -X PATCH -d '{{\"down\": true}}' {system.sandbox}/_sandbox/faults\n"
        f"  curl {system.sandbox}/_sandbox/counters",
        flush=True,
    )
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


def _event(number: int) -> dict[str, object]:
    """Return the documented example event, with a product and a customer that depend on the number."""
    return {
        "name": "Add To Cart",
        "customerId": f"YOUR_APP_CUSTOMER_ID-{number % 100}",
        "time": 1700000000000 + number,
        "attributes": {
            "Product Id": f"demo-{number}",
            "Product Name": "Orange BagPack",
            "Quantity": 3,
            "Price": 4531,
            "Discount": 0,
            "Brand": "Nike",
            "Category": "BagPack",
        },
    }


@asynccontextmanager
async def _running_system() -> AsyncIterator[_System]:
    import aiohttp

    with tempfile.TemporaryDirectory(prefix="growlytics-demo-") as directory:
        unix_socket = Path(directory) / "forwarder.sock"
        async with (
            _process("sandbox", "--http", "127.0.0.1:0", "--key", _KEY) as sandbox,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http,
        ):
            url = (await _line(sandbox)).split()[3]  # the word after "sandbox ready on"
            async with _process(
                "run", "--set", f"growlytics.url={url}", "--set", f"intake.unix_socket={unix_socket}",
                "--set", f"buffer.directory={Path(directory) / 'buffer'}",
                "--set", "intake.http=127.0.0.1:0", "--set", "admin.http=127.0.0.1:0", "--set", "log.format=json",
                "--set", "delivery.retry_max_seconds=4",  # so that a viewer need not wait longer
            ) as daemon:  # fmt: skip
                while (ready := json.loads(await _line(daemon)))["message"] != "ready":
                    pass
                drain_logs = asyncio.create_task(_discard(daemon), name="daemon's log")
                try:
                    yield _System(
                        http=http,
                        sandbox=url.removesuffix("/track/event"),
                        daemon=f"http://{ready['http']}",
                        admin=f"http://{ready['admin']}",
                        unix_socket=unix_socket,
                    )
                finally:
                    drain_logs.cancel()


@asynccontextmanager
async def _process(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run one of our commands, and stop it at the end."""
    # The user's own settings must not reach the demo's daemon.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("FORWARDER_", "GROWLYTICS_"))
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "forwarder", *arguments,
        stdout=asyncio.subprocess.PIPE, env=environment | {"FORWARDER_GROWLYTICS__API_KEY": _KEY, "NO_PROXY": "*"},
        start_new_session=True,  # Ctrl-C is for the demo only, which stops its processes in order
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def _line(process: asyncio.subprocess.Process) -> str:
    """Return the next line of a process's output."""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_START_SECONDS):
            line = (await process.stdout.readline()).decode()
    except TimeoutError:
        line = ""
    if not line:
        raise DemoError("the sandbox or the daemon did not start; its message is above")
    return line


async def _discard(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    while await process.stdout.read(65536):
        pass


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError("must be an integer from 1 to 100000")
    return int(text)
