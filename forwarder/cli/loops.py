"""Which event loop a command runs on."""

import asyncio
from collections.abc import Callable
from importlib.util import find_spec

from forwarder.words import LoopName


class LoopMissingError(Exception):
    """uvloop was asked for and is not installed."""


def loop_factory(name: LoopName) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes the event loop; `auto` is uvloop if that is installed. Raises LoopMissingError."""
    if name == "asyncio" or (name == "auto" and find_spec("uvloop") is None):
        return asyncio.new_event_loop
    try:
        import uvloop
    except ImportError:
        raise LoopMissingError(
            "loop: uvloop is not installed; pip install 'growlytics-forwarder[speed]', or set loop to auto"
        ) from None
    return uvloop.new_event_loop
