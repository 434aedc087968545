"""The HTTP intake as the daemon wires it, without delivery, and a client that sends exactly the bytes it is told to."""

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from forwarder.attribute_types.guard import AttributeTypes
from forwarder.buffer.fates import Dropped
from forwarder.buffer.memory import MemoryBuffer
from forwarder.event import Event, EventIds
from forwarder.host.sockets import bind_tcp, bind_unix
from forwarder.http.connections import Bodies
from forwarder.http.messages import State
from forwarder.intake.acceptance import Acceptor
from forwarder.intake.bodies import ParsingBudget
from forwarder.intake.dead_letter_routes import DeadLetterRoutes
from forwarder.intake.duplicates import DuplicateKeys
from forwarder.intake.elements import Elements
from forwarder.intake.event_routes import EventRoutes
from forwarder.intake.http import HttpIntake
from forwarder.intake.operations import looking
from forwarder.observing.recent import Receipts
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import (
    Address,
    BufferSettings,
    ContractSettings,
    ControlSettings,
    Group,
    IntakeSettings,
    ReceiptsSettings,
)
from forwarder.words import DROP_REASONS, INTAKES, REFUSAL_REASONS, Intake
from tests.fakes.buffers import memory_buffer

DEADLINE_SECONDS: Final = 30.0
"""Of every single wait; nothing here takes nearly so long unless it hangs."""


@dataclass(frozen=True)
class Answer:
    """A response, read to its end."""

    status: int
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes
    version: str = "HTTP/1.1"

    @property
    def content(self) -> Any:
        """The body, which must be JSON and say so."""
        assert self.headers["content-type"].partition(";")[0] == "application/json"
        return json.loads(self.body)

    @property
    def codes(self) -> list[str]:
        """The codes of an error, whose shape must be the documented one."""
        content = self.content
        assert content.keys() == {"success", "code", "message", "errors"}
        assert {name: content["errors"][0][name] for name in ("code", "message")}.items() <= content.items()
        assert content["success"] is False
        return [code_of(error) for error in content["errors"]]

    @property
    def announces_close(self) -> bool:
        """Whether the connection is done with, as RFC 9112, section 9.3 says."""
        usual = "close" if self.version == "HTTP/1.0" else "keep-alive"
        return self.headers.get("connection", usual).lower() == "close"


def code_of(error: dict[str, object]) -> str:
    """Return the code of one described violation, after checking its shape."""
    assert error.keys() == {"code", "field", "message"}
    assert isinstance(error["code"], str)
    assert error["field"] is None or isinstance(error["field"], str)
    assert isinstance(error["message"], str)
    assert error["message"]
    return error["code"]


class Connection:
    """One connection to an intake."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            self._writer.write(data)
            await self._writer.drain()

    async def answer(self, *, without_body: bool = False) -> Answer:
        """Read the next response; 100 Continue is one, too."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            head = await self._reader.readuntil(b"\r\n\r\n")
            first, *fields = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
            version, status, _ = first.split(" ", 2)
            assert version in ("HTTP/1.0", "HTTP/1.1")
            headers = {}
            for field in fields:
                name, _, value = field.partition(":")
                assert name.lower() not in headers, f"{name} is given once"
                headers[name.lower()] = value.strip()
            length = 0 if status == "100" or without_body else int(headers["content-length"])
            return Answer(int(status), headers, await self._reader.readexactly(length), version)

    async def request(
        self, path: str, body: bytes | Iterable[bytes] = b"", *, method: str = "POST", **headers: str
    ) -> Answer:
        """Send a request and read its answer; `headers` with underscores for hyphens. An iterable is sent in chunks."""
        await self.send(request_bytes(path, body, method=method, **headers))
        return await self.answer(without_body=method == "HEAD")

    async def has_ended(self) -> bool:
        """Wait for the other side to close; False if it sends something instead."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            try:
                return await self._reader.read(1) == b""
            except ConnectionError:
                return True

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    async def reset(self) -> None:
        """Close with a TCP reset, as a killed machine's peer sees it."""
        raw = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self.close()


def request_bytes(path: str, body: bytes | Iterable[bytes] = b"", *, method: str = "POST", **headers: str) -> bytes:
    """Write a request."""
    fields = {"Host": "localhost"} | {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(body, bytes):
        fields.setdefault("Content-Length", str(len(body)))
        payload = body
    else:
        fields["Transfer-Encoding"] = "chunked"
        payload = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in body if chunk) + b"0\r\n\r\n"
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return head.encode("utf-8", "surrogateescape") + b"\r\n" + payload


@dataclass(frozen=True)
class Counts:
    """What the metrics say."""

    received: int
    accepted: int
    duplicates: int
    rejected: dict[str, int]
    """By reason, without those that are 0."""

    def assert_balanced(self) -> None:
        assert self.received == self.accepted + self.duplicates + sum(self.rejected.values())


