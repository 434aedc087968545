"""Tells systemd that a service of `Type=notify` is ready, alive or stopping, with one line of status.

It sends datagrams to the socket that NOTIFY_SOCKET names, see sd_notify(3). Invariants: without that variable nothing is
sent; nothing fails or takes longer than _SEND_SECONDS, whatever happens to the socket. The sign of life comes from a task of
the event loop, so a loop that hangs gives none. Used by `process`.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

_STATUS_SECONDS: Final = 5.0
_SEND_SECONDS: Final = 0.2


class Systemd:
    """Sends to systemd if it started this process. `environment` is that of the process."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # in the abstract namespace
            self._address = "\0" + self._address[1:]
        self._watchdog_seconds = _watchdog_seconds(environment)

    def ready(self) -> None:
        """Tell that the service has started."""
        self._send("READY=1")

    def stopping(self, *, within_seconds: float) -> None:
        """Tell that the service is stopping, and how long that may take, regardless of TimeoutStopSec."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round(within_seconds * 1e6)}")

    async def serve(self, status: Callable[[], str]) -> None:
        """Until cancelled, send the status, and a sign of life twice as often as the watchdog demands."""
        if not self._address:
            return
        watched = self._watchdog_seconds is not None
        seconds = min(_STATUS_SECONDS, (self._watchdog_seconds or _STATUS_SECONDS * 2) / 2)
        while True:
            self._send(*(("WATCHDOG=1",) if watched else ()), f"STATUS={' '.join(status().split())}")
            await asyncio.sleep(seconds)

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # ValueError: the address is not valid.
        with suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.settimeout(_SEND_SECONDS)
            notify.sendto("\n".join(lines).encode(), self._address)


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """Return how often systemd demands a sign of life; None if it does not."""
    if environment.get("WATCHDOG_PID", pid := str(os.getpid())) != pid:
        return None
    with suppress(ValueError):
        if (microseconds := int(environment.get("WATCHDOG_USEC", ""))) > 0:
            return microseconds / 1e6
    return None
