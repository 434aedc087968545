"""One daemon as a process: its signals, its limits, its exit code. What it is made of is `app`'s."""

import asyncio
import gc
import os
import signal
from collections.abc import Callable
from typing import Final

import attrs

from forwarder.app import App
from forwarder.intake.connections import affordable
from forwarder.settings import Settings
from forwarder.systemd import Systemd

_CLOSING_SECONDS: Final = 15.0
"""What stopping may take beside the waits that are settings."""


async def run(settings: Settings, *, load: Callable[[], Settings]) -> int:
    """Run a daemon until a signal stops it, and return its exit code. Raises as App.open does.

    `load` reads the settings anew for SIGHUP; it may block, and raises SettingsError.
    """
    capped = _capped(settings)

    def load_capped() -> Settings:
        loaded = load()
        if loaded.intake.max_connections == settings.intake.max_connections:  # what that came to stays, as it does
            loaded = attrs.evolve(
                loaded, intake=attrs.evolve(loaded.intake, max_connections=capped.intake.max_connections)
            )
        _capped(loaded)
        return loaded

    app = App(capped, load=load_capped)
    systemd = Systemd(os.environ)

    def stopping() -> None:
        waits = app.shutdown.accept_seconds + app.shutdown.drain_seconds
        systemd.stopping(within_seconds=waits + _CLOSING_SECONDS)

    _on_signals(app, on_stop=stopping)
    try:
        await app.open()
    except BaseException:
        await app.close()
        raise
    if (wanted := settings.intake.max_connections) > capped.intake.max_connections:
        app.telemetry.connections_capped(capped.intake.max_connections, wanted=wanted)
    _spare_the_garbage_collector()
    systemd.ready()
    try:
        async with asyncio.TaskGroup() as tasks:
            telling = tasks.create_task(systemd.serve(lambda: _in_a_line(app)), name="systemd")
            await app.serve()
            telling.cancel()
    finally:
        lost_events, lost_letters = await app.close()
        app.telemetry.daemon_stopped(lost_events=lost_events, lost_dead_letters=lost_letters, ledger=app.ledger())
    return 75 if lost_events or lost_letters else 0


def _capped(settings: Settings) -> Settings:
    """Return settings with no more connections than the process may have files open, a limit that is raised if it can be."""
    intake = settings.intake
    listeners = sum(each is not None for each in (intake.http, intake.unix_socket, intake.lines_socket))
    connections = affordable(intake.max_connections, listeners=listeners, others=settings.delivery.max_concurrency)
    return attrs.evolve(settings, intake=attrs.evolve(intake, max_connections=connections))


def _in_a_line(app: App) -> str:
    holds = f"; nothing is sent but probes: {', '.join(app.delivery.holds())}" if app.delivery.holds() else ""
    return f"{app.state}, {app.buffer.occupancy().events} events in the buffer{holds}"


def _spare_the_garbage_collector() -> None:
    """Look for cycles seldom: events and answers make none, and looking costs a tenth of the intake's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def _on_signals(app: App, *, on_stop: Callable[[], None]) -> None:
    def stop(name: str) -> None:
        if app.stop.is_set():
            app.force.set()
            return
        app.telemetry.shutdown_began(signal=name, buffered=app.buffer.occupancy().events)
        app.stop.set()
        on_stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number.name)
    loop.add_signal_handler(signal.SIGHUP, app.reload)
