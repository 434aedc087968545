"""A server that keeps dead letters as a daemon does, as far as its clients can see, and plays tricks that it is told to."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

ERROR = {"code": "name_too_long", "field": "name", "message": "name is too long"}
ERROR_TEXT = "name: name is too long (name_too_long)"

Step = Callable[[web.BaseRequest], web.StreamResponse | None]
"""Gives the answer of one request in the daemon's place; None leaves the client without one until it goes away."""


@dataclass(frozen=True)
class Asked:
    """One request, as it came."""

    method: str
    target: str
    content: Any
    authorization: str | None

    @property
    def ids(self) -> list[str]:
        """The dead letters that it names."""
        ids: list[str] = self.content["ids"]
        return ids


@dataclass
class DeadLetterDaemon:
    """It has the dead letters that `add` gave it; ids rise."""

    entries: dict[str, dict[str, object]] = field(default_factory=dict)
    """By id: what is told of each, without payload."""
    events: dict[str, bytes] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    steps: deque[Step | None] = field(default_factory=deque)
    """What becomes of the next requests; None, and an empty queue, stand for the daemon's own answer."""
    refused: set[str] = field(default_factory=set)
    """What the contract refuses when it is replayed."""
    replayed: list[str] = field(default_factory=list)
    dies_again: bool = False
    """Whether what is replayed is a dead letter again at once, under a new id."""
    max_ids: int = 1000
    """Of one replay or purge; more are 413."""
    max_page: int = 1000
    after_each_page: Callable[[], object] = lambda: None
    is_open: bool = True
    """False: it wants a token and gets none that it knows."""
    was_asked: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""
    _last_id: int = 100

    def add(self, event: bytes = b'{"a":1}', **changes: object) -> str:
        """Add one and return its id."""
        self._last_id += 1
        added = str(self._last_id)
        self.entries[added] = {
            "id": added,
            "name": "Add To Cart",
            "reason": "rejected",
            "status": 422,
            "attempts": 1,
            "accepted_at": 1763900000.123,
            "first_attempt_at": 1763900001.5,
            "last_attempt_at": 1763900002,
            "size_bytes": len(event),
            "customer": "c",
            "answer": "no such project",
        } | changes
        self.events[added] = event
        return added

    def add_many(self, count: int, *, reason: str = "rejected") -> list[str]:
        return [self.add(reason=reason) for _ in range(count)]

    @property
    def changes(self) -> list[Asked]:
        """The requests to replay or purge."""
        return [each for each in self.asked if each.method == "POST"]

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        asked = Asked(
            request.method,
            str(request.rel_url),
            json.loads(body) if body else None,
            request.headers.get("Authorization"),
        )
        self.asked.append(asked)
        step = self.steps.popleft() if self.steps else None
        answer = self._answer(request, asked) if step is None else step(request)
        self.was_asked.set()
        if answer is None:
            await asyncio.Event().wait()
        assert answer is not None
        return answer

    def _answer(self, request: web.BaseRequest, asked: Asked) -> web.Response:
        match asked.method, request.path.removeprefix("/v1/dead-letters"):
            case _ if not self.is_open:
                return refusal(401, "unauthorized")
            case "GET", "":
                return self._page(request)
            case "GET", one if one.removeprefix("/") in self.entries:
                return json_bytes(self._entry(one.removeprefix("/"), payload=True))
            case "POST", "/replay" | "/purge" if len(asked.ids) > self.max_ids:
                return refusal(413, "body_too_large")
            case "POST", "/replay" | "/purge":
                replays = request.path.endswith("/replay")
                done = self.replay(asked.ids, dry_run=asked.content["dry_run"]) if replays else self.purge(asked.ids)
                return web.json_response(done)
        return refusal(404, "not_found")

    def replay(self, ids: Sequence[str], *, dry_run: bool = False) -> dict[str, object]:
        """Replay these, and return the answer."""
        missing = [each for each in ids if each not in self.entries]
        refused = [each for each in ids if each in self.entries and each in self.refused]
        replayed = [each for each in ids if each in self.entries and each not in self.refused]
        for each in [] if dry_run else replayed:
            event = self.events[each]
            self._remove(each)
            self.replayed.append(each)
            if self.dies_again:
                self.add(event)
        return {
            "replayed": [{"id": each, "new_id": None if dry_run else f"9{each}"} for each in replayed],
            "refused": [{"id": each, "errors": [ERROR]} for each in refused],
            "missing": missing,
        }

    def purge(self, ids: Sequence[str]) -> dict[str, object]:
        """Purge these, and return the answer."""
        missing = [each for each in ids if not self._remove(each)]
        return {"purged": len(ids) - len(missing), "missing": missing}

    def _remove(self, letter_id: str) -> bool:
        self.events.pop(letter_id, None)
        return self.entries.pop(letter_id, None) is not None

    def _page(self, request: web.BaseRequest) -> web.Response:
        query = request.query
        found = [
            each
            for each, entry in self.entries.items()
            if int(each) > int(query.get("after", 0)) and query.get("reason", entry["reason"]) == entry["reason"]
        ]
        page = found[: min(int(query.get("limit", 100)), self.max_page)]
        cursor = page[-1] if len(page) < len(found) else None
        entries = b", ".join(self._entry(each, payload=query.get("payload") == "true") for each in page)
        held = len(self.entries)
        self.after_each_page()
        return json_bytes(b'{"dead_letters": [%b], "next": %b, "events": %d}' % (entries, encoded(cursor), held))

    def _entry(self, letter_id: str, *, payload: bool) -> bytes:
        entry = self.entries[letter_id]
        if payload:
            return encoded(entry)[:-1] + b', "event":' + self.events[letter_id] + b"}"
        return encoded({name: value for name, value in entry.items() if name not in {"customer", "answer"}})


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def json_bytes(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


def refusal(status: int, code: str, retry_after: str | None = None) -> web.Response:
    errors = {"success": False, "errors": [{"code": code, "field": None, "message": "no"}]}
    headers = None if retry_after is None else {"Retry-After": retry_after}
    return web.json_response(errors, status=status, headers=headers)


def refusing(status: int, code: str, retry_after: str | None = None) -> Step:
    return lambda _: refusal(status, code, retry_after)


def answering(content: object) -> Step:
    return lambda _: web.json_response(content)


def hang_up(request: web.BaseRequest) -> web.StreamResponse | None:
    """End the connection without an answer."""
    assert request.transport is not None
    request.transport.close()
    return None


def no_answer(_: web.BaseRequest) -> None:
    return None


@asynccontextmanager
async def dead_letter_daemon(unix_socket: str | None = None) -> AsyncIterator[DeadLetterDaemon]:
    """Serve while the block runs."""
    daemon = DeadLetterDaemon()
    runner = web.ServerRunner(web.Server(daemon.handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0) if unix_socket is None else web.UnixSite(runner, unix_socket)
        await site.start()
        if unix_socket is None:
            host, port = runner.addresses[0][:2]
            daemon.url = f"http://{host}:{port}"
        yield daemon
    finally:
        await runner.cleanup()
