"""A transport without sockets. A test plays its client: it sends bytes, reads or leaves what was written, ends its half,
or resets the connection.
"""

import asyncio
import re
from typing import Any


async def turn() -> None:
    """Let all callbacks of the event loop run that wait, and those that they call soon."""
    for _ in range(4):
        await asyncio.sleep(0)


class FakeTransport(asyncio.Transport):
    """One connection, seen from its client. It calls its protocol as the loop would; what that raises fails the test."""

    def __init__(self, protocol: asyncio.Protocol, *, high_water_bytes: int = 64 * 1024, is_tls: bool = False) -> None:
        super().__init__({"ssl_object": object() if is_tls else None})
        self.protocol = protocol
        self.writes: list[bytes] = []
        self.unread_bytes = 0
        """What the client left, if it does not read."""
        self.client_reads = True
        self.is_lost = False
        self.has_written_eof = False
        self._is_reading = True
        self._is_tls = is_tls
        self._high_water_bytes = high_water_bytes
        self._inbox: list[bytes | None] = []
        self._is_closing = self._is_paused = False
        self._loop = asyncio.get_running_loop()
        protocol.connection_made(self)

    # The client's side

    def send(self, data: bytes) -> None:
        """Have data come, now or as soon as it is read."""
        self._inbox.append(data)
        self._deliver()

    def send_in_pieces(self, data: bytes, *sizes: int) -> None:
        """Have data come in pieces, the last of which has what is left."""
        for size in sizes:
            self.send(data[:size])
            data = data[size:]
        if data:
            self.send(data)

    def end(self) -> None:
        """Have the client send no more; it still reads."""
        self._inbox.append(None)
        self._deliver()

    def reset(self) -> None:
        """Have the client hang up."""
        self._is_closing = True
        self._lose(ConnectionResetError())

    def read_all(self) -> None:
        """Have the client read what it left, and all that follows."""
        self.client_reads, self.unread_bytes = True, 0
        if self._is_paused:
            self._is_paused = False
            self.protocol.resume_writing()
        if self._is_closing:
            self._lose(None)

    @property
    def written(self) -> bytes:
        """What was written, without the times in it."""
        return re.sub(rb"Date: [^\r]*\r\n", b"", b"".join(self.writes))

    @property
    def statuses(self) -> list[int]:
        """Of the answers; no body may contain `HTTP/1.1`."""
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", self.written)]

    @property
    def bodies(self) -> list[str]:
        """The bodies of the answers, which must have no line breaks."""
        return [part.decode() for part in re.split(rb"HTTP/1\.1 \d+ [^\n]*\n(?:[^\r\n]+\r\n)*\r\n", self.written)[1:]]

    # The server's side

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        assert data, "nothing is written for nothing"
        assert not self.has_written_eof, "the end was written already"
        if self.is_lost or self._is_closing:
            return
        self.writes.append(bytes(data))
        if not self.client_reads:
            self.unread_bytes += len(data)
            if self.unread_bytes > self._high_water_bytes and not self._is_paused:
                self._is_paused = True
                self.protocol.pause_writing()

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            if not self.unread_bytes:
                self._lose(None)

    def abort(self) -> None:
        self._is_closing = True
        self._lose(None)

    def get_write_buffer_size(self) -> int:
        return self.unread_bytes

    def is_closing(self) -> bool:
        return self._is_closing

    def is_reading(self) -> bool:
        return self._is_reading

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        if not self._is_reading:
            self._is_reading = True
            self._loop.call_soon(self._deliver)

    def can_write_eof(self) -> bool:
        return not self._is_tls

    def write_eof(self) -> None:
        self.has_written_eof = True

    def _deliver(self) -> None:
        while self._inbox and self._is_reading and not self._is_closing:
            data = self._inbox.pop(0)
            if data is not None:
                self.protocol.data_received(data)
            elif not self.protocol.eof_received():
                self.close()

    def _lose(self, error: Exception | None) -> None:
        if not self.is_lost:
            self.is_lost = True
            self._loop.call_soon(self.protocol.connection_lost, error)
