"""Asking a daemon for its dead letters, page by page, and to replay or purge some. Used by `dead-letters`.

Each event is cut out of the answer as the bytes that came, so that its numbers keep every digit.
"""

import asyncio
import json
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple
from urllib.parse import urlencode

import msgspec

from forwarder.cli.daemon import MAX_ANSWER_BYTES, Daemon, DaemonAnswer, described_errors
from forwarder.cli.progress import Patience
from forwarder.growlytics import json_text

MAX_PAGE_LETTERS: Final = 1000
MAX_PAYLOAD_PAGE_LETTERS: Final = 100
MAX_PAGE_BYTES: Final = 8 * 1024 * 1024
"""With payload. The command may run inside the daemon's memory limit; if a page is longer, it asks for fewer letters."""
MAX_LETTER_BYTES: Final = 66 * 1024 * 1024
"""The longest event that any intake accepts, and what is around it."""

Action = Literal["replay", "purge"]

_PATH: Final = "/v1/dead-letters"
_MAX_MEMBERS: Final = 100
_BREAKS: Final = bytes.maketrans(b"\t\n\r", b"   ")
_Id = Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{1,40}\Z")]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Time = Annotated[float, msgspec.Meta(ge=0, lt=253402300800)]
"""Seconds from 1970 to the year 10000, beyond which no calendar goes."""


# Answers


class DeadLetterShown(msgspec.Struct, frozen=True):
    """An event that is kept because it cannot be delivered. All its texts are from strangers."""

    id: _Id
    name: str
    reason: str
    attempts: _Count
    accepted_at: _Time
    size_bytes: _Count
    status: _Count | None = None
    first_attempt_at: _Time | None = None
    last_attempt_at: _Time | None = None
    customer: str = ""
    """This and the following come with the payload only."""
    answer: str | None = None
    """The beginning of what Growlytics answered; None if it never did."""
    event: bytes = b""
    """The JSON object as the app sent it."""


class LetterPage(msgspec.Struct, frozen=True):
    """Some dead letters, the oldest first."""

    dead_letters: list[DeadLetterShown]
    events: _Count
    """How many there are in all, whatever the reason."""
    next: _Id | None = None
    """The cursor behind the last one; None at the end."""


class _Replayed(msgspec.Struct):
    id: _Id


class _RefusedReplay(msgspec.Struct):
    id: _Id
    errors: list[Any]


class _ReplayAnswer(msgspec.Struct):
    replayed: list[_Replayed]
    refused: list[_RefusedReplay]
    missing: list[_Id]


class _PurgeAnswer(msgspec.Struct):
    purged: _Count
    missing: list[_Id]


class Decided(NamedTuple):
    """What became of the dead letters that a request named, each of which is counted once."""

    done: int
    refusals: Sequence[tuple[str, Sequence[str]]]
    """The id and the errors of each that stays."""
    missing: Sequence[str]
    """They are no longer dead letters."""


def read_page(answer: DaemonAnswer, *, payload: bool) -> LetterPage:
    """Read a page of dead letters. Raises msgspec.ValidationError."""
    content = answer.content
    if payload and isinstance(entries := content.get("dead_letters"), list) and answer.text is not None:
        raw = json_text.elements(_members(answer.text)["dead_letters"])
        whole = [_with_event(entry, text) for entry, text in zip(entries, raw, strict=True)]
        content = {**content, "dead_letters": whole}
    return msgspec.convert(content, LetterPage)


def read_letter(answer: DaemonAnswer) -> DeadLetterShown:
    """Read one dead letter with its payload. Raises msgspec.ValidationError."""
    return msgspec.convert(_with_event(answer.content, answer.text), DeadLetterShown)


def _with_event(entry: object, text: bytes | None) -> dict[str, object]:
    """Return an entry, whose text came as `text`, with its event as the bytes that came."""
    if not isinstance(entry, dict) or not text or not isinstance(entry.get("event"), dict) or "customer" not in entry:
        raise msgspec.ValidationError("there is no payload")
    return {**entry, "event": _members(text)["event"]}


def _members(text: bytes) -> dict[str, bytes]:
    if (found := json_text.members(text, most=_MAX_MEMBERS)) is None:
        raise msgspec.ValidationError("an object has too many members")
    return found


def read_replay(answer: DaemonAnswer, ids: Collection[str]) -> Decided:
    """Read what became of the replay of these. Raises msgspec.ValidationError."""
    found = msgspec.convert(answer.content, _ReplayAnswer)
    refusals = [(each.id, described_errors({"errors": each.errors})) for each in found.refused]
    replayed = [each.id for each in found.replayed]
    if sorted([*replayed, *(each for each, _ in refusals), *found.missing]) != sorted(ids):
        raise msgspec.ValidationError("it is not about these")
    return Decided(len(replayed), refusals, found.missing)


def read_purge(answer: DaemonAnswer, ids: Collection[str]) -> Decided:
    """Read what became of the purge of these. Raises msgspec.ValidationError."""
    found = msgspec.convert(answer.content, _PurgeAnswer)
    if len({*found.missing} & {*ids}) != len(found.missing) or found.purged + len(found.missing) != len(ids):
        raise msgspec.ValidationError("it is not about these")
    return Decided(found.purged, [], found.missing)


