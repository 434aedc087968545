"""Without an open tap, an event makes no call for it: calls are counted in the whole app, as the interpreter sees them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import aiohttp
import pytest

from forwarder.observing import tap as module
from forwarder.observing.tap import TapRequest
from forwarder.sandbox.faults import Faults
from forwarder.words import TapEnd
from tests.integration.test_app import event_text, running, until

EVENTS = 20
MOST_CALLS = 16
"""Of functions of taps for one event that is accepted and delivered while a tap with payloads is open."""


@contextmanager
def counting() -> Iterator[list[str]]:
    """Yield the names of the functions of taps that are called while the block runs, as they are called."""
    called: list[str] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        # All that happens to an event happens on the loop's thread; the database's knows no taps.
        if event == "call" and (frame.f_code.co_filename == module.__file__ or "_tell_taps" in frame.f_code.co_name):
            called.append(frame.f_code.co_qualname)

    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("kind", ["disk", "memory"])
@pytest.mark.parametrize("faults", [Faults(), Faults(fail_rate=1, fail_status=422), Faults(fail_rate=0.5)])
@pytest.mark.parametrize("why", ["closed", "unread"])
async def test_an_event_makes_no_call_before_a_tap_is_opened_nor_after_it_was_closed_or_abandoned(
    tmp_path: Path, kind: str, faults: Faults, why: TapEnd
) -> None:
    async with (
        running(faults, directory=tmp_path if kind == "disk" else None) as (app, _, base),
        aiohttp.ClientSession() as http,
    ):

        async def calls() -> int:
            with counting() as called:
                before = app.telemetry.attempts["delivered"] + app.telemetry.attempts["rejected"]
                for number in range(EVENTS):
                    body = event_text("{}", product=str(number)).encode()
                    async with http.post(f"{base}/track/event", data=body) as answer:
                        assert answer.status == 200
                await until(
                    lambda: app.telemetry.attempts["delivered"] + app.telemetry.attempts["rejected"] - before >= EVENTS,
                    "all are tried",
                )
            return len(called)

        assert await calls() == 0
        tap = app.telemetry.taps.begin(TapRequest(with_payloads=True))
        with_tap = await calls()
        assert with_tap > 2 * EVENTS
        assert faults != Faults() or with_tap <= MOST_CALLS * EVENTS
        app.telemetry.taps.end(tap, why)
        assert await calls() == 0
