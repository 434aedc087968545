"""What an operator may see of the inside of a running daemon, for `GET /v1/debug` and so for `bundle`.

Invariants: no payload, no customer id, no secret and no value of a local variable; each part is bounded in bytes. Names of
events may appear. What could hold a secret by mistake goes through `masking`, with the secrets in use. Made by `app.py`.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

from forwarder.database.schema import SQLITE_VERSION
from forwarder.host import inspection
from forwarder.host.threads import NoThreadError, in_own_thread
from forwarder.masking import Masking
from forwarder.observing.logs import last_lines
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import Settings, secrets, shown
from forwarder.words import DebugPart

_MAX_METRICS_CHARACTERS: Final = 1024 * 1024


class Debug:
    """Reads the daemon and changes nothing. `settings` returns those in use."""

    def __init__(self, settings: Callable[[], Settings], *, telemetry: Telemetry, loop: str) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._loop = loop

    async def content(self, parts: Collection[DebugPart]) -> Mapping[str, object]:
        """Return these parts, as JSON. A part that cannot be read is None."""
        readers: Mapping[DebugPart, Callable[[Masking], Awaitable[object]]] = {
            "process": self._process,
            "versions": self._versions,
            "settings": self._shown,
            "metrics": self._metrics,
            "tasks": self._tasks,
            "threads": self._threads,
            "log": self._log,
        }
        masking = Masking(secrets(self._settings()))
        return {part: await read(masking) for part, read in readers.items() if part in parts}

    async def _process(self, _: Masking) -> object:
        return await _in_a_thread(inspection.process_facts)

    async def _versions(self, _: Masking) -> object:
        found = await _in_a_thread(lambda: inspection.versions(sqlite=SQLITE_VERSION))
        return None if found is None else {**found, "loop": self._loop}

    async def _shown(self, masking: Masking) -> object:
        return masking.value(shown(self._settings()))

    async def _metrics(self, masking: Masking) -> object:
        text = self._telemetry.metrics_text()
        return masking.text(text[:_MAX_METRICS_CHARACTERS].rpartition("\n")[0] + "\n")

    async def _tasks(self, _: Masking) -> object:
        return inspection.tasks()

    async def _threads(self, _: Masking) -> object:
        return inspection.threads()

    async def _log(self, masking: Masking) -> object:
        return [masking.text(line).encode(errors="backslashreplace").decode() for line in last_lines()]


async def _in_a_thread(read: Callable[[], Mapping[str, object]]) -> Mapping[str, object] | None:
    try:
        return await in_own_thread(read, name="debug")
    except (NoThreadError, OSError):
        return None