def on_one_line(event: bytes) -> bytes:
    """Return JSON without raw line breaks and tabs, which can only be between its values: strings hold none."""
    return event.translate(_BREAKS)


def fit_to_show(event: bytes) -> str:
    """Return JSON of the same value that cannot play with a terminal."""
    text = on_one_line(event).decode()
    # Whatever is not printable is inside a string now, where JSON has an escape for it.
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


# Requests


class DeadLetterRequests:
    """The dead letters of a running daemon. Its methods raise DaemonError."""

    def __init__(self, daemon: Daemon, patience: Patience) -> None:
        self._daemon = daemon
        self._patience = patience

    async def page(self, *, after: str | None, limit: int, reason: str | None, payload: bool) -> LetterPage | None:
        """Return the page that follows a cursor; None if so many letters are too long for one page."""
        query = {"limit": str(limit), "after": after, "reason": reason, "payload": "true" if payload else None}
        path = f"{_PATH}?{urlencode({name: value for name, value in query.items() if value is not None})}"
        max_bytes = MAX_ANSWER_BYTES if not payload else MAX_PAGE_BYTES if limit > 1 else MAX_LETTER_BYTES
        answer = await self._get(path, max_bytes)
        if answer.status != 200:
            raise self._daemon.refused(answer)
        if answer.text is None and payload and limit > 1:
            return None
        try:
            page = read_page(answer, payload=payload)
        except msgspec.ValidationError:
            raise self._daemon.strange(answer) from None
        if len(page.dead_letters) > limit or (page.next is not None and page.next == after):
            raise self._daemon.strange(answer)
        return page

    async def one(self, letter_id: str) -> DeadLetterShown | None:
        """Return a dead letter with its payload; None if there is none of this id."""
        answer = await self._get(f"{_PATH}/{letter_id}", MAX_LETTER_BYTES)
        if answer.status == 404 and described_errors(answer.content):
            return None
        if answer.status != 200:
            raise self._daemon.refused(answer)
        try:
            return read_letter(answer)
        except msgspec.ValidationError:
            raise self._daemon.strange(answer) from None

    async def _get(self, path: str, max_answer_bytes: int) -> DaemonAnswer:
        # A connection that was closed meanwhile shows it only once the loop has run.
        await asyncio.sleep(0)
        answered = await self._patience.answer(
            lambda: self._daemon.get(path, max_answer_bytes=max_answer_bytes), doing="asking"
        )
        return answered.answer


class Pages:
    """Goes through the dead letters, the oldest first, up to the end as it was at the start.

    It learns from the first page how many there were, so that it ends however fast others come.
    """

    def __init__(
        self,
        letters: DeadLetterRequests,
        *,
        reason: str | None = None,
        payload: bool = False,
        at_most: int | None = None,
    ) -> None:
        self.held: int | None = None
        """How many there were in all at the start; None before the first page."""
        self._letters = letters
        self._reason = reason
        self._payload = payload
        self._left = at_most
        self._max_letters = MAX_PAYLOAD_PAGE_LETTERS if payload else MAX_PAGE_LETTERS
        self._limit = self._max_letters
        self._after: str | None = None
        self._is_end = False

    async def next(self) -> Sequence[DeadLetterShown] | None:
        """Return the next of them, perhaps none for now; None at the end."""
        if self._is_end:
            return None
        page = await self._page()
        self._limit = min(self._limit * 2, self._max_letters)
        if self.held is None:
            self.held = page.events
            start = max(page.events, len(page.dead_letters))
            self._left = start if self._left is None else min(self._left, start)
        assert self._left is not None, "it is known from the first page on"
        found = page.dead_letters[: self._left]
        self._left -= len(found)
        self._after = page.next
        self._is_end = page.next is None or not self._left
        return found

    async def all(self) -> list[DeadLetterShown]:
        """Return all of them."""
        found: list[DeadLetterShown] = []
        while (letters := await self.next()) is not None:
            found += letters
        return found

    async def _page(self) -> LetterPage:
        while True:
            limit = self._limit if self._left is None else min(self._limit, self._left)
            page = await self._letters.page(after=self._after, limit=limit, reason=self._reason, payload=self._payload)
            if page is not None:
                return page
            self._limit = limit // 2


async def post(daemon: Daemon, action: Action, ids: Sequence[str], *, dry_run: bool) -> DaemonAnswer:
    """Ask once to replay or purge these. Raises DaemonError."""
    content = {"ids": ids, "dry_run": dry_run} if action == "replay" else {"ids": ids}
    return await daemon.post(f"{_PATH}/{action}", json.dumps(content).encode(), content_type="application/json")


def judge(action: Action, answer: DaemonAnswer, ids: Sequence[str], daemon: Daemon) -> Decided | None:
    """Decide what an answer to a replay or purge of these means; None if the daemon takes only fewer at once.

    Raises StoppedError if no others will fare better.
    """
    match answer.status:
        case 200:
            try:
                return read_replay(answer, ids) if action == "replay" else read_purge(answer, ids)
            except msgspec.ValidationError:
                raise daemon.strange(answer) from None
        case 413 if len(ids) > 1:
            return None
        case 413 if errors := described_errors(answer.content):
            return Decided(0, [(ids[0], errors)], [])
    raise daemon.refused(answer)
