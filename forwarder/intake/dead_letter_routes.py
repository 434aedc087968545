"""The endpoints of dead letters: list, show, replay, purge. What bears payloads or changes something is guarded."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, assert_never

import orjson

from forwarder.buffer.base import Full, NeverFits, Unavailable
from forwarder.database.connection import DamagedError, UnavailableError
from forwarder.database.dead_letters import DeadLetter
from forwarder.dead_letters import MAX_LETTERS, DeadLetters
from forwarder.http.messages import Answer
from forwarder.intake import answers
from forwarder.intake.replay import Replayed, Replayer
from forwarder.words import DEAD_REASONS, DeadReason, RequestCode

_MAX_INTEGER = (1 << 63) - 1


class _AskedWronglyError(Exception):
    """The request cannot be understood; the message says why."""


class DeadLetterRoutes:
    """Answers requests for dead letters."""

    changes = ("replay", "purge")
    has_ids = True

    def __init__(self, dead_letters: DeadLetters, replayer: Replayer) -> None:
        self._dead_letters = dead_letters
        self._replayer = replayer

    async def get(self, path: str, query: Mapping[str, str], *, lacking: Callable[[], RequestCode | None]) -> Answer:
        """Answer a GET of what follows `/v1/dead-letters`, without a slash; `lacking` tells what it lacks for payloads."""
        try:
            with_payload = bool(path) or _flag(query.get("payload", "false"), "payload")
            if with_payload and (code := lacking()) is not None:
                return answers.refusal(code)
            return await (self._show(path) if path else self._list(query, with_payload=with_payload))
        except _AskedWronglyError as error:
            return answers.wrong_request(str(error))
        except (UnavailableError, DamagedError):
            return answers.refusal("buffer_unavailable")

    async def post(self, path: str, body: bytes, *, lacking: RequestCode | None) -> Answer:
        """Answer a POST to what follows `/v1/dead-letters/`; `lacking`: the code of what it lacks to change things."""
        if lacking is not None:
            return answers.refusal(lacking)
        try:
            asked = _asked(body)
            ids = _ids(asked)
            match path:
                case "replay":
                    return _replayed(await self._replayer.replay(ids, dry_run=_dry_run(asked)))
                case "purge":
                    purged = set(await self._dead_letters.purge(ids))
                    missing = [str(each) for each in ids if each not in purged]
                    return answers.content({"purged": len(purged), "missing": missing})
                case _:
                    return answers.refusal("not_found")
        except _AskedWronglyError as error:
            return answers.wrong_request(str(error))
        except (UnavailableError, DamagedError):
            return answers.refusal("buffer_unavailable")

    async def _list(self, query: Mapping[str, str], *, with_payload: bool) -> Answer:
        limit = _integer(query.get("limit", "100"), "limit", 1, MAX_LETTERS)
        after = _integer(query.get("after", "0"), "after", 0, _MAX_INTEGER)
        page = await self._dead_letters.page(after_place=after, max_letters=limit, reason=_reason(query.get("reason")))
        return answers.content(
            {
                "dead_letters": [_described(letter, with_payload=with_payload) for letter in page.letters],
                "next": None if page.next_place is None else str(page.next_place),
                "events": self._dead_letters.events,
            }
        )

    async def _show(self, path: str) -> Answer:
        if not path.isascii() or not path.isdecimal() or int(path) > _MAX_INTEGER:
            return answers.refusal("not_found")
        found = await self._dead_letters.find([int(path)])
        return answers.content(_described(found[0], with_payload=True)) if found else answers.refusal("not_found")


def _described(letter: DeadLetter, *, with_payload: bool) -> dict[str, object]:
    event = letter.event
    described: dict[str, object] = {
        "id": str(event.id),
        "name": answers.text(event.name),
        "reason": letter.reason,
        "status": letter.status,
        "attempts": letter.attempts,
        "accepted_at": event.accepted_at,
        "first_attempt_at": letter.first_attempt_at,
        "last_attempt_at": letter.last_attempt_at,
        "size_bytes": event.size_bytes,
    }
    if with_payload:
        described["customer"] = answers.text(event.customer)
        described["answer"] = letter.answer.decode(errors="replace")
        described["event"] = orjson.Fragment(event.body)
    return described


def _replayed(answer: Replayed | Full | NeverFits | Unavailable) -> Answer:
    match answer:
        case Replayed(moved, refused, missing):
            return answers.content(
                {
                    "replayed": [{"id": str(old), "new_id": None if new is None else str(new)} for old, new in moved],
                    "refused": [{"id": str(old), "errors": answers.described(why.violations)} for old, why in refused],
                    "missing": [str(each) for each in missing],
                }
            )
        case Full():
            return answers.refusal("buffer_full", retry_after_seconds=answer.retry_after_seconds)
        case NeverFits():
            return answers.refusal("body_too_large")
        case Unavailable():
            return answers.refusal("buffer_unavailable")
        case _:
            assert_never(answer)


def _asked(body: bytes) -> dict[str, Any]:
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError:
        asked = None
    if not isinstance(asked, dict):
        raise _AskedWronglyError('send a JSON object like {"ids": ["1"]}')
    return asked


def _dry_run(asked: Mapping[str, Any]) -> bool:
    dry_run = asked.get("dry_run", False)
    if not isinstance(dry_run, bool):  # or it would be no dry run
        raise _AskedWronglyError("dry_run: true or false")
    return dry_run


def _ids(asked: Mapping[str, Any]) -> Sequence[int]:
    ids = asked.get("ids")
    if not isinstance(ids, list) or not 1 <= len(ids) <= MAX_LETTERS:
        raise _AskedWronglyError(f"ids must be a list of 1 to {MAX_LETTERS} ids")
    return list(dict.fromkeys(_integer(each, "ids", 0, _MAX_INTEGER) for each in ids))


def _reason(text: str | None) -> DeadReason | None:
    for reason in DEAD_REASONS:
        if text == reason:
            return reason
    if text is not None:
        raise _AskedWronglyError(f"reason: one of {', '.join(DEAD_REASONS)}")
    return None


def _flag(text: str, name: str) -> bool:
    if text not in {"true", "false"}:
        raise _AskedWronglyError(f"{name}: true or false")
    return text == "true"


def _integer(text: object, name: str, low: int, high: int) -> int:
    # 19 digits are as many as the largest has, and more would take their time to be converted.
    if isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) <= 19 and low <= int(text) <= high:
        return int(text)
    raise _AskedWronglyError(f"{name}: a decimal number from {low} to {high}, as text")
