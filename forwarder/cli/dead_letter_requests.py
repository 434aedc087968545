"""Asking a daemon for its dead letters, page by page, and to replay or purge some. Used by the commands."""

import asyncio
import json
from collections.abc import Sequence
from typing import Final, Literal
from urllib.parse import urlencode

from forwarder.cli.daemon import (
    FORBIDDEN_MEND,
    MAX_ANSWER_BYTES,
    UNAUTHORIZED_MEND,
    Daemon,
    DaemonAnswer,
    described_errors,
    not_a_forwarder,
)
from forwarder.cli.dead_letter_answers import (
    DeadLetterPage,
    DeadLetterShown,
    Decided,
    StrangeAnswerError,
    read_letter,
    read_page,
    read_purge,
    read_replay,
)
from forwarder.cli.patience import Patience, StoppedError

MAX_PAGE_LETTERS: Final = 1000
MAX_PAYLOAD_PAGE_LETTERS: Final = 100
MAX_PAGE_BYTES: Final = 8 * 1024 * 1024
"""With payload. It may run inside the daemon's memory limit; where a page is longer, fewer are asked for."""
MAX_LETTER_BYTES: Final = 66 * 1024 * 1024
"""The longest event that any intake takes, and what is around it."""

Action = Literal["replay", "purge"]
_PATH: Final = "/v1/dead-letters"


class DeadLetterRequests:
    """The dead letters of a running daemon. Its methods raise DaemonError and StoppedError."""

    def __init__(self, daemon: Daemon, patience: Patience) -> None:
        self.daemon: Final = daemon
        self._patience = patience

    async def page(self, *, after: str | None, limit: int, reason: str | None, payload: bool) -> DeadLetterPage | None:
        """Return the page that follows a cursor; None if so many are too long for one page."""
        query = {"limit": str(limit), "after": after, "reason": reason, "payload": "true" if payload else None}
        path = f"{_PATH}?{urlencode({name: value for name, value in query.items() if value is not None})}"
        max_bytes = MAX_ANSWER_BYTES if not payload else MAX_PAGE_BYTES if limit > 1 else MAX_LETTER_BYTES
        answer = await self._get(path, max_bytes)
        if answer.status != 200:
            raise stopped_by(answer, self.daemon)
        if answer.text is None and payload and limit > 1:
            return None
        try:
            page = read_page(answer, payload=payload)
        except StrangeAnswerError:
            raise StoppedError(not_a_forwarder(self.daemon.place, answer.status)) from None
        if len(page.letters) > limit or (page.next is not None and page.next == after):
            raise StoppedError(not_a_forwarder(self.daemon.place, answer.status))
        return page

    async def one(self, letter_id: str) -> DeadLetterShown | None:
        """Return a dead letter with its payload; None if there is none of this id."""
        answer = await self._get(f"{_PATH}/{letter_id}", MAX_LETTER_BYTES)
        if answer.status == 404 and described_errors(answer.content):
            return None
        if answer.status != 200:
            raise stopped_by(answer, self.daemon)
        try:
            return read_letter(answer)
        except StrangeAnswerError:
            raise StoppedError(not_a_forwarder(self.daemon.place, answer.status)) from None

    async def _get(self, path: str, max_answer_bytes: int) -> DaemonAnswer:
        # A connection that was closed meanwhile shows it only once the loop has run.
        await asyncio.sleep(0)
        answered = await self._patience.answer(
            lambda: self.daemon.get(path, max_answer_bytes=max_answer_bytes), doing="asking"
        )
        return answered.answer


class Pages:
    """Goes through the dead letters, the oldest first, up to the end as it was at the start.

    It counts from the first page how many there were, so that it ends however fast others come.
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
            self.held = page.held
            start = max(page.held, len(page.letters))
            self._left = start if self._left is None else min(self._left, start)
        assert self._left is not None, "it is known from the first page on"
        found = page.letters[: self._left]
        self._left -= len(found)
        self._after = page.next
        self._is_end = page.next is None or not self._left
        return found

    async def ids(self) -> list[str]:
        """Return the ids of all of them."""
        found: list[str] = []
        while (letters := await self.next()) is not None:
            found += [each.id for each in letters]
        return list(dict.fromkeys(found))

    async def _page(self) -> DeadLetterPage:
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
            except StrangeAnswerError:
                raise StoppedError(not_a_forwarder(daemon.place, answer.status)) from None
        case 413 if len(ids) > 1:
            return None
        case 413 if errors := described_errors(answer.content):
            return Decided(0, [(ids[0], errors)], [])
    raise stopped_by(answer, daemon)


def stopped_by(answer: DaemonAnswer, daemon: Daemon) -> StoppedError:
    """Return the error for an answer that refuses a request as a whole."""
    errors = described_errors(answer.content)
    if answer.status < 400 or not errors:
        return StoppedError(not_a_forwarder(daemon.place, answer.status))
    mend = f"; {UNAUTHORIZED_MEND}" if answer.status == 401 else ""
    if answer.status == 403 and daemon.place.unix_socket is not None:
        mend = f"; {FORBIDDEN_MEND}"
    return StoppedError(f"{daemon.place} answered {answer.status}: {errors[0]}{mend}")
