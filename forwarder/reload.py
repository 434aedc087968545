"""Settings that change while the daemon runs: at a request all sources are read again, and what can be taken up is.

Invariants: nothing changes unless everything that was read is good; what needs a restart is named until it had one; no
secret is named. Made and served by the composition root.
"""

import asyncio
import time
from collections.abc import Callable

from forwarder.event import Clock
from forwarder.settings import Settings, SettingsError, merge
from forwarder.telemetry import Telemetry


class Reloading:
    """Has `use` called with settings in which something changed, each time that `load` reads such.

    `used` returns those in use. `load`, which may block, raises SettingsError. `clock` gives seconds since 1970.
    """

    def __init__(
        self,
        used: Callable[[], Settings],
        *,
        load: Callable[[], Settings],
        use: Callable[[Settings], None],
        telemetry: Telemetry,
        clock: Clock = time.time,
    ) -> None:
        self._used = used
        self._load = load
        self._use = use
        self._telemetry = telemetry
        self._clock = clock
        self._loaded_at = clock()
        self._restart_needed: tuple[str, ...] = ()
        self._error: str | None = None
        self._asked = asyncio.Event()

    def reload(self) -> None:
        """Ask for it; a signal handler of the loop may call this. Requests that come before it begins are one."""
        self._asked.set()

    async def serve(self) -> None:
        """Read the settings at each request, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self.read()

    async def read(self) -> None:
        """Read all sources once."""
        try:
            # In a thread, as they may be on a file system that does not answer.
            loaded = await asyncio.to_thread(self._load)
            changes = merge(self._used(), loaded)
        except SettingsError as error:
            problems = [str(problem) for problem in error.problems]
            self._error = "; ".join(problems)
            self._telemetry.reload_failed(problems)
            return
        self._error = None
        self._loaded_at = self._clock()
        self._restart_needed = changes.restart_needed
        if changes.taken_up:
            self._use(changes.settings)
        self._telemetry.reloaded(changes.taken_up, restart_needed=changes.restart_needed)

    @property
    def settings(self) -> Settings:
        """Those in use."""
        return self._used()

    def status(self) -> dict[str, object]:
        """Return what /v1/status says of it."""
        return {
            "loaded_at": round(self._loaded_at, 3),
            "restart_needed": list(self._restart_needed),
            "error": self._error,
        }
