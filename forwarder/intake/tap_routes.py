"""The endpoints of taps, on the control socket alone: open one, read it again and again, close it.

A read is answered when there are lines, at the latest after a few seconds (long polling), so a reader that does not ask is
slow or gone. Each read looks anew whether its client is an operator. A tap is only for the user who opened it: if it shows
payloads, the log says who that was.
"""

from typing import Annotated, ClassVar, Final

from msgspec import Meta, field

from forwarder.growlytics.contract import lane_of_customer
from forwarder.http.messages import Answer
from forwarder.intake import answers
from forwarder.intake.operations import MAX_ID_DIGITS, Asked, Id, Operation, Operations, Question
from forwarder.observing.tap import TapRequest, TooManyTapsError
from forwarder.observing.telemetry import Telemetry

_MAX_FILTERS: Final = 100
_MAX_FILTER_CHARACTERS: Final = 10_000
_FILTERS: Final = f"a list of at most {_MAX_FILTERS} texts of at most {_MAX_FILTER_CHARACTERS} characters"
_Filters = Annotated[
    list[Annotated[str, Meta(max_length=_MAX_FILTER_CHARACTERS)]],
    Meta(max_length=_MAX_FILTERS),
]


class _TapToOpen(Question):
    payloads: bool = False
    names: _Filters = field(default_factory=list)
    customers: _Filters = field(default_factory=list)

    example: ClassVar = '{"payloads": false}'
    explained: ClassVar = {"payloads": "true or false", "names": _FILTERS, "customers": _FILTERS}


class _TapToClose(Question):
    id: Id

    example: ClassVar = '{"id": "1"}'
    explained: ClassVar = {"id": f"the id of a tap, a decimal number of 1 to {MAX_ID_DIGITS} digits, as text"}


class TapRoutes:
    """Answers requests for the taps of `telemetry`."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._taps = telemetry.taps
        self.operations: Operations = {
            "/v1/tap": Operation("POST", self._open, is_guarded=True),
            "/v1/tap/ID": Operation("GET", self._read, is_guarded=True),
            "/v1/tap/close": Operation("POST", self._close, is_guarded=True),
        }

    async def _open(self, asked: Asked) -> Answer:
        wanted = _TapToOpen.of_body(asked.body)
        request = TapRequest(
            with_payloads=wanted.payloads,
            names=frozenset(wanted.names),
            customers=frozenset(map(lane_of_customer, wanted.customers)),
            user=asked.user(),
        )
        if self._taps.is_closed:
            return answers.refusal("shutting_down")
        try:
            tap = self._taps.begin(request)
        except TooManyTapsError:
            self._telemetry.request_refused("too_many_taps")
            return answers.refusal("too_many_taps")
        self._telemetry.tap_opened(tap)
        return answers.content({"id": str(tap.id)})

    async def _read(self, asked: Asked) -> Answer:
        tap = self._taps.find(asked.event_id, user=asked.user())
        if tap is None:
            return answers.refusal("shutting_down" if self._taps.is_closed else "not_found")
        read = await self._taps.read(tap)
        asked.demand_operator()  # control.group may have changed meanwhile
        return answers.content({"lines": read.lines, "lost": read.lost, "ended": read.ended})

    async def _close(self, asked: Asked) -> Answer:
        tap = self._taps.find(int(_TapToClose.of_body(asked.body).id), user=asked.user())
        if tap is None:
            return answers.refusal("not_found")
        self._taps.end(tap, "closed")
        return answers.content({"closed": True})
