"""The lines and datagram intakes as the daemon wires them, without delivery, over a buffer that fails as it is told."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from forwarder.attribute_types.guard import AttributeTypes
from forwarder.buffer.base import NO_NOTES, Notes, PutAnswer
from forwarder.buffer.fates import Dropped
from forwarder.buffer.memory import MemoryBuffer
from forwarder.event import Event, EventIds
from forwarder.host.sockets import bind_unix, bind_unix_datagram
from forwarder.intake.acceptance import Acceptor
from forwarder.intake.datagram import DatagramIntake
from forwarder.intake.duplicates import DuplicateKeys
from forwarder.intake.elements import Elements
from forwarder.intake.lines import LinesIntake
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import BufferSettings, ContractSettings, IntakeSettings
from forwarder.words import CLOSE_REASONS, INTAKES, REFUSAL_REASONS, Intake
from tests.fakes.buffers import memory_buffer
from tests.fakes.http_intake_harness import DEADLINE_SECONDS, Counts, code_of


class StubbornBuffer(MemoryBuffer):
    """A buffer in memory whose puts can be answered at will, or kept waiting."""

    failing: PutAnswer | None = None
    """What each put is answered, instead of storing anything."""
    going_on: asyncio.Event
    """What each put waits for."""
    puts: list[int]
    """How many events each put had."""

    async def put(
        self, events: Sequence[Event], *, intake: Intake, replayed: Sequence[int] = (), notes: Notes = NO_NOTES
    ) -> PutAnswer:
        self.puts.append(len(events))
        await self.going_on.wait()
        if self.failing is not None:
            return self.failing
        return await super().put(events, intake=intake, replayed=replayed, notes=notes)


def stubborn_buffer(telemetry: Telemetry, *, max_events: int, max_bytes: int) -> StubbornBuffer:
    buffer = memory_buffer(
        telemetry, asyncio.get_running_loop().time, BufferSettings(max_events=max_events, max_bytes=max_bytes)
    )
    buffer.__class__ = StubbornBuffer
    assert isinstance(buffer, StubbornBuffer)
    buffer.puts = []
    buffer.going_on = asyncio.Event()
    buffer.going_on.set()
    return buffer


@dataclass
class Client:
    """A connection to the lines socket. What the intake says is read in the background, unless it is `deaf`."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *lines: bytes, end: bytes = b"\n") -> None:
        """Send lines, or with `end` empty, the beginning of one."""
        self.writer.write(b"".join(line + end for line in lines))
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self.writer.drain()

    def send_soon(self, data: bytes) -> None:
        """Send as soon as the intake reads."""
        self.writer.write(data)

    def end(self) -> None:
        """Send no more; error lines can still be read."""
        self.writer.write_eof()

    async def error(self) -> tuple[int, list[str]]:
        """Return the next error line: its number and its codes."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            line = await self.reader.readline()
        return error_of(line)

    async def errors(self) -> dict[int, list[str]]:
        """Read all error lines until the intake closes the connection; return the codes by line."""
        found: dict[int, list[str]] = {}
        with suppress(ConnectionError):
            while True:
                async with asyncio.timeout(DEADLINE_SECONDS):
                    line = await self.reader.readline()
                if not line:
                    break
                number, codes = error_of(line)
                assert number not in found, "a line is told of once"
                found[number] = codes
        return found

    async def has_ended(self) -> bool:
        async with asyncio.timeout(DEADLINE_SECONDS):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


def error_of(line: bytes) -> tuple[int, list[str]]:
    """Return the number and the codes of an error line, whose shape must be the documented one."""
    assert line.endswith(b"\n"), line
    content: dict[str, Any] = json.loads(line)
    assert content.keys() == {"line", "errors"}
    assert content["errors"]
    return content["line"], [code_of(error) for error in content["errors"]]


@dataclass
class WayIn:
    """A running intake at `path`."""

    intake: LinesIntake | DatagramIntake
    buffer: StubbornBuffer
    telemetry: Telemetry
    path: Path
    clients: list[Client] = field(default_factory=list)

    async def connect(self) -> Client:
        async with asyncio.timeout(DEADLINE_SECONDS):
            client = Client(*await asyncio.open_unix_connection(self.path))
        self.clients.append(client)
        return client

    async def send_datagram(self, datagram: bytes, sender: socket.socket | None = None) -> None:
        """Send one datagram, waiting for room in the kernel's queue."""
        one = sender or socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        one.setblocking(False)
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while True:
                    try:
                        one.sendto(datagram, str(self.path))
                    except BlockingIOError:
                        await asyncio.sleep(0.001)
                    else:
                        return
        finally:
            if sender is None:
                one.close()

    async def take(self, max_events: int = 1000) -> list[Event]:
        """Take what is in the buffer and let it go."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            events = await self.buffer.take(max_events=max_events, max_bytes=1 << 30)
        await self.buffer.ack([(event, Dropped("corrupt")) for event in events])
        return events

    async def take_all(self) -> list[bytes]:
        """Return the bodies of all that is in the buffer."""
        bodies: list[bytes] = []
        while self.buffer.occupancy().events:
            bodies += [event.body for event in await self.take()]
        return bodies

    def counts(self) -> Counts:
        """Return the counters, which must balance."""
        rejected = {reason: self.sample("events_rejected", reason=reason) for reason in REFUSAL_REASONS}
        counts = Counts(
            received=sum(self.sample("events_received", intake=name) for name in INTAKES),
            accepted=sum(self.sample("events_accepted", intake=name) for name in INTAKES),
            duplicates=self.sample("events_duplicate"),
            rejected={reason: count for reason, count in rejected.items() if count},
        )
        counts.assert_balanced()
        assert counts.accepted == self.buffer.ledger().accepted
        assert self.buffer.ledger().unaccounted == 0
        return counts

    def closed(self) -> dict[str, int]:
        """Return why connections were closed, and how many."""
        counted = {reason: self.sample("connections_closed", reason=reason) for reason in CLOSE_REASONS}
        return {reason: count for reason, count in counted.items() if count}

    def sample(self, name: str, **labels: str) -> int:
        value = self.telemetry.registry.get_sample_value(f"growlytics_forwarder_{name}_total", labels)
        assert value is not None, f"{name} {labels} exists"
        return int(value)


@asynccontextmanager
async def way_in(
    name: str, path: Path, *, max_events: int = 1_000_000, max_bytes: int = 1 << 30, **settings: Any
) -> AsyncIterator[WayIn]:
    """Run the intake `lines` or `datagram` until the block ends; `settings` are those of the section `intake`."""
    telemetry = Telemetry()
    buffer = stubborn_buffer(telemetry, max_events=max_events, max_bytes=max_bytes)
    section = IntakeSettings(**settings)
    acceptor = Acceptor(
        Elements(ContractSettings(), clock=time.time),
        buffer=buffer,
        types=AttributeTypes(ContractSettings(), telemetry=telemetry, clock=time.time),
        keys=DuplicateKeys(section, clock=time.time),
        telemetry=telemetry,
        ids=EventIds(),
        clock=time.time,
    )
    intake: LinesIntake | DatagramIntake
    if name == "lines":
        intake = LinesIntake(section, acceptor=acceptor, telemetry=telemetry)
        listener = bind_unix(path, mode=0o660, setting="intake.lines_socket")
    else:
        intake = DatagramIntake(section, acceptor=acceptor, telemetry=telemetry)
        listener = bind_unix_datagram(path, mode=0o660, setting="intake.datagram_socket")
    await intake.open(listener)
    running = WayIn(intake, buffer, telemetry, path)
    try:
        yield running
    finally:
        for client in running.clients:
            client.writer.transport.abort()
        await intake.close()
        running.counts()
        await buffer.close()


IDLE_SECONDS: Final = 0.15
"""Long enough for whatever would happen at once to have happened."""
