"""One daemon as a process: its signals, its limits, its exit code. `app` makes its parts."""

import asyncio
import gc
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final

import attrs

from forwarder.app import App
from forwarder.host.open_files import OpenFiles, affordable
from forwarder.host.signals import Signals
from forwarder.host.systemd import Systemd
from forwarder.observing.logs import write_out
from forwarder.settings import Settings

_SLOW_START_SECONDS: Final = 2.0
_STOPPING_SECONDS: Final = 15.0
"""How long stopping may take besides the waits that are settings."""
_CLOSING_SECONDS: Final = 10.0
"""How long closing may take of that, as a disk may hang for ever."""


async def run(
    settings: Settings,
    *,
    load: Callable[[], Settings],
    signals: Signals,
    on_ready: Callable[[Mapping[str, str]], None],
    on_slow_start: Callable[[], None],
) -> int:
    """Run a daemon until one of `signals` stops it, and return its exit code. Raise what App.open raises.

    `load` reads the settings again for SIGHUP; it may block, and raises SettingsError. `on_ready` is called once with the
    addresses of the open intakes and of `admin`, by their names. If that takes long, `on_slow_start` is called before.
    """
    capped = _capped(settings)

    def load_capped() -> Settings:
        loaded = load()
        if loaded.intake.max_connections == settings.intake.max_connections:  # unchanged, so keep the capped value
            loaded = attrs.evolve(
                loaded, intake=attrs.evolve(loaded.intake, max_connections=capped.intake.max_connections)
            )
        _capped(loaded)
        return loaded

    app = App(capped, load=load_capped)
    systemd = Systemd(os.environ)

    def stopping() -> None:
        waits = app.shutdown.accept_seconds + app.shutdown.drain_seconds
        systemd.stopping(within_seconds=waits + _STOPPING_SECONDS)

    loop = asyncio.get_running_loop()

    def tell(name: str) -> None:
        # A signal handler may run at any time, even after the loop has ended.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(partial(_on_signal, app, name, on_stop=stopping))

    signals.tell_to(tell)
    files = OpenFiles(app.telemetry.open_files_exhausted)
    loop.set_exception_handler(files.on_loop_error)
    slow = loop.call_later(_SLOW_START_SECONDS, on_slow_start)
    try:
        may_serve = await app.open()
    except BaseException:
        await app.close()
        raise
    finally:
        slow.cancel()
    try:
        if may_serve:
            on_ready(app.addresses)
            if (wanted := settings.intake.max_connections) > capped.intake.max_connections:
                app.telemetry.connections_capped(capped.intake.max_connections, wanted=wanted)
            _spare_the_garbage_collector()
            if not app.stop.is_set():
                systemd.ready()
            async with asyncio.TaskGroup() as tasks:
                telling = tasks.create_task(systemd.serve(lambda: _in_a_line(app)), name="systemd")
                trying = tasks.create_task(files.serve(), name="open files")
                await app.serve()
                telling.cancel()
                trying.cancel()
    finally:
        lost_events, lost_letters = await _closed(app)
        app.telemetry.daemon_stopped(lost_events=lost_events, lost_dead_letters=lost_letters, ledger=app.ledger())
    return 75 if lost_events or lost_letters else 0


async def _closed(app: App) -> tuple[int, int]:
    """Close the daemon, and return what App.close returns. If the disk hangs, end the process."""
    closing = asyncio.create_task(app.close(), name="closing")
    done, _ = await asyncio.wait({closing}, timeout=_CLOSING_SECONDS)
    if not done:
        app.telemetry.closing_given_up(ledger=app.ledger())
        write_out()
        os._exit(0)
    return closing.result()


def _on_signal(app: App, name: str, *, on_stop: Callable[[], None]) -> None:
    if app.state == "stopped":
        return
    if name == "SIGHUP":
        if not app.stop.is_set():
            app.reload()
    elif not app.stop.is_set():
        app.telemetry.shutdown_began(signal=name, buffered=app.buffer.occupancy().events)
        app.stop.set()
        on_stop()
    elif app.state == "starting":  # opening may hang, and nothing was accepted yet
        os._exit(0)
    else:
        app.force.set()


def _capped(settings: Settings) -> Settings:
    """Return settings with no more connections than the limit of open files allows, which is raised if possible."""
    intake = settings.intake
    listeners = sum(each is not None for each in (intake.http, intake.unix_socket, intake.lines_socket))
    connections = affordable(intake.max_connections, listeners=listeners, others=settings.delivery.max_concurrency)
    return attrs.evolve(settings, intake=attrs.evolve(intake, max_connections=connections))


def _in_a_line(app: App) -> str:
    holds = f"; delivery is paused: {', '.join(app.delivery.holds())}" if app.delivery.holds() else ""
    return f"{app.state}, {app.buffer.occupancy().events} events in the buffer{holds}"


def _spare_the_garbage_collector() -> None:
    """Collect garbage seldom: events and answers form no cycles, and each look costs a tenth of the intake's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
