"""Which event loops tests run under: a module with `BOTH_LOOPS = True` under uvloop as well."""

import asyncio
from collections.abc import Callable, Mapping

import pytest

from tests.bench.helpers import loop_factory
from tests.bench.rows import LOOPS


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    both = isinstance(item, pytest.Function) and getattr(item.module, "BOTH_LOOPS", False)
    return {name: loop_factory(name) for name in LOOPS[: None if both else 1]}
