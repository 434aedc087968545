"""The two endpoints for events over HTTP: one event, as Growlytics itself accepts it, and batches."""

from contextlib import AbstractAsyncContextManager
from functools import partial
from time import perf_counter
from typing import Final

from forwarder.buffer.base import PutAnswer, Stored
from forwarder.growlytics import json_text
from forwarder.growlytics.json_text import MalformedJsonError
from forwarder.http.messages import Answer, Later, Reply, Request
from forwarder.intake import answers
from forwarder.intake.acceptance import Accepted, Acceptor
from forwarder.intake.bodies import EXEMPT_BYTES, ParsingBudget, RefusedBodyError, inflater_for, unpacked
from forwarder.intake.elements import Element
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import IntakeSettings
from forwarder.words import Intake, SharedCode

_LINES_TYPES: Final = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})


class EventRoutes:
    """Answers the posts of events to one listener; `intake` is its name in the metrics."""

    def __init__(
        self,
        settings: IntakeSettings,
        *,
        intake: Intake,
        acceptor: Acceptor,
        budget: ParsingBudget,
        telemetry: Telemetry,
    ) -> None:
        self._intake = intake
        self._budget = budget
        self._acceptor = acceptor
        self._telemetry = telemetry
        self._max_body_bytes = settings.max_body_bytes

    def one(self, request: Request) -> Reply:
        """Answer a post of one event."""
        started = perf_counter()
        key = request.headers.get("idempotency-key")
        if "content-encoding" in request.headers or len(request.body) >= EXEMPT_BYTES:
            return self._one_unpacked(request, key, started)
        element = self._acceptor.read.one(request.body, key)
        if (storing := self._acceptor.begin_one(element, intake=self._intake)) is None:
            return self._accept(element, started)
        return Later(storing.stored, partial(self._stored, storing.event_id, started))

    def _stored(self, event_id: int, started: float, stored: PutAnswer) -> Answer:
        self._telemetry.request_answered(perf_counter() - started)
        if isinstance(stored, Stored):
            return answers.accepted_one(event_id)
        self._acceptor.refused_one(stored, intake=self._intake)
        return answers.no_room(stored)

    async def _one_unpacked(self, request: Request, key: str | None, started: float) -> Answer:
        try:
            async with self._unpacked(request) as body:
                return await self._accept(self._acceptor.read.one(body, key), started)
        except RefusedBodyError as error:
            return self._refuse(error.code)

    async def _accept(self, element: Element, started: float) -> Answer:
        accepted = await self._acceptor.accept([element], intake=self._intake)
        self._telemetry.request_answered(perf_counter() - started)
        if not isinstance(accepted, Accepted):
            return answers.no_room(accepted)
        event_id = accepted.ids[0]
        return answers.violations(accepted.refusals[0][1]) if event_id is None else answers.accepted_one(event_id)

    async def batch(self, request: Request) -> Answer:
        """Answer a post of a batch."""
        started = perf_counter()
        try:
            async with self._unpacked(request) as body:
                answer = await self._batch(request, body)
        except RefusedBodyError as error:
            return self._refuse(error.code)
        self._telemetry.request_answered(perf_counter() - started)
        return answer

    async def _batch(self, request: Request, body: bytes) -> Answer:
        with_ids = request.query.get("ids", "false")
        if with_ids not in {"true", "false"}:
            self._telemetry.events_refused(1, intake=self._intake, reason="wrong_type")
            return answers.wrong("wrong_type", "ids: true or false")
        key = request.headers.get("idempotency-key")
        try:
            answer = await self._acceptor.accept_body(body, key, intake=self._intake, is_lines=_is_lines(request))
        except MalformedJsonError as error:
            self._telemetry.events_refused(1, intake=self._intake, reason="malformed_json")
            return answers.wrong("malformed_json", f"the body is not valid JSON: {error}{_hint_at_lines(body)}")
        if not isinstance(answer, Accepted):
            return answers.no_room(answer)
        return answers.accepted_batch(answer, with_ids=with_ids == "true")

    def _unpacked(self, request: Request) -> AbstractAsyncContextManager[bytes]:
        inflater = inflater_for(request.headers.get("content-encoding"))
        return unpacked(request.body, inflater, max_bytes=self._max_body_bytes, budget=self._budget)

    def _refuse(self, code: SharedCode) -> Answer:
        self._telemetry.events_refused(1, intake=self._intake, reason=code)
        self._telemetry.request_refused(code)
        return answers.refusal(code)


def _is_lines(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() in _LINES_TYPES


def _hint_at_lines(body: bytes) -> str:
    looks_like_lines = json_text.bare(body)[:1] == b"{" and b"\n{" in body
    return "; for one object a line, send Content-Type: application/x-ndjson" if looks_like_lines else ""
