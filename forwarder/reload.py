"""Settings that change while the daemon runs: at a request all sources are read again, and what can be taken up is.

Invariants: nothing changes unless everything that was read is good; what needs a restart is named until it had one; no
secret is named. Made and served by the composition root.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from forwarder.event import Clock
from forwarder.host.threads import NoThreadError, in_own_thread
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import Settings, SettingsError, merge

READ_SECONDS: Final = 10.0
"""The longest that reading them may take; a file that does not answer must not keep the next request waiting for ever."""


class Reloading:
    """Has `use` called with settings in which something changed, each time that `load` reads such.

    `used` returns those in use. `load`, which may block, raises SettingsError. `reread` reads again what the settings only
    name, and returns those of which that changed; it may raise SettingsError. `clock` gives seconds since 1970.
    """

    def __init__(
        self,
        used: Callable[[], Settings],
        *,
        load: Callable[[], Settings],
        use: Callable[[Settings], None],
        reread: Callable[[], Awaitable[Sequence[str]]],
        telemetry: Telemetry,
        clock: Clock = time.time,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self._used = used
        self._load = load
        self._use = use
        self._reread = reread
        self._telemetry = telemetry
        self._clock = clock
        self._read_seconds = read_seconds
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
            async with asyncio.timeout(self._read_seconds):
                loaded = await in_own_thread(self._load, name="settings")
                changes = merge(self._used(), loaded)
                reread = await self._reread()
        except SettingsError as error:
            self._fail([str(problem) for problem in error.problems])
            return
        except TimeoutError:
            self._fail([f"the file, or one that it names, could not be read within {self._read_seconds:g} s"])
            return
        except NoThreadError:
            self._fail(["the system has no thread left to read them in"])
            return
        self._error = None
        self._loaded_at = self._clock()
        self._restart_needed = changes.restart_needed
        if changes.taken_up:
            self._use(changes.settings)
        self._telemetry.reloaded((*changes.taken_up, *reread), restart_needed=changes.restart_needed)

    def _fail(self, problems: Sequence[str]) -> None:
        self._error = "; ".join(problems)
        self._telemetry.reload_failed(problems)

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
