"""The settings in use, and their changes while the daemon runs: by a reload, or by a file that a setting names.

Invariants: nothing changes unless all that was read is good; all parts get a change in the same turn of the event loop;
changes that need a restart are named until the restart; no secret is shown. Made and served by `app.py`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import attrs

from forwarder.buffer.base import Buffer
from forwarder.delivery.worker import Delivery
from forwarder.event import Clock
from forwarder.growlytics.client import GrowlyticsClient
from forwarder.growlytics.connecting import Certificates, read_certificates, system_certificates
from forwarder.host.secret_file import WatchedFile
from forwarder.host.threads import NoThreadError, in_own_thread
from forwarder.intake.judging import Knowledge
from forwarder.observing import logs
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import Problem, Secret, Settings, SettingsError, merge, read_secret_file

READ_SECONDS: Final = 10.0
"""How long reading all sources may take: a file that hangs must not block later reloads."""


class Reloading:
    """Reads all sources when asked, and calls `use` with the new settings if some changed that need no restart.

    `used` returns the settings in use. `load` may block, and raises SettingsError. `reread` reads files that settings only
    name, and returns the settings whose files changed; it may raise SettingsError. `clock` returns seconds since 1970.
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
        file_faults: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """`file_faults` returns why files cannot be used that settings name, by the settings."""
        self._used = used
        self._load = load
        self._use = use
        self._reread = reread
        self._telemetry = telemetry
        self._clock = clock
        self._read_seconds = read_seconds
        self._file_faults = file_faults
        self._loaded_at = clock()
        self._restart_needed: tuple[str, ...] = ()
        self._error: str | None = None
        self._asked = asyncio.Event()

    def reload(self) -> None:
        """Ask for a reload. Several calls before it begins count as one. A signal handler of the loop may call this."""
        self._asked.set()

    async def serve(self) -> None:
        """Reload whenever asked, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self.read()

    async def read(self) -> None:
        """Reload once."""
        try:
            async with asyncio.timeout(self._read_seconds):
                loaded = await in_own_thread(self._load, name="settings")
                changes = merge(self._used(), loaded)
                reread = await self._reread()
        except SettingsError as error:
            self._fail([str(problem) for problem in error.problems])
        except TimeoutError:
            self._fail(
                [f"the file of settings, or a file that it names, could not be read within {self._read_seconds:g} s"]
            )
        except NoThreadError:
            self._fail(["the system has no thread left to read the settings in"])
        else:
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
        """The settings in use."""
        return self._used()

    def status(self) -> dict[str, object]:
        """Return what /v1/status says of the last reload."""
        return {
            "loaded_at": round(self._loaded_at, 3),
            "restart_needed": list(self._restart_needed),
            "error": self._error,
            "file_faults": dict(self._file_faults()),
        }


class LiveSettings:
    """Gives changed settings to the parts that use them.

    `load` reads all sources again; it may block, and raises SettingsError. `use_access` gives all listeners the access rules
    of new settings.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        load: Callable[[], Settings],
        client: GrowlyticsClient,
        delivery: Delivery,
        buffer: Buffer,
        knowledge: Knowledge,
        use_access: Callable[[Settings], None],
        telemetry: Telemetry,
    ) -> None:
        self.now = settings
        """The settings in use."""
        self._client = client
        self._delivery = delivery
        self._buffer = buffer
        self._knowledge = knowledge
        self._use_access = use_access
        self.reloading = Reloading(
            lambda: self.now,
            load=load,
            use=self._use,
            reread=self._reread_certificates,
            telemetry=telemetry,
            file_faults=self._file_faults,
        )
        growlytics, intake = settings.growlytics, settings.intake

        def secret_file(
            path: str | None, setting: str, secret: Secret | None, on_new: Callable[[Secret], None]
        ) -> WatchedFile[Secret]:
            return WatchedFile(
                path, setting=setting, read=read_secret_file, current=secret, on_new=on_new, telemetry=telemetry
            )

        self._key_file = secret_file(
            growlytics.api_key_file, "growlytics.api_key_file", growlytics.api_key, self._use_key
        )
        self._token_file = secret_file(intake.token_file, "intake.token_file", intake.token, self._use_token)
        self._ca_file: WatchedFile[Certificates] = WatchedFile(
            None,
            setting="growlytics.ca_file",
            read=read_certificates,
            current=None,
            on_new=self._use_certificates,
            telemetry=telemetry,
        )

    def begin(self) -> None:
        """Watch the file of certificates. The client must be open, as it has read the file."""
        self._ca_file.use(self.now.growlytics.ca_file, self._client.certificates)

    def serve(self, tasks: asyncio.TaskGroup) -> tuple[asyncio.Task[None], ...]:
        """Start to watch, and return the tasks, which run until cancelled."""
        return (
            tasks.create_task(self.reloading.serve(), name="settings"),
            tasks.create_task(self._key_file.serve(), name="key's file"),
            tasks.create_task(self._token_file.serve(), name="token's file"),
            tasks.create_task(self._ca_file.serve(), name="certificates' file"),
        )

    def _file_faults(self) -> dict[str, str]:
        files = {
            "growlytics.api_key_file": self._key_file.fault,
            "intake.token_file": self._token_file.fault,
            "growlytics.ca_file": self._ca_file.fault,
        }
        return {setting: fault for setting, fault in files.items() if fault}

    def _use(self, settings: Settings) -> None:
        before, self.now = self.now, settings
        growlytics, intake = settings.growlytics, settings.intake
        self._client.use(growlytics)
        if growlytics.api_key is not None and growlytics.api_key != before.growlytics.api_key:
            self._use_key(growlytics.api_key)
        self._key_file.use(growlytics.api_key_file, growlytics.api_key)
        self._use_access(settings)
        self._token_file.use(intake.token_file, intake.token)
        self._knowledge.use(settings.contract)
        self._buffer.use(settings.buffer.when_full)
        self._delivery.use(settings.delivery)
        logs.use_level(settings.log)

    def _use_key(self, key: Secret) -> None:
        self.now = attrs.evolve(self.now, growlytics=attrs.evolve(self.now.growlytics, api_key=key))
        self._client.use_key(key)
        self._delivery.use_new_key()

    def _use_token(self, token: Secret) -> None:
        self.now = attrs.evolve(self.now, intake=attrs.evolve(self.now.intake, token=token))
        self._use_access(self.now)

    def _use_certificates(self, new: Certificates) -> None:
        self._client.use_certificates(new)
        self._delivery.try_soon()

    async def _reread_certificates(self) -> tuple[str, ...]:
        """Read the certificates again: `ca_file` if it changed, or the system's if it is not set. Return what changed."""
        if self.now.growlytics.ca_file is not None:
            return ("growlytics.ca_file",) if await self._ca_file.poll() else ()
        try:
            self._use_certificates(await in_own_thread(system_certificates, name="certificates"))
        except OSError as error:
            message = f"is not set, and the system's certificates cannot be read: {error.strerror}"
            raise SettingsError([Problem("growlytics.ca_file", message)]) from None
        return ()
