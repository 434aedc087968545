"""What intake remembers, on disk: types of attributes, and the apps' own keys of events. Used by the disk buffer alone.

A key is committed with its event, and never without. All else is hints, and waits while the disk is full. A file that is
damaged costs nothing of it: while the process runs, intake has it all in memory; at the start it is read from that file.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from forwarder.attribute import LearnedType, Place, TypeChanges
from forwarder.buffer.base import Notes
from forwarder.buffer.batch import Noted
from forwarder.buffer.commits import GroupCommit
from forwarder.database import attribute_types, duplicate_keys, salvage
from forwarder.database.connection import DamagedError, Database, Transaction, UnavailableError
from forwarder.event import DuplicateKey
from forwarder.observing.telemetry import Telemetry


class Noting:
    """`remembered` gives all that intake remembers now, of keys only those whose events are committed."""

    def __init__(
        self, database: Database, commits: GroupCommit[int], *, telemetry: Telemetry, remembered: Callable[[], Notes]
    ) -> None:
        self._database = database
        self._commits = commits
        self._telemetry = telemetry
        self._remembered = remembered
        self._recalled = False

    async def recall(self, damaged: Callable[[], Sequence[str]]) -> Notes:
        """Read what is kept, and what the `damaged` files have besides, that are not salvaged; have that kept, too."""
        types, in_order = await self._read()
        names = [] if self._database.ledger["notes_brought"] else sorted(damaged(), reverse=True)
        if names:
            keys = {key.event_id: key for key in in_order}
            brought = Noted(complete=True)
            for name in names:
                old_types, old_keys = await self._read_damaged(name)
                brought.types |= {place: each for place, each in old_types.items() if place not in types}
                brought.keys |= {event_id: each for event_id, each in old_keys.items() if event_id not in keys}
                types, keys = old_types | types, old_keys | keys
            self._commits.note(brought)
            in_order = [keys[event_id] for event_id in sorted(keys)]
        self._recalled = True  # with no await before who asked has it
        return Notes(types=types, keys=tuple(in_order))

    async def note(self, types: TypeChanges) -> None:
        """Have changes of types committed; return when that is so."""
        if types:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._commits.note(Noted(types=dict(types), waiters=[done]))
            await done

    def restored(self) -> None:
        """There is a new file. Asked only now, intake knows of every put that was committed in the old one."""
        if self._recalled:  # else the damaged file is read then
            notes = self._remembered()
            types, keys = dict(notes.types), {key.event_id: key for key in notes.keys}
            self._commits.note(Noted(types=types, keys=keys, complete=True))

    async def _read(self) -> tuple[dict[Place, LearnedType], list[DuplicateKey]]:
        try:
            (types, altered_types), (keys, altered_keys) = await self._database.run(
                lambda transaction: (attribute_types.load(transaction), duplicate_keys.load(transaction))
            )
        except DamagedError:  # there is a new file with nothing in it, and it is one of the damaged ones
            await self._commits.flush()
            return {}, []
        except UnavailableError as error:
            self._telemetry.buffer_failed("read", error)
            return {}, []

        def remove_altered(transaction: Transaction) -> None:
            attribute_types.remove(transaction, altered_types)
            duplicate_keys.remove(transaction, altered_keys)

        if altered_types or altered_keys:
            with suppress(UnavailableError, DamagedError):  # the next commit tells
                await self._database.run(remove_altered)
        return types, keys

    async def _read_damaged(self, name: str) -> tuple[dict[Place, LearnedType], dict[int, DuplicateKey]]:
        assert self._database.directory is not None
        return await asyncio.to_thread(salvage.notes_in, self._database.directory.path, name)
