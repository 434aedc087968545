"""How `dead-letters` asks a daemon for its dead letters, page by page, and asks to replay or purge some.

Each event is cut out of the answer as bytes, so that its numbers keep every digit.
"""

import json
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple
from urllib.parse import urlencode

import msgspec

from forwarder.cli.clients import Patience
from forwarder.cli.daemon import MAX_ANSWER_BYTES, Daemon, DaemonAnswer, StoppedError, described_errors
from forwarder.cli.letter_filters import ALL, WantedLetters
from forwarder.growlytics import json_text

MAX_PAGE_LETTERS: Final = 1000
MAX_PAYLOAD_PAGE_LETTERS: Final = 100
MAX_PAGE_BYTES: Final = 8 * 1024 * 1024
"""For pages with payload. The command may run within the daemon's memory limit; if a page is longer, it asks for fewer."""
MAX_LETTER_BYTES: Final = 66 * 1024 * 1024
"""Room for the longest event that any intake accepts, and the rest of its entry."""

Action = Literal["replay", "purge"]

_PATH: Final = "/v1/dead-letters"
_MAX_MEMBERS: Final = 100
_BREAKS: Final = bytes.maketrans(b"\t\n\r", b"   ")
_Id = Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{1,40}\Z")]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_TIMES: Final = msgspec.Meta(ge=0, lt=253402300800)
_Time = Annotated[int, _TIMES] | Annotated[float, _TIMES]
"""Seconds from 1970 to the year 10000, where calendars end; an integer stays one, so that JSON shows it as it came."""


# Answers


class DeadLetterShown(msgspec.Struct, frozen=True):
    """An event that is kept because it cannot be delivered. All its texts are strangers'."""

    id: _Id
    name: str
    reason: str
    attempts: _Count
    accepted_at: _Time
    size_bytes: _Count
    status: _Count | None = None
    first_attempt_at: _Time | None = None
    last_attempt_at: _Time | None = None
    kind: str = "event"
    answer: str | None = None
    """The beginning of Growlytics' answer; None if it is not told, as it is only to operators."""
    customer: str = ""
    """This and the following field come only with the payload."""
    event: bytes = b""
    """The JSON object as the app sent it."""


class LetterPage(msgspec.Struct, frozen=True):
    """Some dead letters, the oldest first."""

    dead_letters: list[DeadLetterShown]
    events: _Count
    """How many exist in all, whatever the reason."""
    next: _Id | None = None
    """The cursor of the next page; None at the end."""


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


class _BuryAnswer(msgspec.Struct):
    state: Literal["buried", "after_attempt"]


class Decided(NamedTuple):
    """What became of the dead letters of one request; each is counted once."""

    done: int
    refusals: Sequence[tuple[str, Sequence[str]]]
    """The id and the errors of each dead letter that was refused, and so stays."""
    missing: Sequence[str]
    """The ids that are no longer dead letters."""


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
    """Return an entry with its event as bytes, which are cut out of the entry's `text`."""
    if not isinstance(entry, dict) or not text or not isinstance(entry.get("event"), dict) or "customer" not in entry:
        raise msgspec.ValidationError("there is no payload")
    return {**entry, "event": _members(text)["event"]}


def _members(text: bytes) -> dict[str, bytes]:
    if (found := json_text.members(text, most=_MAX_MEMBERS)) is None:
        raise msgspec.ValidationError("an object has too many members")
    return found


def read_replay(answer: DaemonAnswer, ids: Collection[str]) -> Decided:
    """Read what became of a replay of `ids`. Raises msgspec.ValidationError."""
    found = msgspec.convert(answer.content, _ReplayAnswer)
    refusals = [(each.id, described_errors({"errors": each.errors})) for each in found.refused]
    replayed = [each.id for each in found.replayed]
    if sorted([*replayed, *(each for each, _ in refusals), *found.missing]) != sorted(ids):
        raise msgspec.ValidationError("it is about other dead letters")
    return Decided(len(replayed), refusals, found.missing)


def read_purge(answer: DaemonAnswer, ids: Collection[str]) -> Decided:
    """Read what became of a purge of `ids`. Raises msgspec.ValidationError."""
    found = msgspec.convert(answer.content, _PurgeAnswer)
    if len({*found.missing} & {*ids}) != len(found.missing) or found.purged + len(found.missing) != len(ids):
        raise msgspec.ValidationError("it is about other dead letters")
    return Decided(found.purged, [], found.missing)


def exported_line(letter: DeadLetterShown) -> bytes:
    """Return what `export` writes of a dead letter: the event alone, or with its kind if that is another one."""
    if letter.kind == "event":
        return letter.event
    return b'{"kind":%b,"event":%b}' % (json.dumps(letter.kind).encode(), letter.event)


def on_one_line(event: bytes) -> bytes:
    """Return JSON without raw line breaks and tabs, which can only be between its values, not in strings."""
    return event.translate(_BREAKS)


