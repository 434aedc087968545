"""The settings in use, and what changes them while the daemon runs: a reload, or a file that a setting names.

Invariant: every part goes by the same settings; what changed is told to each part in one turn of the event loop. Made and
served by `app.py`.
"""

import asyncio
from collections.abc import Callable

import attrs

from forwarder.buffer.base import Buffer
from forwarder.delivery.worker import Delivery
from forwarder.growlytics import certificates
from forwarder.growlytics.certificates import Certificates
from forwarder.growlytics.client import GrowlyticsClient
from forwarder.host.secret_file import WatchedFile
from forwarder.host.threads import in_own_thread
from forwarder.intake.knowledge import Knowledge
from forwarder.observing import logs
from forwarder.observing.telemetry import Telemetry
from forwarder.reload import Reloading
from forwarder.settings import Problem, Secret, Settings, SettingsError, read_secret_file


class LiveSettings:
    """Tells the parts when settings change.

    `load` reads all sources again; it may block, and raises SettingsError. `use_access` makes all listeners go by the
    access rules of the settings that it is called with.
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
            lambda: self.now, load=load, use=self._use, reread=self._reread_certificates, telemetry=telemetry
        )
        self._key_file = WatchedFile(
            settings.growlytics.api_key_file,
            setting="growlytics.api_key_file",
            read=read_secret_file,
            current=settings.growlytics.api_key,
            on_new=self._use_key,
            telemetry=telemetry,
        )
        self._token_file = WatchedFile(
            settings.intake.token_file,
            setting="intake.token_file",
            read=read_secret_file,
            current=settings.intake.token,
            on_new=self._use_token,
            telemetry=telemetry,
        )
        self._ca_file: WatchedFile[Certificates] = WatchedFile(
            None,
            setting="growlytics.ca_file",
            read=certificates.read,
            current=None,
            on_new=self._use_certificates,
            telemetry=telemetry,
        )

    def begin(self) -> None:
        """Watch the file of certificates that the client, which is open now, goes by."""
        self._ca_file.use(self.now.growlytics.ca_file, self._client.certificates)

    def serve(self, tasks: asyncio.TaskGroup) -> tuple[asyncio.Task[None], ...]:
        """Start what watches; return its tasks, which run until cancelled."""
        return (
            tasks.create_task(self.reloading.serve(), name="settings"),
            tasks.create_task(self._key_file.serve(), name="key's file"),
            tasks.create_task(self._token_file.serve(), name="token's file"),
            tasks.create_task(self._ca_file.serve(), name="certificates' file"),
        )

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
        """Read again whom to trust: `ca_file` if it changed, else the system's certificates. Return what changed."""
        if self.now.growlytics.ca_file is not None:
            return ("growlytics.ca_file",) if await self._ca_file.poll() else ()
        try:
            self._use_certificates(await in_own_thread(certificates.of_system, name="certificates"))
        except OSError as error:
            message = f"is not set, and the system's certificates cannot be read: {error.strerror}"
            raise SettingsError([Problem("growlytics.ca_file", message)]) from None
        return ()
