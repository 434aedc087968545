"""What h11, a parser that shares nothing with ours, makes of a stream; and what ours makes of it."""

from dataclasses import dataclass, field
from typing import NamedTuple

import h11

from forwarder.http.messages import Limits, Refusal, Request
from forwarder.http.reading import SLICE_BYTES, RequestReader

LIMITS = Limits(head_seconds=1, body_seconds=1, answer_seconds=1)


class Seen(NamedTuple):
    """One request, whose head is complete."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes | None
    """None if it is not complete."""


@dataclass
class Reading:
    """The requests that a stream has, and why it ends before its end, if it does."""

    requests: list[Seen] = field(default_factory=list)
    refusal: str | None = None
    starts: list[int] = field(default_factory=lambda: [0])
    """Where h11 found each request to begin, and where another one could."""


class _Recorder:
    """Takes what a reader finds."""

    def __init__(self) -> None:
        self.reading = Reading()

    def head_began(self) -> None:
        pass

    def head_ended(self, request: Request, *, version: str, is_last: bool, with_body: bool, body_bytes: int) -> int:
        del version, is_last, with_body, body_bytes
        seen = Seen(request.method, request.target, _comparable(dict(request.headers)), None)
        self.reading.requests.append(seen)
        return 1 << 20

    def body_ended(self, body: bytes) -> None:
        self.reading.requests[-1] = self.reading.requests[-1]._replace(body=body)

    def refused(self, refusal: Refusal) -> None:
        self.reading.refusal = refusal


def ours(stream: bytes, *, segment_bytes: int = SLICE_BYTES) -> Reading:
    """Return what our reader makes of a stream."""
    recorder = _Recorder()
    reader = RequestReader(recorder, LIMITS, peer=None)
    for start in range(0, len(stream), segment_bytes):
        reader.feed(stream[start : start + segment_bytes])
    reader.end()
    return recorder.reading


def theirs(stream: bytes) -> Reading:
    """Return what h11 makes of a stream."""
    reading = Reading()
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(stream)
    body = b""
    try:
        while True:
            event = connection.next_event()
            match event:
                case h11.Request():
                    reading.requests.append(_seen(event))
                    body = b""
                case h11.Data():
                    body += bytes(event.data)
                case h11.EndOfMessage():
                    reading.requests[-1] = reading.requests[-1]._replace(body=body)
                    reading.starts.append(len(stream) - len(connection.trailing_data[0]))
                    connection.send(h11.Response(status_code=404, headers=[("Content-Length", "0")]))
                    connection.send(h11.EndOfMessage())
                    if connection.our_state is not h11.DONE:
                        return reading
                    connection.start_next_cycle()
                case _:
                    return reading
    except h11.RemoteProtocolError as error:
        reading.refusal = str(error)
    return reading


def _seen(request: h11.Request) -> Seen:
    headers: dict[str, str] = {}
    for name, value in request.headers:
        key, text = name.decode(), value.decode("utf-8", "surrogateescape")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    method = request.method.decode()
    return Seen("GET" if method == "HEAD" else method, request.target.decode(), _comparable(headers), None)


def _comparable(headers: dict[str, str]) -> dict[str, str]:
    """Return headers as h11 gives them: what it understands it writes anew."""
    if "transfer-encoding" in headers:
        headers["transfer-encoding"] = headers["transfer-encoding"].lower()
    return headers
