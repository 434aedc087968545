"""The loop's lag, measured in virtual time."""

import asyncio

import pytest

from forwarder.delivery.pacing import BUSY_INTERVAL_SECONDS, WAITS_OF_AN_ATTEMPT, LagTimer
from tests.fakes.virtual_time import VirtualTimeLoop, in_virtual_time, turns


@in_virtual_time
async def test_the_lag_is_that_of_the_timers_while_each_is_so_late() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    lag = LagTimer(while_=lambda: True)
    lag.measure()
    for _ in range(100):
        await asyncio.sleep(BUSY_INTERVAL_SECONDS / 2)
        loop.stand_still(BUSY_INTERVAL_SECONDS / 2 + 0.011)
    assert lag.seconds == pytest.approx(WAITS_OF_AN_ATTEMPT * 0.010, rel=0.2)
    lag.stop()


@in_virtual_time
async def test_a_loop_that_is_never_late_has_no_lag() -> None:
    lag = LagTimer(while_=lambda: True)
    lag.measure()
    await asyncio.sleep(10 * BUSY_INTERVAL_SECONDS)
    assert lag.seconds == 0.0
    lag.stop()


@in_virtual_time
async def test_it_is_measured_only_while_that_matters_and_from_when_it_matters_again() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    matters = False
    lag = LagTimer(while_=lambda: matters)
    for _ in range(2):
        lag.measure()
        lag.measure()
        before = turns()
        await asyncio.sleep(3600.0)
        assert turns() - before <= 3, "one timer, and this test's own"
    matters = True
    lag.measure()
    before = turns()
    await asyncio.sleep(100.5 * BUSY_INTERVAL_SECONDS)
    assert turns() - before >= 100
    lag.stop()
    before = turns()
    await asyncio.sleep(3600.0)
    assert turns() - before <= 2
