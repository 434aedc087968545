"""What intake goes by when it judges an event: the contract, the types of attributes, and the keys of events that came.

Made by `app.py`. What is learned of types and keys is kept by the buffer, and recalled when the daemon starts.
"""

import asyncio

from forwarder.ages import Ages
from forwarder.attribute_types import types_file
from forwarder.attribute_types.guard import AttributeTypes
from forwarder.buffer.base import Buffer, Notes
from forwarder.event import Clock
from forwarder.intake.duplicates import DuplicateKeys
from forwarder.intake.elements import Elements
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import ContractSettings, Settings


class Knowledge:
    """Holds the three parts that are recalled and changed together. `wall` gives seconds since 1970."""

    def __init__(self, settings: Settings, *, wall: Clock, ages: Ages, telemetry: Telemetry) -> None:
        self.types = AttributeTypes(settings.contract, telemetry=telemetry, clock=wall)
        self.elements = Elements(settings.contract, clock=wall)
        self.keys = DuplicateKeys(settings.intake, clock=ages.even)
        self._types_file = settings.contract.types_file
        self._ages = ages

    def use(self, settings: ContractSettings) -> None:
        """Go by other settings from now on."""
        self.elements.use(settings)
        self.types.use(settings)

    def remembered(self) -> Notes:
        """Return all that a new database file must have again."""
        return Notes(self.types.remembered(), self.keys.remembered())

    async def recall(self, buffer: Buffer) -> None:
        """Take up what the team fixed, and what earlier processes noted. Raises TypesFileError."""
        if self._types_file is not None:
            self.types.fix(await asyncio.to_thread(types_file.read, self._types_file))
        notes = await buffer.recall()
        self.types.load(notes.types)
        self.keys.load(notes.keys, age_seconds=self._ages.age_seconds)
        self.types.warn_if_unfixed()