def fit_to_show(event: bytes) -> str:
    """Return JSON of the same value that is safe to print on a terminal."""
    text = on_one_line(event).decode()
    # All that is not printable is within strings now, where JSON has escapes for it.
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


# Requests


class DeadLetterRequests:
    """Asks a running daemon for dead letters. Its methods raise DaemonError."""

    def __init__(self, daemon: Daemon, patience: Patience) -> None:
        self._daemon = daemon
        self._patience = patience

    def page(self, *, after: str | None, limit: int, only: WantedLetters, payload: bool) -> LetterPage | None:
        """Return the page after a cursor; None if `limit` letters are too long for one page."""
        query = {"limit": str(limit), **({} if after is None else {"after": after}), **only.query()}
        query["payload" if payload else "answers"] = "true"
        path = f"{_PATH}?{urlencode(query, errors='surrogatepass')}"
        max_bytes = MAX_ANSWER_BYTES if not payload else MAX_PAGE_BYTES if limit > 1 else MAX_LETTER_BYTES
        answer = self._get(path, max_bytes)
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

    def one(self, letter_id: str) -> DeadLetterShown | None:
        """Return a dead letter with its payload; None if no dead letter has this id."""
        answer = self._get(f"{_PATH}/{letter_id}", MAX_LETTER_BYTES)
        if answer.status == 404 and described_errors(answer.content):
            return None
        if answer.status != 200:
            raise self._daemon.refused(answer)
        try:
            return read_letter(answer)
        except msgspec.ValidationError:
            raise self._daemon.strange(answer) from None

    def _get(self, path: str, max_answer_bytes: int) -> DaemonAnswer:
        answered = self._patience.answer(
            lambda: self._daemon.get(path, max_answer_bytes=max_answer_bytes), doing="asking"
        )
        return answered.answer


class Pages:
    """Goes through the dead letters that exist at the start, the oldest first.

    The first page says how many there are, so that this ends however fast others come.
    """

    def __init__(
        self,
        letters: DeadLetterRequests,
        *,
        only: WantedLetters = ALL,
        payload: bool = False,
        at_most: int | None = None,
    ) -> None:
        self.held: int | None = None
        """How many existed at the start; None before the first page."""
        self._letters = letters
        self._only = only
        self._payload = payload
        self._left = at_most
        self._max_letters = MAX_PAYLOAD_PAGE_LETTERS if payload else MAX_PAGE_LETTERS
        self._limit = self._max_letters
        self._after: str | None = None
        self._is_end = False

    def next(self) -> Sequence[DeadLetterShown] | None:
        """Return the next dead letters, perhaps none; None at the end."""
        if self._is_end:
            return None
        page = self._page()
        self._limit = min(self._limit * 2, self._max_letters)
        if self.held is None:
            self.held = page.events
            start = max(page.events, len(page.dead_letters))
            self._left = start if self._left is None else min(self._left, start)
        assert self._left is not None, "the first page sets it"
        found = page.dead_letters[: self._left]
        self._left -= len(found)
        self._after = page.next
        self._is_end = page.next is None or not self._left
        return found

    def all(self) -> list[DeadLetterShown]:
        """Return all of them."""
        found: list[DeadLetterShown] = []
        while (letters := self.next()) is not None:
            found += letters
        return found

    def _page(self) -> LetterPage:
        while True:
            limit = self._limit if self._left is None else min(self._limit, self._left)
            page = self._letters.page(after=self._after, limit=limit, only=self._only, payload=self._payload)
            if page is not None:
                return page
            self._limit = limit // 2


def post(daemon: Daemon, action: Action, ids: Sequence[str], *, dry_run: bool) -> DaemonAnswer:
    """Ask once to replay or purge `ids`. Raises DaemonError."""
    content = {"ids": ids, "dry_run": dry_run} if action == "replay" else {"ids": ids}
    return daemon.post(f"{_PATH}/{action}", json.dumps(content).encode(), content_type="application/json")


def bury(daemon: Daemon, event_id: str, *, dry_run: bool) -> str:
    """Ask to make an event that waits a dead letter; return what becomes of it. Raises DaemonError."""
    body = json.dumps({"id": event_id, "dry_run": dry_run}).encode()
    answer = daemon.post(f"{_PATH}/bury", body, content_type="application/json")
    errors = described_errors(answer.content)
    if answer.status == 404 and errors:
        raise StoppedError(errors[0].removesuffix(" (not_found)"))
    if answer.status != 200:
        raise daemon.refused(answer)
    return daemon.read(answer, _BuryAnswer).state


def judge(action: Action, answer: DaemonAnswer, ids: Sequence[str], daemon: Daemon) -> Decided | None:
    """Return what an answer to a replay or purge of `ids` means; None if it must be asked for fewer at once.

    Raises StoppedError if asking for others is useless.
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
