"""Who gets what a tap shows, also if that changes while a read waits."""

import asyncio
import json

import pytest

from forwarder.event import Event
from forwarder.intake.operations import Asked
from forwarder.intake.tap_routes import TapRoutes
from forwarder.observing.tap import READ_SECONDS
from forwarder.observing.telemetry import Telemetry
from forwarder.words import RequestCode
from tests.fakes.virtual_time import in_virtual_time


@in_virtual_time
@pytest.mark.parametrize("stays", [True, False])
async def test_who_is_no_operator_any_more_when_a_read_is_answered_gets_nothing(stays: bool) -> None:
    telemetry = Telemetry()
    routes = TapRoutes(telemetry).operations
    lacks: RequestCode | None = None

    def asked(tap_id: int = 0, body: bytes = b"") -> Asked:
        return Asked(tap_id, {}, body, lambda: lacks, lambda: 7)

    opened = await routes["/v1/tap"].ask(asked(body=b'{"payloads":true}'))
    tap_id = int(json.loads(opened.body)["id"])
    reading = asyncio.create_task(routes["/v1/tap/ID"].ask(asked(tap_id)))
    await asyncio.sleep(READ_SECONDS / 2)  # of virtual time
    assert not reading.done()
    lacks = None if stays else "forbidden_user"
    telemetry.taps.accepted([Event(1, "c-1", "Add To Cart", b'{"secret":1}', 1e9)], intake="http")
    answer = await reading
    assert answer.status == (200 if stays else 403)
    assert (b"secret" in answer.body) is stays
    telemetry.taps.close()
