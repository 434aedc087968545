"""What systemd wants to know of a service of `Type=notify`: that it is ready, alive and stopping, and one line about it.

Datagrams to the socket that NOTIFY_SOCKET names, as sd_notify(3) describes them. Invariants: where the variables are not set
nothing happens at all; nothing here ever fails or waits for longer than _SEND_SECONDS, whatever has become of the socket. A
sign of life comes from a task of the event loop, so that a loop that hangs gives none. Used by the process.
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
    """Whoever started this process, if that was systemd. `environment` is the process's."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # of the abstract namespace
            self._address = "\0" + self._address[1:]
        self._watchdog_seconds = _watchdog_seconds(environment)

    def ready(self) -> None:
        """Tell that the service has started."""
        self._send("READY=1")

    def stopping(self, *, within_seconds: float) -> None:
        """Tell that the service stops, and how long that may take, whatever TimeoutStopSec says."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round(within_seconds * 1e6)}")

    async def serve(self, status: Callable[[], str]) -> None:
        """Show a line of status, and give a sign of life twice as often as the watchdog wants one, until cancelled."""
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
        # Also ValueError, for an address that can be none.
        with suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.settimeout(_SEND_SECONDS)
            notify.sendto("\n".join(lines).encode(), self._address)


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """Return within what time systemd wants a sign of life of this process; None if it does not."""
    if environment.get("WATCHDOG_PID", pid := str(os.getpid())) != pid:
        return None
    with suppress(ValueError):
        if (microseconds := int(environment.get("WATCHDOG_USEC", ""))) > 0:
            return microseconds / 1e6
    return None