@dataclass(frozen=True)
class Served:
    """A running intake."""

    intake: HttpIntake
    buffer: MemoryBuffer
    telemetry: Telemetry
    place: Address | Path
    budget: ParsingBudget
    status: dict[str, object]
    """What /v1/status shows."""

    async def connect(self) -> Connection:
        async with asyncio.timeout(DEADLINE_SECONDS):
            if isinstance(self.place, Path):
                return Connection(*await asyncio.open_unix_connection(self.place))
            return Connection(*await asyncio.open_connection(self.place.host, self.place.port))

    def awaiting(self, state: State) -> int:
        """Return how many connections wait for something."""
        return sum(connection.state is state for connection in self.intake.connections)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        connection = await self.connect()
        try:
            yield connection
        finally:
            await connection.close()

    async def post(self, path: str, body: bytes | Iterable[bytes] = b"", **headers: str) -> Answer:
        """Post over a connection of its own."""
        async with self.connection() as connection:
            return await connection.request(path, body, **headers)

    async def take_all(self) -> list[Event]:
        """Take everything out of the buffer, in the order in which it would be delivered."""
        events: list[Event] = []
        while self.buffer.occupancy().events:
            async with asyncio.timeout(DEADLINE_SECONDS):
                batch = await self.buffer.take(max_events=1000, max_bytes=1 << 30)
            await self.buffer.ack([(event, Dropped("corrupt")) for event in batch])
            events += batch
        return events

    def counts(self) -> Counts:
        by_reason = {reason: self._sample("events_rejected", reason=reason) for reason in REFUSAL_REASONS}
        counts = Counts(
            received=sum(self._sample("events_received", intake=name) for name in INTAKES),
            accepted=sum(self._sample("events_accepted", intake=name) for name in INTAKES),
            duplicates=self._sample("events_duplicate"),
            rejected={reason: count for reason, count in by_reason.items() if count},
        )
        ledger = self.buffer.ledger()
        assert counts.accepted == ledger.accepted
        assert ledger.unaccounted == 0
        assert sum(self._sample("events_dropped", reason=reason) for reason in DROP_REASONS) == sum(
            ledger.dropped.values()
        )
        return counts

    def _sample(self, name: str, **labels: str) -> int:
        value = self.telemetry.registry.get_sample_value(f"growlytics_forwarder_{name}_total", labels)
        assert value is not None, f"{name} {labels} exists"
        return int(value)


@asynccontextmanager
async def serving(
    *,
    unix: Path | None = None,
    mode: int = 0o660,
    group: Group | None = None,
    max_events: int = 1_000_000,
    max_bytes: int = 1 << 30,
    **intake_settings: Any,
) -> AsyncIterator[Served]:
    """Run an intake, on TCP or at the path `unix`, until the block ends; what else is given are settings of intake."""
    telemetry = Telemetry()
    buffer = memory_buffer(
        telemetry, asyncio.get_running_loop().time, BufferSettings(max_events=max_events, max_bytes=max_bytes)
    )
    settings = IntakeSettings(**{"body_timeout_seconds": DEADLINE_SECONDS} | intake_settings)
    elements = Elements(ContractSettings(), clock=time.time)
    dead_letters = DeadLetterRoutes(
        elements=elements,
        buffer=buffer,
        receipts=Receipts(ReceiptsSettings(), clock=time.time),
        next_id=EventIds().__next__,
        clock=time.time,
        max_replayed_bytes=settings.max_body_bytes,
    )

    async def receipt(event_id: int) -> dict[str, object] | None:
        return {"state": "buffered"} if await buffer.contains(event_id) else None

    status: dict[str, object] = {"state": "ready"}
    name: Intake = "unix" if unix else "http"
    budget = ParsingBudget(settings.max_parsing_bytes)
    acceptor = Acceptor(
        elements,
        buffer=buffer,
        types=AttributeTypes(ContractSettings(), telemetry=telemetry, clock=time.time),
        keys=DuplicateKeys(settings, clock=time.time),
        telemetry=telemetry,
        ids=EventIds(),
        clock=time.time,
    )
    intake = HttpIntake(
        settings,
        control=ControlSettings(group=group),
        intake=name,
        events=EventRoutes(settings, intake=name, acceptor=acceptor, budget=budget, telemetry=telemetry),
        bodies=Bodies(4 * settings.max_parsing_bytes),
        budget=budget,
        telemetry=telemetry,
        operations={**looking(lambda: status, receipt), **dead_letters.operations},
    )
    if unix:
        listener = bind_unix(unix, mode=mode, setting="intake.unix_socket")
    else:
        listener = bind_tcp(Address("127.0.0.1", 0), setting="intake.http")
    place = unix or Address(*listener.getsockname()[:2])
    await intake.open(listener)
    try:
        yield Served(intake, buffer, telemetry, place, budget, status)
    finally:
        await intake.close()
        await buffer.close()


async def until(condition: Callable[[], bool], *, what: str) -> None:
    """Wait for a condition, looking often."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError(f"waited in vain: {what}")
