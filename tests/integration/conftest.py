"""Which event loops the tests run under: uvloop as well where `BOTH_LOOPS = True`. A test may move their clocks."""

import asyncio
from collections.abc import Callable, Mapping

import pytest

from tests.fakes.passing_time import LOOPS


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    both = isinstance(item, pytest.Function) and getattr(item.module, "BOTH_LOOPS", False)
    return {name: LOOPS[name] for name in list(LOOPS)[: None if both else 1]}
